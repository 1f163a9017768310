package main

import (
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/load"
	"github.com/livetopic/livetopic/bench/server"
	"github.com/livetopic/livetopic/bench/wire"
)

// resume is a paced load on topics without history, while other clients, which are connected,
// resume a topic that has one, all at once.
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

	others, err := r.clients(s, &wire.LiveV1{Topic: topic, Since: since}, r.Clients, true)
	if err != nil {
		return figures{}, err
	}
	defer others.Close()
	var begun int64
	resumed := make(chan error, 1)
	go func() { // ends when all have everything, or nothing more comes
		err := beAside()
		begun = wire.Now()
		if err == nil {
			err = others.Subscribe()
		}
		if err == nil {
			err = others.Receive(uint64(r.Clients * r.Missed))
		}
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
	f.Served = float64(run.until.Load() - begun)
	return f, nil
}

// position asks for the topic's position, as a client that comes for the first time.
func (r resume) position(s *stage, topic string) (string, error) {
	d := &wire.LiveV1{Topic: topic}
	g, err := r.clients(s, d, 1, false)
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
	err := s.tell(server.Command{Op: server.OpBurst, Count: r.Missed, First: r.Topics, Topics: 1, Size: r.Payload})
	if err == nil {
		_, err = s.close()
	}
	return err
}

// beAside gives the calling goroutine a thread of its own that runs only where nothing else
// wants to: the clients that come back are other machines, which take nothing from the server
// and from those that measure.
func beAside() error {
	runtime.LockOSThread() // which ends with the goroutine
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}

// clients dial with a generator of their own, which takes no time from the one that
// measures.
func (r resume) clients(s *stage, d *wire.LiveV1, n int, later bool) (*load.Generator, error) {
	g, err := load.New(load.Options{Address: s.Address, Dialect: d, Subprotocol: "live.v1", Payload: r.Payload, Later: later})
	if err != nil {
		return nil, err
	}
	one := load.Session{Topics: []string{d.Topic}, Streams: []uint32{uint32(r.Topics)}}
	if err := g.Dial(slices.Repeat([]load.Session{one}, n), n); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}
