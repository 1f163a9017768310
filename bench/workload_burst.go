package main

import (
	"fmt"
	"time"

	"github.com/livetopic/livetopic/bench/server"
)

// bursts are publications as fast as the server takes them. A burst begins when the one
// before it has arrived everywhere.
type bursts struct {
	audience
	Publications int // in a burst, in turn over the topics
}

// minBursts are measured even if they take longer than the time of a run.
const minBursts = 2

func (b bursts) run(e env, kind server.Kind) (figures, error) {
	if err := b.check(); err != nil {
		return figures{}, err
	}
	s, err := setUp(e, kind, b.sessions(), b.Payload)
	if err != nil {
		return figures{}, err
	}
	defer s.tearDown()
	var sum server.Usage
	measured := 0
	next := 0
	burst := func() (server.Usage, error) {
		u, err := s.burst(b, next)
		next += b.Publications
		return u, err
	}
	for start := time.Now(); next == 0 || time.Since(start) < e.Time/5; {
		if _, err := burst(); err != nil {
			return figures{}, err
		}
	}
	for start, n := time.Now(), 0; n < minBursts || time.Since(start) < e.Time; n++ {
		u, err := burst()
		if err != nil {
			return figures{}, err
		}
		sum.CPU += u.CPU
		sum.Wall += u.Wall
		sum.Allocs += u.Allocs
		sum.RSS = u.RSS
		measured += b.Publications * b.Each
	}
	if err := s.load.Quiet(afterQuiet); err != nil {
		return figures{}, err
	}
	return perDelivery(sum, measured), nil
}

// burst publishes one burst, the first of which has the number from, and waits
// until all of it has arrived.
func (s *stage) burst(b bursts, from int) (server.Usage, error) {
	if err := s.publish(from, b.Publications, 0, b.Topics, b.Payload); err != nil {
		return server.Usage{}, err
	}
	if err := s.load.Receive(uint64((from + b.Publications) * b.Each)); err != nil {
		return server.Usage{}, err
	}
	return s.close()
}

// growthPublications are what each session gets in a burst of the growth workloads. There are
// fewer than elsewhere, because a burst has to reach ten thousand sessions.
const growthPublications = 16

// sessionGrowth is one topic with ever more sessions.
func sessionGrowth(sizes []int, payload int) []testcase {
	var cases []testcase
	for _, n := range sizes {
		b := bursts{audience{Topics: 1, Sessions: n, Each: n, Payload: payload}, growthPublications}
		cases = append(cases, testcase{Label: fmt.Sprintf("%d sessions", n), Run: b.run})
	}
	return cases
}

// topicGrowth is ever more topics with ten subscribers each and always the same
// sessions and publications, so that only the number of topics changes.
func topicGrowth(sizes []int, sessions, payload int) []testcase {
	const each = 10
	var cases []testcase
	for _, n := range sizes {
		b := bursts{
			audience{Topics: n, Sessions: sessions, Each: each, Payload: payload},
			growthPublications * sessions / each,
		}
		cases = append(cases, testcase{Label: fmt.Sprintf("%d topics", n), Run: b.run})
	}
	return cases
}
