package main

import (
	"errors"
	"time"

	"github.com/livetopic/livetopic/bench/server"
	"github.com/livetopic/livetopic/bench/wire"
)

// arrivals are sessions that dial. The server subscribes each to one topic as soon as it is
// there.
type arrivals struct {
	Sessions int
	UnderWay int           // handshakes at a time; 0: all at once, and each session is greeted
	Auth     time.Duration // how long a sign-in takes
}

// arrivalsBefore is the part of the sessions that comes before the measuring begins, and
// stays.
const arrivalsBefore = 10 // per cent

func (w arrivals) run(e env, kind server.Kind) (figures, error) {
	before := w.Sessions * arrivalsBefore / 100
	all := before + w.Sessions
	a := audience{Topics: 1, Sessions: all, Each: all, Payload: wire.MinPayload}
	if err := a.check(); err != nil {
		return figures{}, err
	}
	e.Options.Topic, e.Options.Auth = wire.TopicName(0), w.Auth
	underWay, greetings := w.UnderWay, 0
	if underWay == 0 {
		underWay, greetings = w.Sessions, 1
		e.Options.Greeting = wire.AppendPayload(nil, wire.Mark{}, a.Payload) // as if it were the first one of the topic
	}
	sessions := a.sessions()
	s, err := setUp(e, kind, sessions[:before], a.Payload)
	if err != nil {
		return figures{}, err
	}
	defer s.tearDown()

	var times []int64
	begun, served := wire.Now(), int64(0)
	s.load.OnDelivery = func(session int, _ wire.Mark) error {
		times = append(times, s.load.Since(session))
		served = wire.Now() - begun
		return nil
	}
	if err := s.open(); err != nil {
		return figures{}, err
	}
	if err := s.dial(sessions[before:], underWay); err != nil {
		return figures{}, err
	}
	usage, err := s.close()
	if err != nil {
		return figures{}, err
	}
	s.load.OnDelivery = nil

	here := all - s.load.Failed
	if here == before {
		return figures{}, errors.New("no session was served")
	}
	if err := s.reachAll(here, greetings, a.Payload); err != nil {
		return figures{}, err
	}
	f := perDelivery(usage, here-before)
	f.setLatencies(times)
	f.Served = float64(served)
	f.Failures = float64(s.load.Failed)
	return f, nil
}

// reachAll publishes once, and checks that it reaches each session once.
func (s *stage) reachAll(sessions, number, size int) error {
	if err := s.publish(number, 1, 0, 1, size); err != nil {
		return err
	}
	if err := s.load.Receive(uint64(sessions * (number + 1))); err != nil {
		return err
	}
	if _, err := s.close(); err != nil {
		return err
	}
	return s.load.Quiet(afterQuiet)
}

// overTLS is the same workload with TLS between server and generator.
func overTLS(run func(env, server.Kind) (figures, error)) func(env, server.Kind) (figures, error) {
	return func(e env, kind server.Kind) (figures, error) {
		e.Options.TLS = true
		return run(e, kind)
	}
}
