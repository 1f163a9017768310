package live_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// slowHost starts a server whose clients' queues are soon full. history is how many publications
// every topic keeps.
func slowHost(t testing.TB, opts live.Options, rules live.TopicOptions) *livetest.Host {
	opts.QueueSize, opts.QueueBytes = 16, 16<<10
	opts.Topics = func(string) live.TopicOptions { return rules }
	return livetest.Hosting{Buffer: 8 << 10}.Start(t, livetest.Open(opts))
}

// slowPeer connects a client that reads perSecond bytes in a second.
func slowPeer(h *livetest.Host, t testing.TB, v1 bool, pace int) *livetest.Client {
	return h.Connect(t, livetest.Dialing{V1: v1, Buffer: 8 << 10, Pace: pace})
}

// On a topic with history more may be published for a while than its clients take. They read on in
// the history at their own pace. No client is closed, and all publications come once and in order.
func TestSlowClientsMissNothingOfATopicWithHistory(t *testing.T) {
	t.Parallel()
	const clients, pace, size = 50, 20_000, 1000
	const perSecond, seconds = 2 * pace / size, 2
	keepUp(t, clients, pace, size, perSecond, perSecond*seconds, live.Options{})
}

// keepUp publishes n numbers. Meanwhile the clients can take half of them.
func keepUp(t *testing.T, clients, pace, size, perSecond, n int, opts live.Options) {
	opts, sessions := livetest.Connected(opts)
	h := slowHost(t, opts, live.TopicOptions{History: n})
	var peers []*livetest.Client
	for i := range clients {
		p := slowPeer(h, t, i%2 == 0, pace).Attend()
		if err := h.Subscribe(livetest.Receive(t, sessions), "t"); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			p.Next() // hello
		}
		peers = append(peers, p)
	}
	h.PublishSlowly(t, "t", 1, n, size, perSecond)
	if behind := h.Stats().CatchingUp; behind != clients {
		t.Errorf("%d of %d clients catch up: the test is too easy", behind, clients)
	}
	for _, p := range peers {
		p.ExpectNumbers("t", 1, n)
	}
	livetest.Eventually(t, "that all have caught up", func() bool { return h.Stats().CatchingUp == 0 })
	h.PublishNumbers(t, "t", n+1, n+3, size)
	for _, p := range peers {
		p.ExpectNumbers("t", n+1, n+3)
	}
	if st := h.Stats(); st.Sessions != clients || st.QueueFull != 0 || st.Gaps != 0 || st.Dropped != 0 {
		t.Errorf("%+v", st)
	}
}

// With default options a client may take no bytes for two seconds, even on a busy topic.
func TestStallOfTwoSecondsCostsNothing(t *testing.T) {
	t.Parallel()
	const size, perSecond, n = 4000, 500, 1500
	livetest.AtOnce(t, func(g *livetest.Together) {
		for _, v1 := range []bool{false, true} {
			g.Run(fmt.Sprintf("v1=%v", v1), func(t *testing.T) {
				opts, sessions := livetest.Connected(live.Options{
					Topics: func(string) live.TopicOptions { return live.TopicOptions{History: n} },
				})
				h := livetest.Hosting{Buffer: 64 << 10}.Start(t, opts)
				p := h.Connect(t, livetest.Dialing{V1: v1, Buffer: 64 << 10}).Attend()
				h.Subscribe(livetest.Receive(t, sessions), "t")
				if v1 {
					p.Next() // hello
				}
				published := make(chan struct{})
				go func() {
					defer close(published)
					h.PublishSlowly(t, "t", 1, n, size, perSecond)
				}()
				defer func() { <-published }()
				p.ExpectNumbers("t", 1, 10)
				p.Line.Stall()
				time.Sleep(2 * time.Second)
				p.Line.Resume()
				p.ExpectNumbers("t", 11, n)
			})
		}
	})
}

// A client that takes too little is closed if the topic has no history, or if the application says
// so.
func TestFullQueueClosesWhereThereIsNothingToCatchUpWith(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]live.TopicOptions{
		"no history":                      {},
		"no history, OverflowCatchUp":     {Overflow: live.OverflowCatchUp},
		"no history, OverflowClose":       {Overflow: live.OverflowClose},
		"history and OverflowClose":       {History: 1000, Overflow: live.OverflowClose},
		"a history too short, and Closed": {History: 1, Overflow: live.OverflowClose},
	} {
		t.Run(name, func(t *testing.T) {
			ends := make(chan error, 1)
			opts, sessions := livetest.Connected(live.Options{OnClose: func(_ *live.Session, err error) { ends <- err }})
			h := slowHost(t, opts, rules)
			p := slowPeer(h, t, false, 0)
			h.Subscribe(livetest.Receive(t, sessions), "t")
			p.Line.Stall()
			for i := 0; h.Stats().QueueFull == 0 && i < 10_000; i++ {
				h.PublishNumbers(t, "t", i, i, 1000)
			}
			if err := livetest.Receive(t, ends); err != live.ErrQueueFull {
				t.Errorf("OnClose got %v", err)
			}
			p.Line.Resume()
			if before, code := p.Attend().Rest(); code != live.CloseQueueFull {
				t.Errorf("close code %d after %d messages", code, len(before))
			}
		})
	}
}

// If a history is trimmed faster than the client reads, the client is told of each gap in its
// place.
func TestHistoryThatIsTrimmedLeavesAGapInItsPlace(t *testing.T) {
	t.Parallel()
	const n = 3000
	livetest.AtOnce(t, func(g *livetest.Together) {
		for _, v1 := range []bool{false, true} {
			g.Run(fmt.Sprintf("v1=%v", v1), func(t *testing.T) { isTrimmed(t, v1, n) })
		}
	})
}

func isTrimmed(t *testing.T, v1 bool, n int) {
	opts, sessions := livetest.Connected(live.Options{})
	h := slowHost(t, opts, live.TopicOptions{History: 20})
	p := slowPeer(h, t, v1, 0)
	h.Subscribe(livetest.Receive(t, sessions), "t")
	p.Line.Stall()
	h.PublishNumbers(t, "t", 1, n/3, 500)
	p.Line.SetPace(400_000)
	p.Line.Resume()
	p.Attend()
	h.PublishSlowly(t, "t", n/3+1, n, 500, 2000)
	if v1 {
		p.Next() // hello
	}
	last, gaps := 0, 0
	told := "" // the position of a gap frame that has just come
	for last < n {
		f := p.Next()
		if f.Op == "gap" {
			if told != "" && offsetOf(f.At) <= offsetOf(told) { // another gap may follow before the next publication comes
				t.Errorf("a gap up to %s after one up to %s", f.At, told)
			}
			told = f.At
			gaps++
			continue
		}
		i := livetest.NumberOf(f.Data)
		switch {
		case i <= last:
			t.Fatalf("number %d after %d", i, last)
		case v1 && i > last+1 && told == "":
			t.Fatalf("number %d after %d, without a gap", i, last)
		case v1 && told != "" && offsetOf(told) != i-1:
			t.Errorf("a gap up to %s before number %d", told, i)
		}
		last, told = i, ""
	}
	if v1 && gaps == 0 {
		t.Error("nothing was lost: the test is too easy")
	}
	if st := h.Stats(); st.QueueFull != 0 || v1 && st.Gaps != uint64(gaps) {
		t.Errorf("%d gaps; %+v", gaps, st)
	}
}

// offsetOf returns the offset in a position.
func offsetOf(at string) int {
	_, n := livetest.OffsetOf(at)
	return n
}

// After the reply to its unsubscribe a client hears no more publications of the topic. That holds
// also if it was catching up.
func TestUnsubscribedWhileCatchingUpHearsNothing(t *testing.T) {
	t.Parallel()
	const rounds, n, size = 15, 100, 1000
	h := slowHost(t, live.Options{}, live.TopicOptions{History: 10 * n})
	p := slowPeer(h, t, true, 300_000).Attend()
	p.Next() // hello
	for i := range rounds {
		topic := fmt.Sprint("t", i)
		p.Say(livetest.Operation("subscribe", 2*i+1, topic))
		p.Reply(2*i + 1)
		h.PublishNumbers(t, topic, 1, n, size)
		behind := h.Stats().CatchingUp > 0
		p.Say(livetest.Operation("unsubscribe", 2*i+2, topic))
		_, before := p.Reply(2*i + 2)
		for j, f := range before {
			if f.Topic != topic || livetest.NumberOf(f.Data) != j+1 {
				t.Fatalf("got %s, want number %d of %s", &f, j+1, topic)
			}
		}
		if !behind || len(before) == n {
			t.Error("it was not catching up: the test is too easy")
		}
		h.PublishNumbers(t, topic, n+1, n+1, size)
	}
	p.Say(livetest.Operation("unsubscribe", 1_000_000, "t"))
	if _, before := p.Reply(1_000_000); len(before) > 0 {
		t.Errorf("heard %s", &before[0])
	}
	if st := h.Stats(); st.CatchingUp != 0 || st.Topics != 0 || st.Subscriptions != 0 {
		t.Errorf("%+v", st)
	}
}

// When a session ends while it catches up, its goroutines end too.
func TestEndWhileCatchingUpLeavesNothing(t *testing.T) {
	noGoroutinesLeft(t)
	const n, topics = 200, 5
	for name, end := range map[string]func(p *livetest.Client, s *live.Session){
		"reset":         func(p *livetest.Client, _ *live.Session) { p.Reset() },
		"FIN":           func(p *livetest.Client, _ *live.Session) { p.Line.Close() },
		"client closes": func(p *livetest.Client, _ *live.Session) { p.Write(livetest.Masked(livetest.CloseFrame, "\x03\xe8")) },
		"server closes": func(_ *livetest.Client, s *live.Session) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			opts, sessions := livetest.Connected(live.Options{WriteTimeout: time.Second})
			h := slowHost(t, opts, live.TopicOptions{History: n})
			p := slowPeer(h, t, true, 0)
			s := livetest.Receive(t, sessions)
			for i := range topics {
				h.Subscribe(s, fmt.Sprint("t", i))
			}
			for i := range topics {
				h.PublishNumbers(t, fmt.Sprint("t", i), 1, n, 1000)
			}
			livetest.Eventually(t, "catching up", func() bool { return h.Stats().CatchingUp == topics })
			end(p, s)
			livetest.Eventually(t, "the end", func() bool {
				st := h.Stats()
				return st.Sessions == 0 && st.CatchingUp == 0 && st.Topics == 0
			})
			p.Line.Close()
			h.PublishNumbers(t, "t0", n+1, n+1, 10)
		})
	}
}

// One client catches up with many topics at once. Each topic is in order, and no topic waits until
// another is done.
func TestManyTopicsAreCaughtUpWithAtOnce(t *testing.T) {
	t.Parallel()
	const topics, n, size = 100, 30, 500
	for _, v1 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v1=%v", v1), func(t *testing.T) {
			opts, sessions := livetest.Connected(live.Options{})
			h := slowHost(t, opts, live.TopicOptions{History: 2 * n})
			p := slowPeer(h, t, v1, 0)
			p.Line.Stall()
			s := livetest.Receive(t, sessions)
			for i := range topics {
				h.Subscribe(s, fmt.Sprint(i))
			}
			for number := 1; number <= n; number++ {
				for i := range topics {
					h.PublishNumbers(t, fmt.Sprint(i), number, number, size)
				}
			}
			if behind := h.Stats().CatchingUp; behind < topics/2 {
				t.Errorf("%d subscriptions catch up: the test is too easy", behind)
			}
			p.Line.Resume()
			p.Attend()
			if v1 {
				p.Next() // hello
			}
			last := make(map[string]int)
			for range topics * n {
				f := p.Next()
				if last[f.Topic]++; livetest.NumberOf(f.Data) != last[f.Topic] {
					t.Fatalf("got %s, want number %d", &f, last[f.Topic])
				}
			}
			livetest.Eventually(t, "that all are live", func() bool { return h.Stats().CatchingUp == 0 })
			s.Send(live.Message{Topic: "end"})
			if f := p.Next(); f.Topic != "end" {
				t.Errorf("got %s", &f)
			}
		})
	}
}

// moody is a broker whose history cannot be read at some times.
type moody struct {
	*remote
	fails atomic.Bool
	asked atomic.Int64
}

func (m *moody) Read(ctx context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	m.asked.Add(1)
	if m.fails.Load() {
		return broker.Page{}, errors.New("away")
	}
	return m.remote.Read(ctx, topic, after, upto, limit)
}

// While the broker is away, a client that catches up waits. No publication is lost.
func TestCatchingUpWaitsForTheHistory(t *testing.T) {
	t.Parallel()
	const n = 1000 // more than the feed of a topic holds
	br := &moody{remote: newRemote()}
	opts, sessions := livetest.Connected(live.Options{Broker: br})
	h := slowHost(t, opts, live.TopicOptions{History: 2 * n})
	p := slowPeer(h, t, true, 0)
	h.Subscribe(livetest.Receive(t, sessions), "t")
	p.Line.Stall()
	h.PublishNumbers(t, "t", 1, n, 500)
	br.fails.Store(true)
	p.Line.Resume()
	p.Attend().Next() // hello
	livetest.Eventually(t, "questions in vain", func() bool { return br.asked.Load() > 5 })
	br.fails.Store(false)
	p.ExpectNumbers("t", 1, n)
	if st := h.Stats(); st.Gaps != 0 {
		t.Errorf("%+v", st)
	}
}

// A client does not get its own publications while it catches up either.
func TestExceptHoldsWhileCatchingUp(t *testing.T) {
	t.Parallel()
	const n = 200
	opts, sessions := livetest.Connected(live.Options{})
	h := slowHost(t, opts, live.TopicOptions{History: 2 * n})
	p := slowPeer(h, t, true, 0)
	s := livetest.Receive(t, sessions)
	h.Subscribe(s, "t")
	p.Line.Stall()
	for i := 1; i <= n; i++ {
		var o []live.PublishOption
		if i%3 == 0 {
			o = append(o, live.Except(s))
		}
		h.Publish("t", []byte(livetest.Padded(i, 1000)), o...)
	}
	p.Line.Resume()
	p.Attend().Next() // hello
	for i := 1; i <= n; i++ {
		if i%3 != 0 {
			p.ExpectNumbers("t", i, i)
		}
	}
}

// A subscribe is answered even if the application unsubscribes the client before the answer was
// due.
func TestSubscriptionThatIsEndedMeanwhileIsAnswered(t *testing.T) {
	t.Parallel()
	const n = 300
	opts, sessions := livetest.Connected(live.Options{})
	h := slowHost(t, opts, live.TopicOptions{History: n})
	p := slowPeer(h, t, true, 0)
	p.Line.Stall()
	s := livetest.Receive(t, sessions)
	h.Subscribe(s, "other")
	h.PublishNumbers(t, "other", 1, n, 1000)
	h.PublishNumbers(t, "t", 1, 1, 10)
	p.Say(livetest.Operation("subscribe", 1, "t", "last", 1))
	livetest.Eventually(t, "the subscription", func() bool { return h.Stats().Subscriptions == 2 })
	h.Unsubscribe(s, "t")
	p.Say(livetest.Operation("unsubscribe", 2, "t"))
	p.Line.Resume()
	p.Attend()
	answers := map[int]bool{}
	for len(answers) < 2 {
		f := p.Next()
		if f.Op == "reply" || f.Op == "error" {
			answers[f.ID] = true
		}
		if answers[2] && !answers[1] {
			t.Fatal("the second operation was answered, the first was not")
		}
	}
}

// A client that catches up on a topic may subscribe to it again. It still gets every publication.
func TestSubscribingAgainWhileCatchingUpLosesNothing(t *testing.T) {
	t.Parallel()
	const n = 100
	for _, more := range [][]any{{}, {"last", 5}} {
		t.Run(fmt.Sprint(more...), func(t *testing.T) {
			h := slowHost(t, live.Options{}, live.TopicOptions{History: n})
			h.PublishNumbers(t, "t", 1, n, 1000)
			p := slowPeer(h, t, true, 0).Attend()
			p.Next() // hello
			p.Say(livetest.InOneFrame(livetest.Operation("subscribe", 1, "t", "last", n), livetest.Operation("subscribe", 2, "t", more...)))
			last := 0
			hear := func(number int) {
				if number > last+1 {
					t.Fatalf("number %d after %d", number, last)
				}
				last = max(last, number)
			}
			for last < n {
				f := p.Next()
				for _, m := range f.Messages {
					hear(livetest.NumberOf(m.Data))
				}
				if f.Op == "" {
					hear(livetest.NumberOf(f.Data))
				}
			}
		})
	}
}

// Clients with slow connections do many things at once. The positions tell each client that it has
// had every publication once, in order.
func TestClientsThatComeAndGoMissNothing(t *testing.T) {
	t.Parallel()
	const clients, topics, steps = 12, 3, 25
	h := slowHost(t, live.Options{InboundRate: -1}, live.TopicOptions{History: 100_000})
	stop := make(chan struct{})
	var publishing, all sync.WaitGroup
	for i := range topics {
		publishing.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rand.IntN(4)) * time.Millisecond):
					h.PublishNumbers(t, fmt.Sprint(i), n, n, 10+rand.IntN(400))
				}
			}
		})
	}
	for range clients {
		all.Go(func() {
			w := &wanderer{t: t, h: h, topics: make(map[string]*walk)}
			w.connect()
			for range steps {
				w.step(fmt.Sprint(rand.IntN(topics)))
			}
			w.p.Reset()
		})
	}
	all.Wait()
	close(stop)
	publishing.Wait()
}

// wanderer is a client of live.v1 that subscribes and unsubscribes, leaves and comes back.
type wanderer struct {
	t      *testing.T
	h      *livetest.Host
	p      *livetest.Client
	id     int
	topics map[string]*walk
}

// walk is the state of a wanderer's subscription to one topic.
type walk struct {
	at         string // the newest position
	subscribed bool
}

func (w *wanderer) connect() {
	w.p = slowPeer(w.h, w.t, true, 50_000+rand.IntN(400_000)).Attend()
	w.p.Next() // hello
}

func (w *wanderer) step(topic string) {
	at := w.topics[topic]
	if at == nil {
		at = new(walk)
		w.topics[topic] = at
	}
	w.id++
	switch {
	case rand.IntN(10) == 0: // leaves and comes back
		w.p.Reset()
		w.connect()
		for topic, at := range w.topics {
			if at.subscribed {
				w.id++
				w.subscribe(topic, at)
			}
		}
	case at.subscribed && rand.IntN(3) == 0:
		w.p.Say(livetest.Operation("unsubscribe", w.id, topic))
		w.answer()
		at.subscribed = false
	case !at.subscribed:
		w.subscribe(topic, at)
	case rand.IntN(5) == 0:
		w.p.Say(livetest.Operation("subscribe", w.id, topic)) // subscribing again changes nothing
		if f := w.answer(); f.At != at.at {
			w.t.Errorf("%s, though the client is at %s", f, at.at)
		}
	default:
		for range rand.IntN(20) {
			w.hear(w.p.Next())
		}
	}
}

func (w *wanderer) subscribe(topic string, at *walk) {
	since := at.at
	switch {
	case since != "":
		more := []any{"since", since}
		if rand.IntN(2) == 0 {
			more = append(more, "last", 5)
		}
		w.p.Say(livetest.Operation("subscribe", w.id, topic, more...))
	case rand.IntN(2) == 0:
		w.p.Say(livetest.Operation("subscribe", w.id, topic, "last", 1+rand.IntN(500)))
	default:
		w.p.Say(livetest.Operation("subscribe", w.id, topic))
	}
	f := w.answer()
	if since != "" && (f.Recovered == nil || !*f.Recovered) {
		w.t.Errorf("%s: all since %s is to be had", f, since)
	}
	at.subscribed = true
	for i, m := range f.Messages {
		if i > 0 || since != "" {
			w.follows(at, m.At)
		}
		at.at = m.At
	}
	if len(f.Messages) > 0 && f.At != at.at {
		w.t.Errorf("the reply's position is %s, that of its last message %s", f.At, at.at)
	}
	at.at = f.At
}

// follows checks that a position comes directly after the client's position.
func (w *wanderer) follows(at *walk, next string) {
	if offsetOf(next) != offsetOf(at.at)+1 {
		w.t.Errorf("%s after %s", next, at.at)
	}
}

func (w *wanderer) hear(f livetest.Frame) {
	at := w.topics[f.Topic]
	switch {
	case f.Op != "":
		w.t.Errorf("got %s", &f)
	case at == nil || !at.subscribed:
		w.t.Errorf("got %s without a subscription", &f)
	default:
		w.follows(at, f.At)
		at.at = f.At
	}
}

// answer reads up to the answer of the last operation.
func (w *wanderer) answer() *livetest.Frame {
	for {
		f := w.p.Next()
		if f.Op == "" {
			w.hear(f)
			continue
		}
		if f.Op != "reply" || f.ID != w.id {
			w.t.Errorf("got %s as the answer to %d", &f, w.id)
		}
		return &f
	}
}

// If a client subscribes again while it catches up, it is still told of its gap.
func TestSubscribingAgainWhileCatchingUpHidesNoGap(t *testing.T) {
	t.Parallel()
	const again = 5
	for name, rules := range map[string]live.TopicOptions{
		"history": {History: 100},
		"oldest":  {History: 100, Overflow: live.OverflowDropOldest},
	} {
		for more, since := range map[string][]any{"": {}, "since": {"since", "here"}} {
			t.Run(name+more, func(t *testing.T) {
				b := new(renewed)
				opts, sessions := livetest.Connected(live.Options{Broker: b})
				h := slowHost(t, opts, rules)
				p := slowPeer(h, t, true, 200_000).Attend()
				h.Subscribe(livetest.Receive(t, sessions), "t")
				at, _ := b.Last(t.Context(), "t")
				for i, m := range since {
					if m == "here" {
						since[i] = at.String()
					}
				}
				h.PublishNumbers(t, "t", 1, 100, 1000)
				b.renew()
				h.PublishNumbers(t, "t", 101, 110, 1000)
				for id := range again {
					p.Say(livetest.Operation("subscribe", id+1, "t", since...))
				}
				last, told, answers := 0, false, 0
				for last < 110 || answers < again {
					f := p.Next()
					switch {
					case f.Op == "gap":
						told = true
					case f.Op == "reply":
						answers++
						if f.At == "" {
							t.Errorf("a reply without a position: %s", &f)
						}
						told = told || f.Recovered != nil && !*f.Recovered
						for _, m := range f.Messages {
							last = livetest.NumberOf(m.Data)
						}
					case f.Op == "":
						if i := livetest.NumberOf(f.Data); i > last+1 && !told {
							t.Fatalf("number %d after %d, without a gap", i, last)
						} else {
							last, told = i, false
						}
					}
				}
			})
		}
	}
}

// No publication is lost between the messages of last and the publications that follow. 900
// messages come in parts.
func TestLastWhilePublishing(t *testing.T) {
	for _, last := range []int{3, 400, 900} {
		t.Run(fmt.Sprint(last), func(t *testing.T) {
			server := livetest.NewHistoryServer(t, live.TopicOptions{History: 1500}, nil)
			at := livetest.Serve(t, server.Handler())
			livetest.PublishNumbers(t, server, "t", 0, 900)
			defer count(server, "t", 901)()
			livetest.Each(6, func(i int) {
				c := livetest.DialV1(t, at)
				for round := range 12 {
					f := c.Must(fmt.Sprintf(`{"op":"subscribe","id":1,"topic":"t","last":%d}`, last))
					data := livetest.DataOf(f.Messages)
					if len(data) < last {
						f.CheckMore(t)
					}
					for len(data) < last+round%5 {
						f := c.Next()
						if !f.IsPublication() || f.WasRecovered() != (len(data) < last) {
							t.Errorf("client %d, round %d: publication %d since last is %s", i, round, len(data), f.Raw)
							return
						}
						data = append(data, string(f.Data))
					}
					if len(data) != last+round%5 {
						t.Errorf("last of %d brought %d", last, len(data))
					}
					if hole := holeIn(data); hole != "" {
						t.Errorf("client %d, round %d: %s", i, round, hole)
						return
					}
					c.Send(livetest.UnsubscribeFrom(2, "t"))
					c.Answer()
				}
			})
		})
	}
}

// count publishes numbers from a given number on, until stop is called.
func count(server *live.Server, topic string, from int) (stop func() (last int)) {
	return countOn(server, topic, from, new(atomic.Int64))
}

// countOn is count, and it stores in newest the number that is published last, or about to be.
func countOn(server *live.Server, topic string, from int, newest *atomic.Int64) (stop func() (last int)) {
	var ended atomic.Bool
	var running sync.WaitGroup
	newest.Store(int64(from - 1))
	running.Go(func() {
		for i := from; !ended.Load(); i++ {
			newest.Store(int64(i))
			server.Publish(topic, fmt.Appendf(nil, `%d`, i))
			time.Sleep(500 * time.Microsecond)
		}
	})
	return func() int {
		ended.Store(true)
		running.Wait()
		return int(newest.Load())
	}
}

// holeIn returns a text that says where numbers do not follow one another, or "".
func holeIn(data []string) string {
	for i := 1; i < len(data); i++ {
		before, _ := strconv.Atoi(data[i-1])
		if data[i] != strconv.Itoa(before+1) {
			return fmt.Sprintf("after %s came %s", data[i-1], data[i])
		}
	}
	return ""
}

// Many clients come and go, in every way, while numbers are published. Each client gets every
// number once and in order, or is told of a gap.
func TestResumingWhilePublishing(t *testing.T) {
	for _, test := range []struct {
		name     string
		history  int
		complete bool
	}{
		{"all is kept", 20_000, true},
		{"little is kept", 8, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			const clients, rounds = 40, 8
			server := livetest.NewHistoryServer(t, live.TopicOptions{History: test.history}, nil)
			at := livetest.Serve(t, server.Handler())
			topics := []string{"a", "b", "c"}
			newest := make([]atomic.Int64, len(topics))
			var stops []func() int
			for i, topic := range topics {
				stops = append(stops, countOn(server, topic, 1, &newest[i]))
			}
			all := make([]*follower, clients)
			livetest.Each(clients, func(i int) {
				f := &follower{
					t: t, at: at, topic: topics[i%len(topics)], history: test.history, newest: &newest[i%len(topics)],
					rand: rand.New(rand.NewPCG(7, uint64(i))),
				}
				all[i] = f
				f.connect()
				for range rounds {
					f.readSome()
					switch f.rand.IntN(3) {
					case 0:
						f.c.Drop()
						f.c.Rest()
						f.connect()
					case 1:
						f.unsubscribe()
						f.subscribe()
					case 2:
						f.c.Send("[" + livetest.UnsubscribeFrom(5, f.topic) + "]")
						f.c.Drop() // the operation may have arrived or not
						f.c.Rest()
						f.connect()
					}
				}
			})
			gaps := 0
			for i, stop := range stops {
				last := stop()
				for _, f := range all {
					if f.topic == topics[i] {
						f.readTo(last)
						gaps += f.gaps
					}
				}
			}
			if test.complete && gaps > 0 {
				t.Errorf("%d gaps, though all is kept", gaps)
			}
			if !test.complete && gaps == 0 {
				t.Error("no gap, though little is kept: nothing was tested")
			}
		})
	}
}

// follower is a client that checks the numbers of a topic. The number in a publication is its
// offset.
type follower struct {
	t         testing.TB
	at        livetest.Endpoint
	topic     string
	history   int           // how many publications the topic keeps
	newest    *atomic.Int64 // see countOn
	rand      *rand.Rand
	c         *livetest.Client
	since     string
	next      int  // the number that is due; 0: it has not subscribed yet
	answering bool // missed numbers may still come
	gaps      int
}

func (f *follower) connect() {
	f.c = livetest.DialV1(f.t, f.at)
	f.subscribe()
}

func (f *follower) subscribe() {
	op := livetest.SubscribeTo(1, f.topic)
	if f.since != "" {
		op = livetest.ResumeFrom(1, f.topic, f.since)
	}
	reply := f.c.Must(op)
	f.answering = reply.WasRecovered()
	switch {
	case f.since == "":
		f.goOn(reply.At)
	case reply.WasRecovered():
		for _, m := range reply.Messages {
			f.take(string(m.Data), m.At)
		}
	default:
		f.lose(reply.At, f.next) // the history begins after that position
	}
	if f.since != reply.At {
		f.t.Errorf("the reply's position is %s, its last message's %s", reply.At, f.since)
	}
}

// goOn moves the follower to a position: the number after it is due.
func (f *follower) goOn(at string) {
	_, offset := livetest.OffsetOf(at)
	f.since, f.next = at, offset+1
}

// lose takes a gap up to a position. The gap is right only if the client has missed numbers, and
// the history has dropped the numbers up to dropped.
func (f *follower) lose(at string, dropped int) {
	f.gaps++
	if _, offset := livetest.OffsetOf(at); offset < f.next {
		f.t.Errorf("topic %s: a gap up to %s when %d was due", f.topic, at, f.next)
	}
	if newest := int(f.newest.Load()); newest < dropped+f.history {
		f.t.Errorf("topic %s: a gap up to %s when %d was due; with %d published the history has %d",
			f.topic, at, f.next, newest, dropped)
	}
	f.goOn(at)
}

func (f *follower) take(data, at string) {
	if data != strconv.Itoa(f.next) {
		f.t.Errorf("topic %s: %s came when %d was due", f.topic, data, f.next)
	}
	if want := "." + data; !strings.HasSuffix(at, want) {
		f.t.Errorf("%s has the position %s", data, at)
	}
	f.goOn(at)
}

// hear takes the next frame. Missed numbers come before new numbers.
func (f *follower) hear(m livetest.Frame) {
	switch {
	case m.Op == "gap" && m.Topic == f.topic:
		_, dropped := livetest.OffsetOf(m.At)
		f.lose(m.At, dropped)
	case !m.IsPublication() || m.Topic != f.topic || m.WasRecovered() && !f.answering:
		f.t.Errorf("topic %s: got %s when %d was due", f.topic, m.Raw, f.next)
	default:
		f.answering = m.WasRecovered()
		f.take(string(m.Data), m.At)
	}
}

func (f *follower) readSome() {
	for range f.rand.IntN(6) {
		f.hear(f.c.Next())
	}
}

func (f *follower) unsubscribe() {
	f.c.Send(livetest.UnsubscribeFrom(2, f.topic))
	_, before := f.c.Answer()
	for _, m := range before {
		f.hear(m)
	}
}

// readTo reads until a number has come.
func (f *follower) readTo(last int) {
	f.t.Helper()
	for f.next <= last {
		f.hear(f.c.Next())
	}
	if extra := f.c.Settled(); len(extra) != 0 {
		f.t.Errorf("then came %s", extra[0].Raw)
	}
}

// catchUpModes are the values of Overflow with which a slow client reads on in a topic's history.
var catchUpModes = map[string]live.Overflow{"default": live.OverflowDefault, "catch up": live.OverflowCatchUp}

// A client with a stalled connection is not closed, however much is published on topics with
// history. When its connection moves again it gets all that was published meanwhile, once and in
// order, and then new publications.
func TestSlowClientOfATopicWithHistoryMissesNothing(t *testing.T) {
	t.Parallel()
	const rounds, published = 3, 200 // 800 KB of each topic in a round, with a queue of 64 KB
	for name, mode := range catchUpModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := newTorrent(t, mode, rounds*published)
			topics := []string{"a", "b"}
			c := livetest.DialV1(t, f.line.Endpoint)
			for i, topic := range topics {
				c.Must(livetest.SubscribeTo(i+1, topic))
			}
			next := map[string]int{}
			n := 0
			for range rounds {
				f.line.Stall()
				for range published {
					for _, topic := range topics {
						f.publish(topic, n)
					}
					n++
				}
				if got := f.server.Stats().CatchingUp; got != len(topics) {
					t.Fatalf("%d topics catch up, want %d: nothing was tested", got, len(topics))
				}
				f.line.Resume()
				for next["a"] < n || next["b"] < n {
					m := c.Next()
					if !m.IsPublication() || m.Recovered != nil { // the client has not asked for recovered publications
						t.Fatalf("got %.100s", m.Raw)
					}
					if _, offset := livetest.OffsetOf(m.At); livetest.NumberOf(m.Data) != next[m.Topic] || offset != next[m.Topic]+1 {
						t.Fatalf("topic %s: %.20s at %s came when %d was due", m.Topic, m.Data, m.At, next[m.Topic])
					}
					next[m.Topic]++
				}
				livetest.Eventually(t, "the end of catching up", func() bool { return f.server.Stats().CatchingUp == 0 })
			}
			for _, topic := range topics {
				f.server.Publish(topic, []byte(`"new"`))
				c.Hears(topic, `"new"`)
			}
			if extra := c.Settled(); len(extra) != 0 {
				t.Errorf("then came %.100s", extra[0].Raw)
			}
			if st := f.server.Stats(); f.ended.Count() > 0 || st.Dropped != 0 || st.Gaps != 0 || st.QueueFull != 0 {
				t.Errorf("%d sessions ended; %d dropped, %d gaps, %d closed with a full queue", f.ended.Count(), st.Dropped, st.Gaps, st.QueueFull)
			}
		})
	}
}

// The same holds for a plain client, which knows nothing of histories.
func TestSlowPlainClientOfATopicWithHistoryMissesNothing(t *testing.T) {
	t.Parallel()
	const published = 500
	for name, mode := range catchUpModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := newTorrent(t, mode, published)
			c := livetest.Dial(t, f.line.Endpoint)
			c.Subscribe("t")
			f.line.Stall()
			for n := range published {
				f.publish("t", n)
			}
			f.line.Resume()
			for n := range published {
				if got, want := c.Read(), fmt.Sprintf(`{"topic":"t","data":"%d %s"}`, n, f.pad); got != want {
					t.Fatalf("publication %d is %.60s", n, got)
				}
			}
			livetest.Eventually(t, "the end of catching up", func() bool { return f.server.Stats().CatchingUp == 0 })
			f.server.Publish("t", []byte(`"new"`))
			livetest.Check(t, "the plain client", c.Read(), `{"topic":"t","data":"new"}`)
			if f.ended.Count() > 0 {
				t.Errorf("the session ended with %v", f.ended.Only(t))
			}
		})
	}
}

// If the history drops publications before a slow client reads them, the client is told of a gap
// in their place. After the gap's position no publication is missing, and the gap is not larger
// than what was dropped.
func TestSlowClientIsToldWhatTheHistoryHasDropped(t *testing.T) {
	t.Parallel()
	const history, rounds, published = 50, 3, 1000 // 4 MB in a round, more than the feed holds besides the history
	for name, mode := range catchUpModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := newTorrent(t, mode, history)
			c := livetest.DialV1(t, f.line.Endpoint)
			c.Must(livetest.SubscribeTo(1, "t"))
			next, n := 0, 0
			for round := range rounds {
				gaps := 0
				f.line.Stall()
				for range published {
					f.publish("t", n)
					n++
				}
				f.line.Resume()
				for next < n {
					m := c.Next()
					_, offset := livetest.OffsetOf(m.At)
					switch {
					case m.Op == "gap" && m.Topic == "t":
						if offset <= next || offset > n-history {
							t.Fatalf("a gap up to %s when %d was due; the history has %d of %d", m.At, next, history, n)
						}
						next = offset // numbers begin with 0, offsets with 1
						gaps++
					case !m.IsPublication() || m.Recovered != nil || livetest.NumberOf(m.Data) != next || offset != next+1:
						t.Fatalf("%.100s came when %d was due", m.Raw, next)
					default:
						next++
					}
				}
				if gaps == 0 {
					t.Errorf("round %d: no gap, so that nothing was tested", round)
				}
			}
			if f.ended.Count() > 0 {
				t.Errorf("the session ended with %v", f.ended.Only(t))
			}
		})
	}
}

// The same holds for a client that comes back and reads what it missed. The gap comes after the
// reply and after the publications that the server had read by then.
func TestHistoryThatIsTrimmedWhileAClientComesBack(t *testing.T) {
	t.Parallel()
	const history, more, perSecond = 300, 700, 512 << 10
	for _, asked := range askedFor {
		if asked.name == "history" {
			continue
		}
		t.Run(asked.name, func(t *testing.T) {
			t.Parallel()
			opts := livetest.Permissive()
			opts.QueueBytes = 64 << 10
			opts.Topics = livetest.Keeping("", live.TopicOptions{History: history})
			server := livetest.NewServer(t, opts)
			slow := livetest.Through(t, livetest.ServeSmall(t, server.Handler()))
			c := livetest.DialV1(t, slow.Endpoint)
			epoch, _ := livetest.OffsetOf(c.Must(livetest.SubscribeTo(1, "t")).At)
			c.Must(livetest.UnsubscribeFrom(1, "t"))
			pad := strings.Repeat("x", torrentSize)
			publish := func(from, to int) {
				for n := from; n <= to; n++ {
					server.Publish("t", fmt.Appendf(nil, `"%d %s"`, n, pad))
				}
			}
			publish(1, history)
			slow.Slow(perSecond)
			reply := c.Must(asked.op(history, epoch))
			if asked.name == "since" && !reply.WasRecovered() {
				t.Fatalf("answered by %.100s", reply.Raw)
			}
			publish(history+1, history+more)
			slow.Slow(0)

			seen, gaps := 0, 0
			take := func(data []byte, at string) {
				if _, offset := livetest.OffsetOf(at); livetest.NumberOf(data) != seen+1 || offset != seen+1 {
					t.Fatalf("%.20s at %s came after %d", data, at, seen)
				}
				seen++
			}
			for _, m := range reply.Messages {
				take(m.Data, m.At)
			}
			if reply.At != fmt.Sprintf("%s.%d", epoch, seen) {
				t.Errorf("after %d messages the reply is at %s", seen, reply.At)
			}
			for seen < history+more {
				m := c.Next()
				if m.Op == "gap" && m.Topic == "t" {
					_, offset := livetest.OffsetOf(m.At)
					if offset <= seen || offset > more {
						t.Fatalf("a gap up to %s after %d; the history has what follows %d", m.At, seen, more)
					}
					seen = offset
					gaps++
					continue
				}
				take(m.Data, m.At)
				if m.WasRecovered() != (seen <= history) {
					t.Fatalf("%.100s; the client had asked for what came up to %d", m.Raw, history)
				}
			}
			if gaps == 0 { // there may be two gaps, because the client reads on while numbers are published
				t.Error("no gap, though the history was trimmed")
			}
		})
	}
}

// A client that is too slow is closed if there is no history to read on in, or if the application
// says so. With a history it gets the rest when it comes back.
func TestSlowClientIsClosed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		mode    live.Overflow
		history int
	}{
		{"default, no history", live.OverflowDefault, 0},
		{"catch up, no history", live.OverflowCatchUp, 0},
		{"close, no history", live.OverflowClose, 0},
		{"close, with history", live.OverflowClose, 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			const published = 200
			f, at := newTorrent(t, test.mode, test.history)
			c := livetest.DialV1(t, f.line.Endpoint)
			since := c.Must(livetest.SubscribeTo(1, "t")).At
			f.line.Stall()
			for n := range published {
				f.publish("t", n)
			}
			if err := f.ended.Only(t); err != live.ErrQueueFull {
				t.Errorf("OnClose got %v, want ErrQueueFull", err)
			}
			f.line.Resume()
			got, code := c.Rest()
			if code != live.CloseQueueFull {
				t.Errorf("close code %d (%v), want 4100", code, c.Err())
			}
			if len(got) == published {
				t.Error("all was heard, so that nothing was tested")
			}
			for i, text := range got {
				m, err := livetest.ParseFrame(text.Raw)
				if err != nil || !m.IsPublication() || livetest.NumberOf(m.Data) != i {
					t.Fatalf("frame %d is %.100s", i, text)
				}
				since = m.At
			}
			if test.history == 0 {
				return
			}
			reply := livetest.DialV1(t, at).Recovers(livetest.ResumeFrom(1, "t", since), published)
			if !reply.WasRecovered() || len(reply.Messages) != published-len(got) {
				t.Fatalf("%d came after %d of %d: %.200s", len(reply.Messages), len(got), published, reply.Raw)
			}
			for i, m := range reply.Messages {
				if livetest.NumberOf(m.Data) != len(got)+i {
					t.Fatalf("%.20s came when %d was due", m.Data, len(got)+i)
				}
			}
		})
	}
}

// While many clients come back and are sent what they have missed, publishing goes on.
func TestPublishDoesNotWaitForThoseWhoResume(t *testing.T) {
	const clients, missed, size = 200, 1000, 100
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: missed} },
	}))
	h.PublishNumbers(t, "t", 1, missed, size)
	ask := func(p *livetest.Client) { p.Say(livetest.Operation("subscribe", 1, "t", "last", missed)) }
	first := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	ask(first)
	first.Reply(1) // now the feed of the topic holds as much
	var peers []*livetest.Client
	for range clients {
		p := h.Connect(t, livetest.Dialing{V1: true})
		go io.Copy(io.Discard, p.Conn) // ends with the connection
		peers = append(peers, p)
	}
	for _, p := range peers {
		go ask(p)
	}
	sent := func() (bytes int64) {
		for _, p := range peers {
			bytes += p.Line.BytesRead()
		}
		return bytes
	}
	var took []time.Duration
	for begun := time.Now(); sent() < clients*missed*size && time.Since(begun) < livetest.Patience/2; {
		begun := time.Now()
		h.PublishNumbers(t, "t", 1, 1, 10)
		took = append(took, time.Since(begun))
		time.Sleep(time.Millisecond)
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 20*time.Millisecond {
		t.Errorf("half of %d publications took more than %v", len(took), median)
	}
}
