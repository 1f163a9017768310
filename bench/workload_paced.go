package main

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/bench/server"
	"github.com/livetopic/livetopic/bench/wire"
)

// paced is an open loop: publications come at fixed times, whether or not the server keeps
// up. Latency counts from the time at which a publication was due. So a server that falls
// behind cannot hide it.
type paced struct {
	audience
	Rate int           // deliveries a second
	Time time.Duration // to measure; percentiles need many samples
}

func (p paced) run(e env, kind server.Kind) (figures, error) {
	if err := p.check(); err != nil {
		return figures{}, err
	}
	s, err := setUp(e, kind, p.sessions(), p.Payload)
	if err != nil {
		return figures{}, err
	}
	defer s.tearDown()
	run := pace{audience: p.audience, stage: s, rate: p.Rate, listeners: p.Each}
	if _, err := run.play(p.Time / 5); err != nil {
		return figures{}, err
	}
	if err := s.open(); err != nil {
		return figures{}, err
	}
	latencies, err := run.play(p.Time)
	if err != nil {
		return figures{}, err
	}
	usage, err := s.close()
	if err != nil {
		return figures{}, err
	}
	if err := s.load.Quiet(afterQuiet); err != nil {
		return figures{}, err
	}
	f := perDelivery(usage, len(latencies))
	f.setLatencies(latencies)
	return f, nil
}

// setLatencies sorts the samples.
func (f *figures) setLatencies(samples []int64) {
	slices.Sort(samples)
	f.P50 = percentile(samples, 50)
	f.P99 = percentile(samples, 99)
	f.P999 = percentile(samples, 99.9)
	f.Max = percentile(samples, 100)
}

// pace is an open loop under way.
type pace struct {
	audience
	*stage
	rate      int // deliveries a second
	listeners int // of each topic, that read
	next      int // the number of the first publication

	until atomic.Int64 // publications due later do not count; 0: all do
}

// play goes on for d and returns the latency of each delivery.
func (p *pace) play(d time.Duration) ([]int64, error) {
	every := time.Duration(int64(time.Second) * int64(p.listeners) / int64(max(p.rate, 1)))
	if every <= 0 {
		return nil, fmt.Errorf("a rate of %d deliveries a second", p.rate)
	}
	count := max(int(d/every), 1)
	samples := make([]int64, 0, count*p.listeners)
	p.load.OnDelivery = func(_ int, m wire.Mark) error {
		if end := p.until.Load(); end == 0 || m.Time <= end {
			samples = append(samples, wire.Now()-m.Time)
		}
		return nil
	}
	defer func() { p.load.OnDelivery = nil }()
	err := p.tell(server.Command{
		Op:     server.OpPace,
		From:   p.next,
		Count:  count,
		Topics: p.Topics,
		Size:   p.Payload,
		Every:  every,
	})
	if err != nil {
		return nil, err
	}
	p.next += count
	if err := p.load.Receive(uint64(p.next * p.listeners)); err != nil {
		return nil, err
	}
	_, err = p.answer(answerTimeout)
	return samples, err
}

// slow is a paced load on one topic, one of whose sessions stops reading.
type slow struct {
	Sessions int // that read
	Rate     int // deliveries a second to them
	Payload  int
	Time     time.Duration
}

func (l slow) run(e env, kind server.Kind) (figures, error) {
	a := audience{Topics: 1, Sessions: l.Sessions + 1, Each: l.Sessions + 1, Payload: l.Payload}
	if err := a.check(); err != nil {
		return figures{}, err
	}
	sessions := a.sessions()
	sessions[0].Stalled = true
	s, err := setUp(e, kind, sessions, l.Payload)
	if err != nil {
		return figures{}, err
	}
	defer s.tearDown()
	run := pace{audience: a, stage: s, rate: l.Rate, listeners: l.Sessions}
	latencies, err := run.play(l.Time)
	if err != nil {
		return figures{}, err
	}
	if err := s.load.Quiet(afterQuiet); err != nil {
		return figures{}, err
	}
	stalled, err := s.load.ReadStalled(0)
	if err != nil {
		return figures{}, err
	}
	var f figures
	f.setLatencies(latencies)
	switch {
	case stalled.Cut:
		f.Note = "cut"
	case stalled.Holes > 0 || stalled.Received < run.next:
		f.Note = "lost some, unannounced"
	default:
		f.Note = "all kept for it"
	}
	return f, nil
}
