package live_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// slowHost starts a server whose clients' queues are soon full, and keeps so much of every topic.
func slowHost(t testing.TB, opts live.Options, rules live.TopicOptions) *livetest.Host {
	opts.QueueSize, opts.QueueBytes = 16, 16<<10
	opts.Topics = func(string) live.TopicOptions { return rules }
	return livetest.Hosting{Buffer: 8 << 10}.Start(t, livetest.Open(opts))
}

// slowPeer is a client that reads so much in a second.
func slowPeer(h *livetest.Host, t testing.TB, v1 bool, pace int) *livetest.Client {
	return h.Connect(t, livetest.Dialing{V1: v1, Buffer: 8 << 10, Pace: pace})
}

// A topic that keeps history may for a while bring more than its clients take: they read on
// in the history at their own pace. Nobody is closed, nothing is lost, doubled or out of
// order.
func TestSlowClientsMissNothingOfATopicWithHistory(t *testing.T) {
	t.Parallel()
	const clients, pace, size = 50, 20_000, 1000
	const perSecond, seconds = 2 * pace / size, 2
	keepUp(t, clients, pace, size, perSecond, perSecond*seconds, live.Options{})
}

// keepUp publishes n numbers, half of which the clients can take meanwhile.
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

// With the options as they are by default a client may take nothing for two seconds of a
// busy topic.
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

// Without history, or where the application says so, a client that takes too little is closed.
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

// A history that is trimmed faster than the client reads leaves gaps, each in its place.
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
	told := "" // by a gap frame just before
	for last < n {
		f := p.Next()
		if f.Op == "gap" {
			if told != "" && offsetOf(f.At) <= offsetOf(told) { // more may be lost before a next one is to be had
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

func offsetOf(at string) int {
	n, _ := strconv.Atoi(at[strings.LastIndexByte(at, '.')+1:])
	return n
}

// After the reply to its unsubscribe a client hears nothing of the topic, also when it was
// catching up.
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

// Nothing runs on for a session that ends while it catches up.
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

// One client catches up with many topics at once, each in its order, and none waits for the
// end of another.
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

// moody is a broker whose history is not always to be had.
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

// While the broker is away a client that catches up waits, and nothing is lost.
func TestCatchingUpWaitsForTheHistory(t *testing.T) {
	t.Parallel()
	const n = 1000 // more than a topic holds itself
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

// The publications of a client itself are left out for it when it catches up, too.
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

// A subscription is answered also if the application ends it before its answer was due.
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

// Subscribing again to what is still on its way takes nothing away from it.
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

// Whatever clients on slow lines do at once: by the positions each can tell that it has had
// every publication once, in order.
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

// walk is what a wanderer knows of a topic.
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
		w.p.Say(livetest.Operation("subscribe", w.id, topic)) // again, which changes nothing
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

// follows checks that a position is the one after where the client is.
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

// answer reads to the answer of the last operation.
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

// A client that subscribes again while it catches up is told all the same what it has lost.
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
