package brokertest_test

import (
	"fmt"
	"testing"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/brokertest"
)

// This is the test of a broker. Here it is the broker in memory.
func ExampleRun() {
	_ = func(t *testing.T) { // func TestBroker(t *testing.T)
		brokertest.Run(t, func(t *testing.T) live.Broker {
			return live.NewMemoryBroker(live.MemoryOptions{})
		}, brokertest.Features{History: true, Bus: true})
	}
}

// This broker has several nodes, and rules of its own for histories.
func ExampleRun_nodes() {
	type cluster struct { /* … */
	}
	start := func(t *testing.T) *cluster { /* … */ return nil }
	connect := func(t *testing.T, c *cluster) live.Broker { /* … */ return nil }

	_ = func(t *testing.T) { // func TestBroker(t *testing.T)
		brokertest.Run(t, func(t *testing.T) live.Broker {
			return connect(t, start(t))
		}, brokertest.Features{
			History: true,
			Nodes: func(t *testing.T, n int) []live.Broker {
				c := start(t)
				nodes := make([]live.Broker, n)
				for i := range nodes {
					nodes[i] = connect(t, c)
				}
				return nodes
			},
			Topic: func(name string, o broker.PublishOptions) string {
				switch {
				case o.History == 0:
					return name
				case o.HistoryAge > 0:
					return "fleeting:" + name
				default:
					return fmt.Sprintf("keep%d:%s", o.History, name)
				}
			},
		})
	}
}
