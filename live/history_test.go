package live_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// remote is a broker whose calls are counted, and which the server does not take for
// the one in memory.
type remote struct {
	*live.MemoryBroker
	last, tail atomic.Int64

	// What it does otherwise; each may be nil.
	keep    int                                             // publications, whatever the server says; 0: as many as it says
	answer  func(ctx context.Context, p *broker.Page) error // of Tail
	deliver func(s broker.Sink, p *broker.Publication)      // instead of s.Deliver
	look    func()                                          // before Last

	sink broker.Sink
}

func (*remote) InProcess() bool { return false }

func newRemote() *remote { return &remote{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})} }

func (r *remote) Start(s broker.Sink) {
	r.sink = s
	r.MemoryBroker.Start(remoteSink{s, s.(broker.Rules), r})
}

type remoteSink struct {
	broker.Sink
	broker.Rules
	remote *remote
}

func (s remoteSink) Deliver(p *broker.Publication) {
	if s.remote.deliver != nil {
		s.remote.deliver(s.Sink, p)
		return
	}
	s.Sink.Deliver(p)
}

func (r *remote) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if r.keep > 0 {
		o.History = r.keep
	}
	return r.MemoryBroker.Publish(ctx, topic, data, o)
}

func (r *remote) Last(ctx context.Context, topic string) (live.Position, error) {
	r.last.Add(1)
	if r.look != nil {
		r.look()
	}
	return r.MemoryBroker.Last(ctx, topic)
}

func (r *remote) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	r.tail.Add(1)
	page, err := r.MemoryBroker.Tail(ctx, topic, limit)
	if err == nil && r.answer != nil {
		err = r.answer(ctx, &page)
	}
	return page, err
}

// keeping returns options for topics that all keep so much.
func keeping(broker live.Broker, rules live.TopicOptions) live.Options {
	return live.Options{
		Broker: broker,
		Topics: func(string) live.TopicOptions { return rules },
		Logger: slog.New(slog.DiscardHandler),
	}
}

// A topic of a broker of many servers is compared with the history now and then,
// without a goroutine that waits for it.
func TestTopicCostsNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newRemote()
		srv := live.New(keeping(br, live.TopicOptions{History: 10}))
		const topics = 500
		before := runtime.NumGoroutine()
		var all []live.Subscription
		for i := range topics {
			l, err := srv.Listen(fmt.Sprint(i), func(live.Message) {})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, l)
		}
		if n := runtime.NumGoroutine(); n > before+10 {
			t.Errorf("%d goroutines for %d topics", n-before, topics)
		}
		for _, look := range []time.Duration{200 * time.Millisecond, 2 * time.Second, time.Minute, time.Minute} {
			asked := br.last.Load()
			time.Sleep(look)
			synctest.Wait()
			if n := br.last.Load() - asked; n < topics || n > 2*topics+10 {
				t.Errorf("within %v the history of %d topics was asked %d times", look, topics, n)
			}
		}
		for _, l := range all {
			l.Unsubscribe()
		}
		asked := br.last.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := br.last.Load(); n != asked {
			t.Errorf("%d times the history of a topic was asked that has no subscriber", n-asked)
		}
		shut(t, srv)
	})
}

// What has subscribers still when the server ends is looked after no more: the broker is
// closed, and would be asked for ever.
func TestNothingIsAskedOfTheBrokerAfterShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newRemote()
		srv := live.New(keeping(br, live.TopicOptions{History: 10}))
		for i := range 100 {
			if _, err := srv.Listen(fmt.Sprint(i), func(live.Message) {}); err != nil {
				t.Fatal(err)
			}
		}
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		asked := br.last.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := br.last.Load() - asked; n > 0 {
			t.Errorf("it was asked %d times", n)
		}
	})
}

// After a loss of the connection to the broker all topics have to be compared, which
// must not be its end.
func TestLossOfEverythingAsksTheBrokerInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newRemote()
		var now, most atomic.Int64
		br.look = func() {
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(time.Millisecond)
			now.Add(-1)
		}
		srv := live.New(keeping(br, live.TopicOptions{History: 10}))
		defer srv.Shutdown(context.Background())
		const topics = 1000
		for i := range topics {
			if _, err := srv.Listen(fmt.Sprint(i), func(live.Message) {}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second) // after the first checks
		asked := br.last.Load()
		br.sink.Lost("", errors.New("the connection was lost"))
		time.Sleep(time.Second)
		if n := br.last.Load() - asked; n != topics {
			t.Errorf("%d of %d topics were compared", n, topics)
		}
		if n := most.Load(); n > 100 {
			t.Errorf("%d questions were asked at once", n)
		}
	})
}

// What a server has missed of a busy topic it fetches at once: more than a client's queue
// holds, which is not the client's fault.
func TestRepairClosesNobody(t *testing.T) {
	br := newRemote()
	var deaf atomic.Bool
	br.deliver = func(s broker.Sink, p *broker.Publication) {
		if !deaf.Load() {
			s.Deliver(p)
		}
	}
	opts := keeping(br, live.TopicOptions{History: 1000})
	opts.QueueSize = 8
	opts, sessions := livetest.Connected(opts)
	srv, url := serve(t, opts)
	c, sess := pair(t, url, sessions)
	if err := srv.Subscribe(sess, "t"); err != nil {
		t.Fatal(err)
	}
	deaf.Store(true)
	const missed = 500
	for i := range missed {
		if err := live.Publish(srv, "t", i); err != nil {
			t.Fatal(err)
		}
	}
	deaf.Store(false)
	br.sink.Lost("t", errors.New("the connection was lost"))
	for i := range missed {
		if m := c.Next(); string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("publication %d is %s", i, m.Data)
		}
	}
}
