package simcluster

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// Faults says what goes wrong in a Sim, and how often. Chances are between 0 and
// 1; durations are upper bounds, below which each case is drawn. The zero value is
// a cluster in which nothing goes wrong and nothing takes time.
type Faults struct {
	// Delay is how long a delivery takes to arrive. Those of one topic stay in
	// order, those of different topics do not.
	Delay time.Duration

	// Latency is how long a call takes. What a call reads is as old as half of
	// that.
	Latency time.Duration

	// Interest is how long it takes after Subscribe until other nodes know of it
	// and what they publish comes.
	Interest time.Duration

	// Lag is how far the copies that answer Read and Tail are behind.
	Lag time.Duration

	// Cut is the chance that a page ends early, as a page does that would be too large
	// for memory: a page of Read after one publication or more, one of Tail after 128 kB
	// or more. A tail of a copy that lags is not cut, and is empty if it is as large.
	Cut float64

	// Loss, Duplicate and Overtake are the chances that a delivery to one node is
	// lost, comes twice, or comes before the one that it should follow.
	Loss, Duplicate, Overtake float64

	// NoPrev is the chance that a publication does not name the one before it.
	NoPrev float64

	// Announce is the chance that Lost is called after a loss.
	Announce float64

	// Refuse is the chance that a call fails. A publication is not taken then.
	Refuse float64

	// Unsure is the chance that a publication is taken, and Publish fails all the
	// same.
	Unsure float64

	// Cuts is how many times a node is cut off: nothing that others publish
	// reaches it; and, half of these times, it can call nothing either. Outages
	// is how many times no node can call anything. Each takes up to Break.
	Cuts, Outages int
	Break         time.Duration

	// Trims is how many times the older part of the histories is dropped, or all
	// of it; Resets how many times histories are lost, and begin in another
	// epoch; Ends how many times they lose their newest publications, and go on in
	// another epoch with what is left.
	Trims, Resets, Ends int

	// Within is the time after NewSim in which the faults fall that are counted.
	Within time.Duration

	// Sparse lets offsets grow by more than one.
	Sparse bool
}

// RandomFaults draws faults that fit a test of some seconds: a few kinds, rarely
// all, so that each is also met without the noise of the others. One seed in
// eight has none that loses or forgets anything.
func RandomFaults(seed uint64, within time.Duration) Faults {
	r := source(seed, "faults")
	some := func(p float64, most time.Duration) time.Duration {
		if r.Float64() >= p {
			return 0
		}
		return 1 + time.Duration(r.Int64N(int64(most)))
	}
	chance := func(p, most float64) float64 {
		if r.Float64() >= p {
			return 0
		}
		return r.Float64() * most
	}
	count := func(p float64, most int) int {
		if r.Float64() >= p {
			return 0
		}
		return 1 + r.IntN(most)
	}
	f := Faults{
		Delay:     some(0.8, 50*time.Millisecond),
		Latency:   some(0.8, 30*time.Millisecond),
		Interest:  some(0.5, 100*time.Millisecond),
		Lag:       some(0.5, 300*time.Millisecond),
		Duplicate: chance(0.3, 0.3),
		Overtake:  chance(0.3, 0.3),
		NoPrev:    chance(0.1, 1),
		Sparse:    r.IntN(2) == 0,
		Within:    within,
	}
	if cuts := source(seed, "cuts"); cuts.IntN(2) == 0 {
		f.Cut = cuts.Float64()
	}
	if r.IntN(8) == 0 {
		return f
	}
	f.Loss = chance(0.4, 0.4)
	f.Announce = []float64{0, r.Float64(), 1}[r.IntN(3)]
	f.Refuse = chance(0.25, 0.3)
	f.Unsure = chance(0.2, 0.2)
	f.Cuts = count(0.3, 3)
	f.Outages = count(0.15, 2)
	f.Break = 1 + time.Duration(r.Int64N(int64(within/2)))
	f.Trims = count(0.25, 3)
	f.Resets = count(0.2, 2)
	if ends := source(seed, "ends"); ends.IntN(5) == 0 {
		f.Ends = 1 + ends.IntN(2)
	}
	return f
}

// source returns random numbers that depend on the seed and the words alone: what
// happens in one place does not change what happens in another.
func source(seed uint64, words ...any) *rand.Rand {
	h := fnv.New64a()
	var b [8]byte
	number := func(n uint64) {
		for i := range b {
			b[i] = byte(n >> (8 * i))
		}
		h.Write(b[:])
	}
	number(seed)
	for _, w := range words {
		switch w := w.(type) {
		case string:
			h.Write([]byte(w))
			number(uint64(len(w)))
		case int:
			number(uint64(w))
		}
	}
	return rand.New(rand.NewPCG(h.Sum64(), seed))
}

// A span is a time in which something does not work.
type span struct{ from, to time.Time }

func during(spans []span, t time.Time) bool {
	for _, s := range spans {
		if !t.Before(s.from) && t.Before(s.to) {
			return true
		}
	}
	return false
}
