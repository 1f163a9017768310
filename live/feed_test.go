package live_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// tapped is a broker through whose sink a test can deliver.
type tapped struct {
	*live.MemoryBroker
	sink broker.Sink
}

func (*tapped) InProcess() bool { return false }

func (b *tapped) Start(s broker.Sink) {
	b.sink = s
	b.MemoryBroker.Start(s)
}

// A delivery of a history that is no more may come late. It belongs nowhere, and
// what follows is not held up.
func TestDeliveryOfABygoneHistoryIsDropped(t *testing.T) {
	t.Parallel()
	br := &tapped{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 10}, br)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Must(livetest.SubscribeTo(1, "t"))
	livetest.PublishNumbers(t, server, "t", 1, 2)
	c.Hears("t", "1", "2")
	br.sink.Deliver(&broker.Publication{
		Topic: "t", Data: []byte(`"late"`), Time: time.Now(), Position: live.Position{Epoch: "bygone", Offset: 7}, Prev: 6,
	})
	livetest.PublishNumbers(t, server, "t", 3, 4)
	for heard := 0; heard < 2; {
		f := c.Next()
		if f.Op == "gap" {
			continue
		}
		if want := fmt.Sprint(3 + heard); string(f.Data) != want {
			t.Fatalf("got %s, want %s", f.Raw, want)
		}
		heard++
	}
	c.Must(livetest.UnsubscribeFrom(2, "t"))
	livetest.Eventually(t, "the topic's end", func() bool { return server.Stats().Topics == 0 })
}
