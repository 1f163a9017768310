package main

import (
	"time"

	"github.com/livetopic/livetopic/bench/server"
	"github.com/livetopic/livetopic/bench/wire"
)

// idle is sessions that are connected, subscribed, and silent.
type idle struct {
	Sessions int
}

// idleEach is how many of them share a topic.
const idleEach = 10

// idleSettle is how long the server may tidy up before its memory is read.
const idleSettle = time.Second

func (w idle) run(e env, kind server.Kind) (figures, error) {
	a := audience{
		Topics:   w.Sessions / idleEach,
		Sessions: w.Sessions,
		Each:     idleEach,
		Payload:  wire.MinPayload,
	}
	if err := a.check(); err != nil {
		return figures{}, err
	}
	s, err := start(e, kind, a.Payload)
	if err != nil {
		return figures{}, err
	}
	defer s.tearDown()
	before, err := s.memory()
	if err != nil {
		return figures{}, err
	}
	if err := s.dial(a.sessions(), handshakes); err != nil {
		return figures{}, err
	}
	if err := s.load.Quiet(idleSettle); err != nil {
		return figures{}, err
	}
	after, err := s.memory()
	if err != nil {
		return figures{}, err
	}
	n := float64(w.Sessions)
	return figures{
		RSS:          float64(after.RSS),
		SessionRSS:   float64(after.RSS-before.RSS) / n,
		SessionHeap:  float64(after.Heap-before.Heap) / n,
		SessionStack: float64(after.Stack-before.Stack) / n,
	}, nil
}

func (s *stage) memory() (server.Memory, error) {
	reply, err := s.ask(server.Command{Op: server.OpMemory})
	if err != nil {
		return server.Memory{}, err
	}
	return *reply.Memory, nil
}
