package brokertest

import (
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// Features says what a broker can do. Run tests the promises that belong to that.
type Features struct {
	// History: the broker is a broker.Recoverer.
	History bool

	// Bus: the broker is a broker.Bus.
	Bus bool

	// Nodes returns the brokers of n nodes of a new system. They are not started. The
	// suite closes each of them. nil: the system has one node, and promises between
	// several nodes are not tested.
	Nodes func(t *testing.T, n int) []live.Broker

	// Local: the broker delivers topics without history from within Publish. So
	// publications of several publishers may come at the same time, and those of topics
	// without a subscriber come too. The server drops the latter.
	Local bool

	// Topic returns the name of a topic whose history is as long as the options say.
	// It makes the name from another name, and different names give different topics.
	// It is for brokers that have rules of their own for histories. The suite asks for
	// histories of 10 and of 1,000 publications, and of 10 publications for 300 ms.
	// nil: the broker follows the PublishOptions, and the name is used as it is.
	Topic func(name string, o broker.PublishOptions) string

	// LoseEnd makes the store of a started broker lose at least the newest publication
	// of a topic, as when a machine loses power. It returns a broker on the rest of the
	// store: the same broker, or another that is not started. nil: such a loss cannot
	// happen, or the store loses everything.
	LoseEnd func(t *testing.T, b live.Broker, topic string) live.Broker

	// IDs: on a topic with history, the broker makes a publication with an ID only
	// once, as broker.PublishOptions says.
	IDs bool

	// Keys: the broker keeps keyed topics, as broker.PublishOptions.Keyed says. The suite's keyed topic is
	// named "keyed", and the sink that it starts the broker with says so as broker.Rules.
	Keys bool

	// Quiet is how long no publication must come before the suite believes that no more
	// will come. 0: 50 ms.
	Quiet time.Duration
}

// Run tests that a broker keeps the promises of live.Broker. As far as Features say so,
// it also tests the promises of broker.Recoverer and broker.Bus. make returns a new
// broker that is not started. The suite starts it, and closes it.
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
	if f.Keys {
		run(keyed, func(s *suite) {
			for _, b := range nodes(s.T, 3) {
				s.startKeyed(b)
			}
		})
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

// promise is a test. Its name is the promise that a broker must keep.
type promise struct {
	name string
	test func(s *suite)
}
