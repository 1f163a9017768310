package simcluster_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/simcluster"
)

// The tests of this file make things happen just while the server waits for its broker. Random
// tests seldom do that. The oracle checks what the client is told.

// stage has a server, whose broker a test can alter, and a client.
type stage struct {
	*testing.T
	sim    *simcluster.Sim
	broker *simcluster.Altered
	server *live.Server
	client *client
}

// play runs a scene in a bubble. The topic has had five publications, #1 to #5,
// before the server has a subscriber.
func play(t *testing.T, history int, scene func(s *stage)) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, sim: simcluster.NewSim(1, 1, simcluster.Faults{}), client: &client{since: make(map[string]string)}}
		s.broker = &simcluster.Altered{All: s.sim.Node(0).(simcluster.All)}
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

// attend makes the client subscribe, calls stay, and then checks what the client was told. after is
// how many publications of the log the client has already; 0: it subscribes for the first time.
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

// once makes f run after the first Read, before its answer arrives.
func (s *stage) once(f func()) {
	var done atomic.Bool
	s.broker.OnPage = func(*broker.Page) {
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
		s.broker.OnDeliver = func(sink broker.Sink, p *broker.Publication) {
			if !deaf.Load() {
				sink.Deliver(p)
			}
		}
		s.broker.OnLast = func(at live.Position) live.Position {
			if slow.Load() {
				time.Sleep(100 * time.Millisecond)
			}
			return at
		}
		s.attend(5, func() {
			time.Sleep(10 * time.Second) // the checks after the beginning are over
			slow.Store(true)
			s.broker.Sink.Lost("t", nil)
			time.Sleep(50 * time.Millisecond) // the server has asked for the position and waits
			deaf.Store(true)
			s.publish(6, 6)
			time.Sleep(10 * time.Millisecond)
			s.broker.Sink.Lost("t", nil)
		})
	})
}
