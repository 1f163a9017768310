package durations

import (
	"testing"
	"time"
)

// Each bound is the largest duration of its bucket.
func TestDurationsAreCountedByTheirSize(t *testing.T) {
	var c Counter
	c.Add(-time.Second)
	var want [Buckets]uint64
	want[0] = 1
	var sum time.Duration
	for i, bound := range Bounds() {
		if i > 0 && bound <= Bounds()[i-1] {
			t.Fatalf("bound %d is %v, after %v", i, bound, Bounds()[i-1])
		}
		c.Add(bound)
		c.Add(bound + 1)
		want[i]++
		want[i+1]++
		sum += 2*bound + 1
	}
	for range 2 { // AddTo adds, and leaves the Counter as it is
		var counts [Buckets]uint64
		var got time.Duration
		c.AddTo(&counts, &got)
		if counts != want || got != sum {
			t.Errorf("%v, %v; want %v, %v", counts, got, want, sum)
		}
	}
}

func TestCountingADurationAllocatesNothing(t *testing.T) {
	var c Counter
	if n := testing.AllocsPerRun(100, func() { c.Add(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
