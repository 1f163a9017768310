package live

import (
	"context"
	"time"
)

// inboundLimit is how fast a client may send. every 0: no bound.
type inboundLimit struct {
	every time.Duration // time that one message costs
	burst time.Duration // time that may be owed
}

func newInboundLimit(rate, burst int) inboundLimit {
	if rate < 0 {
		return inboundLimit{}
	}
	every := time.Second / time.Duration(rate)
	return inboundLimit{every: every, burst: time.Duration(burst) * every}
}

// limiter counts one client's messages as time owed (the generic cell rate
// algorithm): eight bytes a session.
type limiter struct {
	paid time.Time // when all that was sent so far is paid for
}

// take counts one message and returns how long to wait before the next is read.
func (l *limiter) take(limit inboundLimit) time.Duration {
	if limit.every == 0 {
		return 0
	}
	now := time.Now()
	if l.paid.Before(now) {
		l.paid = now
	}
	l.paid = l.paid.Add(limit.every)
	return l.paid.Sub(now) - limit.burst
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
