package brokertest

import (
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// Features says what a broker can do, so that Run knows what to hold it to.
type Features struct {
	// History: the broker is a broker.Recoverer.
	History bool

	// Bus: the broker is a broker.Bus.
	Bus bool

	// Nodes returns the brokers of n nodes of a new system, not started. Each is
	// closed by the suite. nil: the system has one node, and what is promised
	// between several is not tested.
	Nodes func(t *testing.T, n int) []live.Broker

	// Local: the broker delivers topics without history from within Publish, to a
	// server that drops what it has no subscriber for: several publishers' at one
	// time, and what nobody has subscribed to.
	Local bool

	// Topic returns the name of a topic that keeps what the options say, made
	// from a name that is no other's. It is for brokers with rules of their own;
	// histories are asked for of 10 and of 1,000 publications, and of 10 for
	// 300 ms. nil: the name itself, since the broker does what the
	// PublishOptions say.
	Topic func(name string, o broker.PublishOptions) string

	// LoseEnd has the store of a started broker lose at least the newest of a topic's
	// publications, as when a machine loses power, and returns a broker on what is left
	// of it: the same one, or one that is not started. nil: the store loses nothing, or
	// everything.
	LoseEnd func(t *testing.T, b live.Broker, topic string) live.Broker

	// IDs: the broker makes a publication with an ID once on a topic with history, as
	// broker.PublishOptions says.
	IDs bool

	// Quiet is how long nothing must come before the suite believes that nothing
	// will. 0: 50 ms.
	Quiet time.Duration
}

// Run tests that a broker keeps what live.Broker promises and, as far as Features
// say so, broker.Recoverer and broker.Bus. make returns a broker that is new and not
// started; the suite starts it, and closes it.
//
// The tests run one after another. With the race detector on, they also show that
// the broker may be used by many goroutines.
func Run(t *testing.T, make func(t *testing.T) live.Broker, f Features) {
	if f.Topic == nil {
		f.Topic = func(name string, _ broker.PublishOptions) string { return name }
	}
	if f.Quiet == 0 {
		f.Quiet = 50 * time.Millisecond
	}
	nodes := f.Nodes
	if nodes == nil {
		nodes = func(t *testing.T, _ int) []live.Broker { return []live.Broker{make(t)} }
	}
	run := func(promises []promise, start func(s *suite)) {
		for _, p := range promises {
			t.Run(p.name, func(t *testing.T) {
				s := &suite{T: t, Features: f, make: make}
				start(s)
				p.test(s)
			})
		}
	}
	alone := func(s *suite) { s.start(make(s.T)) }
	several := func(s *suite) {
		for _, b := range nodes(s.T, 3) {
			s.start(b)
		}
	}
	run(delivery, alone)
	run(endings, alone)
	if f.History {
		run(histories, alone)
	}
	if f.Nodes != nil {
		run(spread, several)
		if f.History {
			run(spreadHistories, several)
		}
	}
	if f.Bus {
		run(buses, func(s *suite) {
			for _, b := range nodes(s.T, 3) {
				s.startBus(b)
			}
		})
	}
}

// promise is a test, named after what it holds a broker to.
type promise struct {
	name string
	test func(s *suite)
}
