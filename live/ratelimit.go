package live

import (
	"context"
	"math"
	"time"
)

// rate is how much a client may do in a second. If every is 0 there is no bound.
type rate struct {
	every time.Duration // time that one unit costs
	burst time.Duration // time that may be owed
}

// Units of Options.InboundRate. A message, a ping, a fragment and an operation count one
// unit each. Payload counts one more unit for so many bytes:
const (
	inboundUnit = 1 << 10 // bytes that a client sends
	answerUnit  = 4 << 10 // bytes of history that it asks for: they need not be decoded

	// deflatedUnit is answerUnit for a client with compression, which costs more than
	// copying. Everything counts with its size before compression.
	deflatedUnit = 1 << 10

	// readUnit is for what the broker read to find out where an answer begins. It counts
	// also where nothing is sent.
	readUnit = 16 << 10
)

func newRate(perSecond, burst int) rate {
	if perSecond < 0 {
		return rate{}
	}
	every := max(time.Second/time.Duration(perSecond), 1)
	if time.Duration(burst) > math.MaxInt64/2/every {
		return rate{every: every, burst: math.MaxInt64 / 2}
	}
	return rate{every: every, burst: time.Duration(burst) * every}
}

// limiter counts what a client does, as time that it owes (the generic cell rate algorithm). It
// takes eight bytes for each session.
type limiter struct {
	paidUntil int64 // the time at which everything counted so far is paid for
}

// take counts some units at a time and returns how long the client then has to wait.
func (l *limiter) take(units int, r rate, now int64) time.Duration {
	if r.every == 0 || units <= 0 {
		return 0
	}
	l.paidUntil = max(l.paidUntil, now)
	l.paidUntil += min(int64(units), math.MaxInt64/4/int64(r.every)) * int64(r.every)
	return time.Duration(l.paidUntil-now) - r.burst
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// allow counts one unit if the rate allows it now, and reports whether it does.
func (l *limiter) allow(r rate, now int64) bool {
	if r.every == 0 {
		return true
	}
	paidUntil := max(l.paidUntil, now) + int64(r.every)
	if paidUntil-now > int64(r.burst) {
		return false
	}
	l.paidUntil = paidUntil
	return true
}
