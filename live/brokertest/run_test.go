package brokertest_test

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/brokertest"
	"github.com/livetopic/livetopic/live/internal/simcluster"
)

func TestMemoryBroker(t *testing.T) {
	brokertest.Run(t, func(t *testing.T) live.Broker {
		return live.NewMemoryBroker(live.MemoryOptions{})
	}, brokertest.Features{History: true, Bus: true, Local: true, IDs: true, Keys: true})
}

func TestFromPubSub(t *testing.T) {
	brokertest.Run(t, func(t *testing.T) live.Broker {
		return live.FromPubSub(&exchange{})
	}, brokertest.Features{
		Bus: true,
		Nodes: func(t *testing.T, n int) []live.Broker {
			shared := &exchange{}
			nodes := make([]live.Broker, n)
			for i := range nodes {
				nodes[i] = live.FromPubSub(sharedExchange{shared})
			}
			return nodes
		},
	})
}

// A Sim without faults is a correct broker.
func TestSimWithoutFaults(t *testing.T) {
	var sim *simcluster.Sim
	nodes := func(t *testing.T, n int) []live.Broker {
		sim = simcluster.NewSim(1, n, simcluster.Faults{Sparse: true})
		brokers := make([]live.Broker, n)
		for i := range brokers {
			brokers[i] = sim.Node(i)
		}
		return brokers
	}
	brokertest.Run(t, func(t *testing.T) live.Broker {
		return nodes(t, 1)[0]
	}, brokertest.Features{History: true, Bus: true, Keys: true, Nodes: nodes, LoseEnd: func(_ *testing.T, b live.Broker, topic string) live.Broker {
		sim.LoseEnd(topic, 5)
		return b
	}})
}

// exchange is a messaging system with as few features as possible.
type exchange struct {
	mu     sync.Mutex
	subs   []*subscriber
	closed bool
}

type subscriber struct {
	*exchange
	subject string
	handler func([]byte)
}

var errClosed = errors.New("exchange is closed")

func (x *exchange) Publish(subject string, data []byte) error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return errClosed
	}
	subs := slices.Clone(x.subs)
	x.mu.Unlock()
	for _, sub := range subs {
		if sub.subject == subject {
			sub.handler(slices.Clone(data))
		}
	}
	return nil
}

func (x *exchange) Subscribe(subject string, handler func([]byte)) (live.Subscription, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, errClosed
	}
	sub := &subscriber{x, subject, handler}
	x.subs = append(x.subs, sub)
	return sub, nil
}

func (s *subscriber) Unsubscribe() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = slices.DeleteFunc(s.subs, func(other *subscriber) bool { return other == s })
	return nil
}

func (x *exchange) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	return nil
}

// sharedExchange is the connection of one node to an exchange. The exchange goes on when the
// node has closed the connection.
type sharedExchange struct{ *exchange }

func (sharedExchange) Close() error { return nil }
