package live

import (
	"context"
	"testing"

	"github.com/livetopic/livetopic/live/broker"
)

// unreachable is a broker that has a history and does not say where it ends.
type unreachable struct{ *MemoryBroker }

func (unreachable) Keeps(string) bool { return true }

func (unreachable) Last(context.Context, string) (Position, error) {
	return Position{}, ErrUnavailable
}

func TestRepairThatGivesUpLeavesNothingParked(t *testing.T) {
	server := New(Options{Broker: unreachable{NewMemoryBroker(MemoryOptions{})}})
	defer server.Shutdown(context.Background())
	ts := server.topics
	topic := ts.lock("t")
	feed := topic.feed
	feed.started, feed.repair, feed.overrun = true, true, true
	feed.park(&broker.Publication{Topic: "t", Position: Position{Epoch: "e", Offset: 1}})
	topic.pins++
	topic.mu.Unlock()

	ts.repair(topic) // nobody subscribes, so it gives up after the first attempt

	topic.mu.Lock()
	defer topic.mu.Unlock()
	if feed.repair || len(feed.parked) != 0 || feed.parkedBefore != 0 || feed.overrun {
		t.Errorf("repair %t, %d parked, %d of them before, overrun %t", feed.repair, len(feed.parked), feed.parkedBefore, feed.overrun)
	}
}
