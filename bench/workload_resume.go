package main

import (
	"time"

	"github.com/livetopic/livetopic/bench/server"
	"github.com/livetopic/livetopic/bench/wire"
)

// resume is a paced load on topics without history. Meanwhile other clients, which are already
// connected, resume a topic that has a history, all at once.
type resume struct {
	paced
	Clients int
	Missed  int // publications, by each
}

func (r resume) run(e env, kind server.Kind) (figures, error) {
	if err := r.check(); err != nil {
		return figures{}, err
	}
	topic := wire.TopicName(r.Topics)
	e.Options.History = map[string]int{topic: r.Missed}
	s, err := setUp(e, kind, r.sessions(), r.Payload)
	if err != nil {
		return figures{}, err
	}
	defer s.tearDown()
	since, err := r.position(s, topic)
	if err != nil {
		return figures{}, err
	}
	if err := r.publishMissed(s); err != nil {
		return figures{}, err
	}
	run := pace{audience: r.audience, stage: s, rate: r.Rate, listeners: r.Each}
	if _, err := run.play(r.Time / 5); err != nil {
		return figures{}, err
	}
	quiet, err := run.play(r.Time)
	if err != nil {
		return figures{}, err
	}
	var f figures
	f.setLatencies(quiet)
	f.Quiet = f.P99

	others, err := startComers(comers{s.Address, topic, since, uint32(r.Topics), r.Clients, r.Missed, r.Payload})
	if err != nil {
		return figures{}, err
	}
	defer others.stop()
	var took time.Duration
	resumed := make(chan error, 1)
	go func() { // ends when all have everything, or nothing more comes
		var err error
		took, err = others.comeBack()
		run.until.Store(wire.Now())
		resumed <- err
	}()
	disturbed, err := run.play(r.Time)
	if failed := <-resumed; failed != nil {
		return figures{}, failed
	}
	if err != nil {
		return figures{}, err
	}
	if err := s.load.Quiet(afterQuiet); err != nil {
		return figures{}, err
	}
	f.setLatencies(disturbed)
	f.Served = float64(took)
	return f, nil
}

// position asks for the topic's position, as a client that comes for the first time.
func (r resume) position(s *stage, topic string) (string, error) {
	d := &wire.LiveV1{Topic: topic}
	g, err := comers{Address: s.Address, Clients: 1, Payload: r.Payload}.dial(d, false)
	if err != nil {
		return "", err
	}
	defer g.Close()
	for start := time.Now(); d.At == "" && time.Since(start) < answerTimeout; {
		if err := g.Quiet(time.Millisecond); err != nil {
			return "", err
		}
	}
	return d.At, nil
}

func (r resume) publishMissed(s *stage) error {
	err := s.publish(0, r.Missed, r.Topics, 1, r.Payload)
	if err == nil {
		_, err = s.close()
	}
	return err
}
