package simcluster

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// Faults says what goes wrong in a Sim, and how often. Chances are between 0 and
// 1. A duration is an upper bound, and each case draws one below it. The zero value is
// a cluster without faults, in which calls and deliveries take no time.
type Faults struct {
	// Delay is how long a delivery takes to arrive. Deliveries of one topic stay in
	// order. Deliveries of different topics need not.
	Delay time.Duration

	// Latency is how long a call takes. The call reads or writes after half of that.
	Latency time.Duration

	// Interest is how long it takes after Subscribe until other nodes know of it.
	// Only later publications of other nodes come.
	Interest time.Duration

	// Lag is how much the copies that answer Read and Tail lag.
	Lag time.Duration

	// Cut is the chance that a page ends early, as if it were too large for memory.
	// A page of Read ends after one publication or more, a page of Tail after 128 kB
	// or more. A tail of a copy that lags is not cut, but if it is that large it is
	// empty.
	Cut float64

	// Loss, Duplicate and Overtake are the chances that a delivery to one node is
	// lost, comes twice, or comes before the delivery that it should follow.
	Loss, Duplicate, Overtake float64

	// NoPrev is the chance that the Prev of a delivered publication is 0.
	NoPrev float64

	// Announce is the chance that Lost is called after a loss.
	Announce float64

	// Refuse is the chance that a call fails and has no effect.
	Refuse float64

	// Unsure is the chance that Publish returns an error although the publication
	// was made.
	Unsure float64

	// Cuts is how many times a node is cut off. Then no publication reaches it. Half
	// of these times its calls fail too. Outages is how many times the calls of all
	// nodes fail. Each of these takes up to Break.
	Cuts, Outages int
	Break         time.Duration

	// Trims is how many times histories lose their oldest publications, or all of
	// them. Of keyed topics they lose removals only. Resets is how many times histories are lost, and begin again in another
	// epoch. Ends is how many times they lose their newest publications, and go on in
	// another epoch with the other publications.
	Trims, Resets, Ends int

	// Forget is how long a keyed topic remembers that a key was removed. 0: for ever.
	Forget time.Duration

	// Within is the time after NewSim in which Cuts, Outages, Trims, Resets and Ends
	// happen.
	Within time.Duration

	// Sparse lets offsets grow by more than one.
	Sparse bool
}

// RandomFaults draws faults that fit a test of some seconds. It draws a few kinds, and rarely
// all, so that each kind also happens without the noise of the others. One seed in
// eight has only faults that lose no deliveries and no history.
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
	if keys := source(seed, "forget"); keys.IntN(3) == 0 {
		f.Forget = 1 + time.Duration(keys.Int64N(int64(3*time.Second)))
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

// source returns random numbers that depend only on the seed and the words. So the faults
// in one place do not change the faults in another.
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

// span is a time in which calls or deliveries fail.
type span struct{ from, to time.Time }

// during reports whether t lies in one of the spans.
func during(spans []span, t time.Time) bool {
	for _, s := range spans {
		if !t.Before(s.from) && t.Before(s.to) {
			return true
		}
	}
	return false
}
