package natsbroker

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// leaseTime is for how long a leader that has heard from a majority is surely the only
// one: the others wait for four seconds at least before they elect another.
const leaseTime = 3 * time.Second

// deposed returns an error if what was said of a stream may be out of date. A leader that is
// cut off holds itself for the leader for up to twenty seconds. A copy that has heard from no
// leader for ten seconds answers too.
func deposed(info *jetstream.StreamInfo) error {
	if info.Cluster == nil {
		return nil
	}
	if info.Cluster.Leader == "" {
		return fmt.Errorf("%w: it has no leader", live.ErrUnavailable)
	}
	heard := 1 // itself
	for _, r := range info.Cluster.Replicas {
		if r.Active < leaseTime && !(r.Active == 0 && r.Offline) { // zero: not yet since its election
			heard++
		}
	}
	if all := 1 + len(info.Cluster.Replicas); heard <= all/2 {
		return fmt.Errorf("%w: its leader has heard from %d of %d nodes", live.ErrUnavailable, heard, all)
	}
	return nil
}

// lossCheck tells answers that have less than was seen before from those of a leader that was
// cut off, and is back: they are to be believed once they have lasted for longer than it can hold
// itself for one. Its zero value has no such answers.
type lossCheck struct {
	firstAt  atomic.Int64 // the first of them, on the clock of package clock; 0: there was none
	latestAt atomic.Int64
}

// maxPause is how far apart two such answers may be. With more between them nobody knows what an
// answer in between would have been.
const maxPause = 2 * leaseTime

// sawAll takes note of an answer that has all.
func (l *lossCheck) sawAll() { l.firstAt.Store(0) }

// sawLess takes note of an answer that has less, and reports whether it is to be sawLess.
func (l *lossCheck) sawLess() bool {
	now := clock.Now()
	before := l.latestAt.Swap(now)
	since := l.firstAt.Load()
	if since == 0 || now-before > int64(maxPause) {
		l.firstAt.Store(now)
		return false
	}
	return now-since >= int64(leaseTime)
}
