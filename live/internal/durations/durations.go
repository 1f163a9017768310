// Package durations counts durations by their size, as a histogram does. Nothing is allocated for a
// duration, and no lock is taken.
package durations

import (
	"slices"
	"sync/atomic"
	"time"
)

// Buckets is how many sizes are told apart: those up to each bound, and those over the last.
const Buckets = 16

// bounds are the largest durations of the buckets, except of the last bucket, which has no bound. A
// publication reaches the sockets of a server that is not busy in less than a millisecond. AuthTimeout
// and the timeout of a Snapshot are ten seconds.
var bounds = [Buckets - 1]time.Duration{
	100 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Bounds returns the largest durations of the buckets, except of the last bucket.
func Bounds() []time.Duration { return slices.Clone(bounds[:]) }

// Counter counts durations. The zero value is ready for use.
type Counter struct {
	counts [Buckets]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

// Add counts a duration. A negative duration counts as 0: the clock of some machines goes back.
func (c *Counter) Add(d time.Duration) {
	d = max(d, 0)
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	c.counts[i].Add(1)
	c.sum.Add(int64(d))
}

// AddTo adds the counts and the sum of all durations to those of the caller.
func (c *Counter) AddTo(counts *[Buckets]uint64, sum *time.Duration) {
	for i := range c.counts {
		counts[i] += c.counts[i].Load()
	}
	*sum += time.Duration(c.sum.Load())
}
