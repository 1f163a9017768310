package live_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// hall is a server with sessions, whose clients read.
type hall struct {
	*testing.T
	*live.Server
	*remote
	url      string
	sessions chan *live.Session
}

func newHall(t *testing.T, rules live.TopicOptions) *hall {
	h := &hall{T: t, remote: newRemote()}
	opts, sessions := livetest.Connected(keeping(h.remote, rules))
	h.sessions = sessions
	h.Server, h.url = serve(t, opts)
	return h
}

// publish publishes the numbers from one to another.
func (h *hall) publish(from, to int) {
	h.Helper()
	for i := from; i <= to; i++ {
		if err := h.Server.Publish("t", fmt.Append(nil, i)); err != nil {
			h.Fatal(err)
		}
	}
}

// stay keeps the topic in the index.
func (h *hall) stay() {
	h.Helper()
	if _, err := h.Listen("t", func(live.Message) {}); err != nil {
		h.Fatal(err)
	}
}

// expectLast has a new client subscribe, which is to get the numbers from one to
// another; and the broker asked so many times.
func (h *hall) expectLast(n, from, to, tails int) {
	h.Helper()
	before := h.tail.Load()
	c, s := pair(h.T, h.url, h.sessions)
	if err := h.Server.Subscribe(s, "t", live.Last(n)); err != nil {
		h.Fatal(err)
	}
	s.Send(live.Message{Topic: "end"})
	var got, want []string
	for ended := false; !ended || len(got) <= to-from; { // many come in parts, between which there is time for others
		if m := c.Next(); m.Topic == "end" {
			ended = true
		} else {
			got = append(got, string(m.Data))
		}
	}
	for i := from; i <= to; i++ {
		want = append(want, fmt.Sprint(i))
	}
	if !slices.Equal(got, want) {
		h.Errorf("the newest %d are %v, want %d to %d", n, got, from, to)
	}
	if asked := h.tail.Load() - before; asked != int64(tails) {
		h.Errorf("for the newest %d the broker was asked %d times, want %d", n, asked, tails)
	}
}

func (h *hall) expectHistory(n, from, to, tails int) {
	h.Helper()
	before := h.tail.Load()
	messages, err := h.History(h.Context(), "t", n)
	if err != nil {
		h.Fatal(err)
	}
	var got, want []string
	for _, m := range messages {
		got = append(got, string(m.Data))
	}
	for i := from; i <= to; i++ {
		want = append(want, fmt.Sprint(i))
	}
	if !slices.Equal(got, want) {
		h.Errorf("the history of %d is %v, want %d to %d", n, got, from, to)
	}
	if asked := h.tail.Load() - before; asked != int64(tails) {
		h.Errorf("for a history of %d the broker was asked %d times, want %d", n, asked, tails)
	}
}

func TestAThousandNewcomersCostOneQuestion(t *testing.T) {
	const clients = 1000
	h := newHall(t, live.TopicOptions{History: 200})
	var all []*live.Session
	for range clients {
		conn := dial(t, h.url).Conn
		go swallow(conn)
		all = append(all, livetest.Receive(t, h.sessions))
	}
	h.publish(1, 120)
	h.answer = func(context.Context, *broker.Page) error {
		time.Sleep(30 * time.Millisecond)
		h.publish(121, 121) // meanwhile
		return nil
	}
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(func() {
			if err := h.Server.Subscribe(s, "t", live.Last(50)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := h.tail.Load(); n != 1 {
		t.Errorf("the broker was asked %d times", n)
	}
	h.expectLast(50, 72, 121, 0)
	h.expectLast(200, 1, 121, 0) // the first question was for as much as the ring can hold
}

func TestShortHistoryIsAskedForOnce(t *testing.T) {
	h := newHall(t, live.TopicOptions{History: 100})
	h.publish(1, 3)
	h.expectLast(50, 1, 3, 1)
	h.expectLast(1000, 1, 3, 0)
	h.publish(4, 90)
	h.expectLast(1000, 1, 90, 0)
	h.expectLast(1, 90, 90, 0)
	h.publish(91, 120) // the ring is full
	h.expectLast(100, 21, 120, 0)
}

func TestEmptyTopicIsNotAskedFor(t *testing.T) {
	h := newHall(t, live.TopicOptions{History: 100})
	h.stay()
	h.expectLast(50, 1, 0, 0)
	h.publish(1, 2)
	h.expectLast(50, 1, 2, 0)
	h.expectHistory(50, 1, 2, 0)
}

// The broker may keep more than the server's rules say.
func TestRingGrowsToWhatClientsAskFor(t *testing.T) {
	h := newHall(t, live.TopicOptions{History: 10})
	h.keep = 5000
	h.publish(1, 30)
	h.stay()
	h.expectLast(5, 26, 30, 1)
	h.expectLast(10, 21, 30, 0)
	h.expectLast(20, 11, 30, 1)
	h.publish(31, 35)
	h.expectLast(20, 16, 35, 0)
	h.expectLast(50, 1, 35, 1)
	h.expectLast(1000, 1, 35, 0) // nothing is left to ask for
	h.publish(36, 40)            // pushes what the ring no longer holds
	h.expectLast(100, 1, 40, 1)
	h.publish(41, 3000)
	h.expectLast(5000, 2001, 3000, 1)
	h.expectLast(1000, 2001, 3000, 0)
	h.publish(3001, 3001)
	h.expectLast(1000, 2002, 3001, 0)
}

// A ring that had everything has not any more when it is full.
func TestFullRingIsNotAllThatThereIs(t *testing.T) {
	h := newHall(t, live.TopicOptions{History: 10})
	h.keep = 5000
	h.publish(1, 8)
	h.stay()
	h.expectLast(10, 1, 8, 1)
	h.publish(9, 13)
	h.expectLast(10, 4, 13, 0)
	h.expectLast(12, 2, 13, 1)
	h.expectHistory(12, 2, 13, 0)
}

func TestNewestAreNoOlderThanTheTopicKeepsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newRemote()
		srv := live.New(keeping(br, live.TopicOptions{History: 100, HistoryAge: time.Minute}))
		defer shut(t, srv)
		history := func() (data []string) {
			messages, err := srv.History(t.Context(), "t", 50)
			if err != nil {
				t.Error(err)
			}
			for _, m := range messages {
				data = append(data, string(m.Data))
			}
			return data
		}
		srv.Listen("t", func(live.Message) {})
		for i := range 4 {
			srv.Publish("t", fmt.Append(nil, i))
			time.Sleep(20 * time.Second)
		}
		if got := history(); !slices.Equal(got, []string{"1", "2", "3"}) { // 0 is 80 seconds old
			t.Errorf("%q", got)
		}
		time.Sleep(30 * time.Second)
		if got := history(); !slices.Equal(got, []string{"3"}) {
			t.Errorf("later: %q", got)
		}
		if n := br.tail.Load(); n != 0 {
			t.Errorf("the broker was asked %d times", n)
		}
	})
}

// stampedWrong has a broker stamp publications with a clock that is wrong by so much.
func stampedWrong(b *remote, by func() time.Duration) {
	stamp := func(p *broker.Publication) *broker.Publication {
		q := *p
		q.Time = p.Time.Round(0).Add(by())
		return &q
	}
	stamps := make(map[uint64]*broker.Publication)
	b.deliver = func(s broker.Sink, p *broker.Publication) {
		stamps[p.Offset] = stamp(p)
		s.Deliver(stamps[p.Offset])
	}
	b.answer = func(_ context.Context, page *broker.Page) error {
		for i, p := range page.Publications {
			if stamps[p.Offset] == nil {
				stamps[p.Offset] = stamp(p)
			}
			page.Publications[i] = stamps[p.Offset]
		}
		return nil
	}
}

// A publication is as old as the time that has passed, whatever the clocks of the nodes that
// stored it say.
func TestClocksOfOtherNodesDoNotAgeAHistory(t *testing.T) {
	jumps := 0
	for name, by := range map[string]func() time.Duration{
		"ahead":  func() time.Duration { return 5 * time.Hour },
		"behind": func() time.Duration { return -5 * time.Hour },
		"jumps": func() time.Duration {
			jumps++
			return []time.Duration{-5, 5, 0}[jumps%3] * time.Hour
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newRemote()
				stampedWrong(b, by)
				withFalseTime(t, livetest.Open(keeping(b, live.TopicOptions{History: 10, HistoryAge: time.Hour})), func(t *testing.T, srv *live.Server, dial func() *livetest.Client) {
					expect := func(when string, n int) {
						t.Helper()
						messages, err := srv.History(t.Context(), "t", 10)
						if err != nil || len(messages) != n {
							t.Errorf("%s a history has %d publications, %v; want %d", when, len(messages), err, n)
						}
					}
					for range 3 { // before anybody is there
						srv.Publish("t", []byte("1"))
					}
					c := dial()
					c.Say(livetest.Operation("subscribe", 1, "t", "last", 10))
					first, _ := c.Reply(1)
					if len(first.Messages) != 3 {
						t.Fatalf("the first subscriber is sent %d publications", len(first.Messages))
					}
					for range 3 {
						srv.Publish("t", []byte("2"))
					}
					expect("at first", 6)
					time.Sleep(50 * time.Minute)
					expect("after 50 minutes", 6)
					d := dial()
					d.Say(livetest.Operation("subscribe", 1, "t", "since", first.At), livetest.Operation("subscribe", 2, "t", "last", 10))
					f, _ := d.Reply(1)
					if g, _ := d.Reply(2); !*f.Recovered || len(f.Messages) != 3 || len(g.Messages) != 6 {
						t.Errorf("recovered %v, with %d publications; the newest are %d", *f.Recovered, len(f.Messages), len(g.Messages))
					}
					time.Sleep(11 * time.Minute)
					expect("after 61 minutes", 0)
					d = dial()
					d.Say(livetest.Operation("subscribe", 1, "t", "since", first.At), livetest.Operation("subscribe", 2, "t", "last", 10))
					f, _ = d.Reply(1)
					if g, _ := d.Reply(2); *f.Recovered || len(g.Messages) != 0 {
						t.Errorf("after 61 minutes: recovered %v, the newest are %d", *f.Recovered, len(g.Messages))
					}
				})
			})
		})
	}
}

// What was published before is in the history, however the server comes by it.
func TestHistoryHasWhatWasPublishedBefore(t *testing.T) {
	h := newHall(t, live.TopicOptions{History: 100})
	h.publish(1, 5)
	h.expectHistory(3, 3, 5, 1) // nobody is subscribed
	h.stay()
	h.expectHistory(3, 3, 5, 1) // the ring is empty
	h.expectLast(3, 3, 5, 1)
	h.expectHistory(3, 3, 5, 0)

	h.deliver = func(broker.Sink, *broker.Publication) {} // deliveries are late
	h.publish(6, 6)
	h.expectHistory(3, 4, 6, 1)

	lag := 2 // of the copies that answer
	h.answer = func(_ context.Context, p *broker.Page) error {
		if lag > 0 {
			lag--
			p.Publications = p.Publications[:len(p.Publications)-1]
			p.Upto--
		}
		return nil
	}
	h.expectHistory(3, 4, 6, 3)
}

// Whoever asked first may leave.
func TestAnswerOutlivesWhoAskedForIt(t *testing.T) {
	h := newHall(t, live.TopicOptions{History: 100})
	h.publish(1, 5)
	h.stay()
	asked, goOn := make(chan bool, 10), make(chan bool)
	h.answer = func(ctx context.Context, _ *broker.Page) error {
		asked <- true
		<-goOn
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	_, s := pair(t, h.url, h.sessions)
	go func() { first <- live.SubscribeContext(h.Server, ctx, s, "t", live.Last(5)) }()
	<-asked
	c, other := pair(t, h.url, h.sessions)
	done := make(chan error)
	go func() { done <- h.Server.Subscribe(other, "t", live.Last(5)) }()
	cancel()
	if err := livetest.Receive(t, first); !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	close(goOn)
	if err := livetest.Receive(t, done); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 5; i++ {
		c.Hears("t", fmt.Sprint(i))
	}
	if n := h.tail.Load(); n != 1 {
		t.Errorf("the broker was asked %d times", n)
	}
}

func TestQuestionThatFailsIsAskedAgain(t *testing.T) {
	h := newHall(t, live.TopicOptions{History: 100})
	h.publish(1, 5)
	h.stay()
	var failing atomic.Bool
	failing.Store(true)
	h.answer = func(context.Context, *broker.Page) error {
		if failing.Load() {
			return fmt.Errorf("broken: %w", live.ErrUnavailable)
		}
		return nil
	}
	_, s := pair(t, h.url, h.sessions)
	if err := h.Server.Subscribe(s, "t", live.Last(5)); !errors.Is(err, live.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
	failing.Store(false)
	h.expectLast(5, 1, 5, 1)
}

// A client that cannot have all that it missed gets the newest, after the gap.
func TestSinceTogetherWithLast(t *testing.T) {
	for _, test := range []struct {
		since int
		want  []string
	}{
		{19, []string{"20"}},
		{17, []string{"18", "19", "20"}}, // all that it missed, which is more than it asked for
		{20, nil},
		{5, []string{"19", "20"}},
	} {
		t.Run(fmt.Sprint(test.since), func(t *testing.T) {
			h := newHall(t, live.TopicOptions{History: 10})
			var at []live.Position
			h.deliver = func(s broker.Sink, p *broker.Publication) {
				at = append(at, p.Position)
				s.Deliver(p)
			}
			h.publish(1, 20)
			c, s := pair(t, h.url, h.sessions)
			if err := h.Server.Subscribe(s, "t", live.Since(at[test.since-1]), live.Last(2)); err != nil {
				t.Fatal(err)
			}
			s.Send(live.Message{Topic: "end"})
			for _, data := range test.want {
				c.Hears("t", data)
			}
			c.Hears("end", "")
		})
	}
}

// The broker cuts its answer where publications are large: then it shows the oldest of those
// that it was asked for, and not those that a newcomer wants.
func TestNewestOfLargePublications(t *testing.T) {
	const cut = 120 // publications, of 2 KB
	h := newHall(t, live.TopicOptions{History: 10_000})
	publish := func(from, to int) {
		for i := from; i <= to; i++ {
			if err := h.Server.Publish("t", []byte(livetest.Padded(i, 2<<10))); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect := func(n, from, to int) {
		t.Helper()
		c, s := pair(t, h.url, h.sessions)
		if err := h.Server.Subscribe(s, "t", live.Last(n)); err != nil {
			t.Fatal(err)
		}
		for want := from; want <= to; want++ {
			if m := c.Next(); livetest.NumberOf(m.Data) != want {
				t.Fatalf("of the newest %d came number %d, want %d", n, livetest.NumberOf(m.Data), want)
			}
		}
	}
	h.answer = func(_ context.Context, p *broker.Page) error {
		if len(p.Publications) > cut {
			p.Publications = p.Publications[:cut]
			p.Upto = p.Publications[cut-1].Offset
		}
		return nil
	}
	publish(1, 1000)
	expect(50, 951, 1000) // asked for as many as the ring takes, 256, the broker shows 745 to 864
	publish(1001, 1100)
	expect(200, 901, 1100) // now it shows 845 to 964, from where on the ring has all
	expect(500, 601, 1100) // of which the ring has half
}
