package live_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// renewed is a broker of one process whose histories begin anew, or lose their end, when a test
// says so.
type renewed struct {
	sink broker.Sink

	mu     sync.Mutex
	epoch  int
	all    map[string][]*broker.Publication // their offsets are 1, 2, 3, …
	reads  int
	onRead func(n int) // called by the n-th question, without mu
}

func (r *renewed) Start(s broker.Sink) {
	r.sink = s
	r.renew()
}

// renew begins all histories anew.
func (r *renewed) renew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	r.all = make(map[string][]*broker.Publication)
}

// cut takes from a history what came after its n-th publication.
func (r *renewed) cut(topic string, n int) {
	r.mu.Lock()
	r.all[topic] = r.all[topic][:n:n]
	r.mu.Unlock()
	r.sink.Lost(topic, nil)
}

func (r *renewed) at(offset int) live.Position {
	return live.Position{Epoch: fmt.Sprint("e", r.epoch), Offset: uint64(offset)}
}

func (r *renewed) Subscribe(context.Context, string) error { return nil }

func (r *renewed) Unsubscribe(string) error { return nil }

func (r *renewed) Close(context.Context) error { return nil }

func (r *renewed) Keeps(string) bool { return true }

func (r *renewed) Publish(_ context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.all[topic])
	p := &broker.Publication{Topic: topic, Data: slices.Clone(data), Time: time.Now(), Except: o.Except, Position: r.at(n + 1), Prev: uint64(n)}
	r.all[topic] = append(r.all[topic], p)
	r.sink.Deliver(p)
	return p.Position, nil
}

func (r *renewed) Last(_ context.Context, topic string) (live.Position, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at(len(r.all[topic])), nil
}

func (r *renewed) asked() {
	r.mu.Lock()
	r.reads++
	n, f := r.reads, r.onRead
	r.mu.Unlock()
	if f != nil {
		f(n)
	}
}

func (r *renewed) Read(_ context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	r.asked()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all[topic]
	from, to := min(int(after), len(all)), min(int(upto), len(all))
	page := broker.Page{Epoch: r.at(0).Epoch, Upto: uint64(len(all)), Complete: int(after) <= len(all)}
	if to-from > limit {
		to = from + limit
		page.Upto = uint64(to)
	}
	page.Publications = slices.Clone(all[from:max(from, to)])
	return page, nil
}

func (r *renewed) Tail(_ context.Context, topic string, limit int) (broker.Page, error) {
	r.asked()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all[topic]
	return broker.Page{Epoch: r.at(0).Epoch, Upto: uint64(len(all)), Complete: true, Publications: slices.Clone(all[max(len(all)-limit, 0):])}, nil
}

func keepingMuch(string) live.TopicOptions { return live.TopicOptions{History: 100_000} }

// behind has a client catch up that reads next to nothing, so that parts are kept for others.
func behind(t *testing.T, h *livetest.Host) {
	t.Helper()
	h.PublishNumbers(t, "large", 1, 40, 60_000)
	p := slowPeer(h, t, true, 10_000).Attend()
	p.Say(livetest.Operation("subscribe", 1, "large", "last", 40))
	livetest.Eventually(t, "the slow client", func() bool { return h.Stats().CatchingUp == 1 })
}

// Where a history lost its end and went on, nobody is sent what it has lost.
func TestHistoryThatLostItsEndIsNotSentFromMemory(t *testing.T) {
	b := new(renewed)
	h := livetest.Hosting{Buffer: 8 << 10}.Start(t, livetest.Open(live.Options{Broker: b, Topics: keepingMuch}))
	behind(t, h)
	resume := func() (all []string) {
		p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
		p.Say(livetest.Operation("subscribe", 1, "t", "since", "e1.5"))
		f, _ := p.Reply(1)
		for _, m := range f.Messages {
			all = append(all, string(m.Data))
		}
		return all
	}
	for i := 1; i <= 10; i++ {
		h.Publish("t", fmt.Appendf(nil, `"old %d"`, i))
	}
	keeps := h.Connect(t, livetest.Dialing{V1: true}).Attend() // the topic
	keeps.Say(livetest.Operation("subscribe", 1, "t"))
	keeps.Reply(1)
	if got := resume(); len(got) != 5 {
		t.Fatal(got)
	}
	b.cut("t", 7)
	for f := keeps.Next(); f.Op != "gap"; f = keeps.Next() {
	}
	for i := 8; i <= 11; i++ {
		h.Publish("t", fmt.Appendf(nil, `"new %d"`, i))
	}
	want := []string{`"old 6"`, `"old 7"`, `"new 8"`, `"new 9"`, `"new 10"`, `"new 11"`}
	if got := resume(); !slices.Equal(got, want) {
		t.Errorf("a client that resumes is sent %s", got)
	}
}

// What is published while a client catches up answers nothing, also when the history began anew.
func TestRenewedHistoryAnswersNobody(t *testing.T) {
	b := new(renewed)
	opts, sessions := livetest.Connected(livetest.Open(live.Options{Broker: b, Topics: keepingMuch}))
	h := livetest.Hosting{Buffer: 8 << 10}.Start(t, opts)
	h.PublishNumbers(t, "t", 1, 40, 60_000)
	p := slowPeer(h, t, true, 2_000_000).Attend()
	s := livetest.Receive(t, sessions)
	p.Say(livetest.Operation("subscribe", 1, "t", "since", "e1.1"))
	livetest.Eventually(t, "the catching up", func() bool { return h.Stats().CatchingUp == 1 })
	b.renew()
	for i, o := range [][]live.PublishOption{nil, {live.Except(s)}, nil} {
		h.Publish("t", fmt.Appendf(nil, `"new %d"`, i+1), o...)
	}
	for {
		f := p.Next()
		if strings.HasPrefix(string(f.Data), `"new`) && f.Recovered != nil {
			t.Errorf("recovered: %s", &f)
		}
		if string(f.Data) == `"new 2"` {
			t.Error("it came to the session that it was not for")
		}
		if string(f.Data) == `"new 3"` {
			return
		}
	}
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
