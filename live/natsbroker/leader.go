package natsbroker

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// leaseTime is how long a leader is surely the only leader after a majority has answered it:
// the other nodes wait at least four seconds before they elect another.
const leaseTime = 3 * time.Second

// deposed returns an error if a stream's information may be out of date. A leader that is cut
// off still takes itself for the leader for up to twenty seconds. A copy that has heard from no
// leader for ten seconds answers too. So does a node that has just started and has not joined
// the other copies yet: it names itself as the leader, and names no other copy.
func deposed(info *jetstream.StreamInfo) error {
	if info.Cluster == nil {
		return nil
	}
	if info.Cluster.Leader == "" {
		return fmt.Errorf("%w: it has no leader", broker.ErrUnavailable)
	}
	if info.Config.Replicas > 1 && len(info.Cluster.Replicas) == 0 {
		return fmt.Errorf("%w: node %s has not joined the other copies of it yet", broker.ErrUnavailable, info.Cluster.Leader)
	}
	heard := 1 // the leader itself
	for _, r := range info.Cluster.Replicas {
		if r.Active < leaseTime && !(r.Active == 0 && r.Offline) { // Active is zero if the node has not answered since the election
			heard++
		}
	}
	if all := 1 + len(info.Cluster.Replicas); heard <= all/2 {
		return fmt.Errorf("%w: its leader has heard from %d of %d nodes", broker.ErrUnavailable, heard, all)
	}
	return nil
}

// lossCheck tells a stream that has lost messages from a leader that was cut off and is back.
// Both answer with less than was seen before, or with an epoch that has ended. Such answers are believed after they have lasted
// longer than such a leader can take itself for the leader. The zero value has seen no such
// answer.
type lossCheck struct {
	firstAt  atomic.Int64 // when the first such answer came, on the clock of package clock; 0: none came
	latestAt atomic.Int64
}

// maxPause is the longest pause between two such answers. After a longer pause nobody knows
// what the leader would have answered in between.
const maxPause = 2 * leaseTime

// sawAll notes an answer that has all that was seen.
func (l *lossCheck) sawAll() { l.firstAt.Store(0) }

// sawLess notes an answer that has less than was seen, and reports whether the loss is to be
// believed.
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
