package simcluster_test

import (
	"fmt"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/simcluster"
)

// This cluster loses a tenth of the deliveries. A server uses one of its nodes.
func ExampleSim() {
	sim := simcluster.NewSim(1, 3, simcluster.Faults{
		Loss:  0.1,
		Delay: 10 * time.Millisecond,
	})
	server := live.New(live.Options{
		Broker: sim.Node(0),
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 100} },
	})
	for i := range 3 {
		server.Publish("news", fmt.Append(nil, i))
	}
	for _, e := range sim.Log("news") {
		fmt.Printf("%s at %d\n", e.Data, e.Offset)
	}
	// Output:
	// 0 at 1
	// 1 at 2
	// 2 at 3
}
