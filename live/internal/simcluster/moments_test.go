package simcluster_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/simcluster"
)

// Moments that chance seldom hits. In each something happens just while the server
// waits for its broker, and the oracle looks at what the client is told.

// all is everything that a broker can be.
type all interface {
	live.Broker
	broker.Recoverer
	broker.Bus
}

// interfered is a broker of which a test changes deliveries and positions.
type interfered struct {
	all
	sink    broker.Sink                                   // after Start
	deliver func(sink broker.Sink, p *broker.Publication) // nil: as it is
	last    func(at live.Position) live.Position          // nil: as it is
	read    func(p *broker.Page)                          // nil: as it is
}

type interferedSink struct {
	broker.Sink
	b *interfered
}

func (s interferedSink) Deliver(p *broker.Publication) {
	if s.b.deliver == nil {
		s.Sink.Deliver(p)
		return
	}
	c := *p
	s.b.deliver(s.Sink, &c)
}

func (b *interfered) Start(s broker.Sink) {
	b.sink = s
	b.all.Start(interferedSink{s, b})
}

func (b *interfered) Last(ctx context.Context, topic string) (live.Position, error) {
	at, err := b.all.Last(ctx, topic)
	if b.last != nil && err == nil {
		at = b.last(at)
	}
	return at, err
}

func (b *interfered) Read(ctx context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	page, err := b.all.Read(ctx, topic, after, upto, limit)
	if b.read != nil {
		page.Publications = slices.Clone(page.Publications)
		b.read(&page)
	}
	return page, err
}

// stage is a server on a broker that can be interfered with, and a client.
type stage struct {
	*testing.T
	sim    *simcluster.Sim
	broker *interfered
	server *live.Server
	client *client
}

// play runs a scene in a bubble. The topic has had five publications, #1 to #5,
// before the server has a subscriber.
func play(t *testing.T, history int, scene func(s *stage)) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, sim: simcluster.NewSim(1, 1, simcluster.Faults{}), client: &client{since: make(map[string]string)}}
		s.broker = &interfered{all: s.sim.Node(0).(all)}
		s.server = live.New(live.Options{
			Broker:       s.broker,
			Topics:       func(string) live.TopicOptions { return live.TopicOptions{History: history} },
			OnSubscribe:  func(context.Context, *live.Session, string) error { return nil },
			PingInterval: -1,
			Logger:       slog.New(slog.DiscardHandler),
		})
		s.publish(1, 5)
		scene(s)
		if err := s.server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func (s *stage) publish(from, to int) {
	for i := from; i <= to; i++ {
		if err := s.server.Publish("t", fmt.Append(nil, i)); err != nil {
			s.Error(err)
		}
	}
}

// attend has the client subscribe, after the publication at a place in the log if
// that is not 0, and stay for a while.
func (s *stage) attend(after int, stay func()) {
	if after > 0 {
		s.client.since["t"] = s.sim.Log("t")[after-1].Position.String()
	}
	l, err := s.client.dial(0, s.server.Handler())
	if err != nil {
		s.Fatal(err)
	}
	l.subscribe(0, "t")
	l.settled(10 * time.Second)
	stay()
	time.Sleep(time.Second)
	l.cut()
	o := newOracle(s.sim, "t")
	o.prompt = time.Second / 2
	o.next, o.floor = after, after
	o.judge(s.client.events)
	o.end(0)
	for _, wrong := range append(o.wrong, o.falseAlarms...) {
		s.Error(wrong)
	}
	if s.Failed() {
		for _, e := range s.client.events {
			s.Log(e)
		}
	}
}

// once has f run after the first Read, before its answer arrives.
func (s *stage) once(f func()) {
	var done atomic.Bool
	s.broker.read = func(*broker.Page) {
		if !done.Swap(true) {
			f()
			time.Sleep(time.Second)
		}
	}
}

func TestEpochChangesWhileHistoryIsRead(t *testing.T) {
	play(t, 100, func(s *stage) {
		s.once(func() {
			s.sim.Reset("t")
			s.publish(6, 8)
		})
		s.attend(2, func() { s.publish(9, 10) })
	})
}

func TestRingMovesOnWhileHistoryIsRead(t *testing.T) {
	play(t, 3, func(s *stage) {
		s.once(func() { s.publish(6, 15) })
		s.attend(3, func() { s.publish(16, 17) })
	})
}

func TestLossIsAnnouncedDuringARepair(t *testing.T) {
	play(t, 100, func(s *stage) {
		var deaf, slow atomic.Bool
		s.broker.deliver = func(sink broker.Sink, p *broker.Publication) {
			if !deaf.Load() {
				sink.Deliver(p)
			}
		}
		s.broker.last = func(at live.Position) live.Position {
			if slow.Load() {
				time.Sleep(100 * time.Millisecond)
			}
			return at
		}
		s.attend(5, func() {
			time.Sleep(10 * time.Second) // the checks after the beginning are over
			slow.Store(true)
			s.broker.sink.Lost("t", nil)
			time.Sleep(50 * time.Millisecond) // the position is on its way
			deaf.Store(true)
			s.publish(6, 6)
			time.Sleep(10 * time.Millisecond)
			s.broker.sink.Lost("t", nil)
		})
	})
}
