package live

import (
	"math"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

func TestLimiterLetsABurstThroughAndThenTheRate(t *testing.T) {
	r := newRate(10, 5)
	var l limiter
	now := int64(1) << 62
	for i := range 5 {
		if wait := l.take(1, r, now); wait > 0 {
			t.Fatalf("message %d waits %v", i, wait)
		}
	}
	if wait := l.take(1, r, now); wait != 100*time.Millisecond {
		t.Errorf("the next waits %v", wait)
	}
	if wait := l.take(9, r, now); wait != time.Second {
		t.Errorf("nine more wait %v", wait)
	}
	now += int64(time.Hour)
	if wait := l.take(6, r, now); wait != 100*time.Millisecond {
		t.Errorf("after an hour six wait %v", wait)
	}
}

func TestRatesAtTheirExtremes(t *testing.T) {
	now := int64(1) << 62
	for _, c := range []struct {
		rate, burst int
		waits       bool // a million units do
	}{
		{1, math.MaxInt, false}, {math.MaxInt, math.MaxInt, false}, {math.MaxInt, 1, true}, {1, 1, true}, {-1, 1, false}, {-1, math.MaxInt, false},
	} {
		var l limiter
		r := newRate(c.rate, c.burst)
		if wait := l.take(1_000_000, r, now); wait > 0 != c.waits {
			t.Errorf("rate %d, burst %d: a million units wait %v", c.rate, c.burst, wait)
		}
		l.take(math.MaxInt, r, now) // is not too much to count
	}
}

// However small the pieces are in which a message comes, all of it counts.
func TestPiecesOfAMessageCount(t *testing.T) {
	s := &Session{server: &Server{inbound: newRate(1, math.MaxInt)}}
	now := clock.Now()
	for range 1024 {
		s.charge(0, 1000)
	}
	if owed := time.Duration(s.inbound.received.paidUntil - now); owed < 1000*time.Second {
		t.Errorf("1,024,000 bytes in pieces count as %v", owed)
	}
}
