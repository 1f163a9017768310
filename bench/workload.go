package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/livetopic/livetopic/bench/load"
	"github.com/livetopic/livetopic/bench/server"
	"github.com/livetopic/livetopic/bench/wire"
)

// workload is one section of the report: one or more cases, each of which every
// server goes through in turn.
type workload struct {
	Name     string
	Title    string
	About    string
	Roles    []server.Role // that take part; nil: all
	Rounds   int           // fewer than the flag says, for what takes long or hardly varies; 0: as the flag says
	Cases    []testcase
	Table    func(results) table
	Headline column // stands for the workload in the summary, the chart and the progress lines; less is better
}

// takesPart returns the servers that the workload is for.
func (w workload) takesPart(kinds []server.Kind) []server.Kind {
	return slices.DeleteFunc(slices.Clone(kinds), func(k server.Kind) bool {
		return w.Roles != nil && !slices.Contains(w.Roles, k.Role)
	})
}

// testcase is one run of one server in a process of its own.
type testcase struct {
	Label string // of the column, where there are several
	Run   func(env, server.Kind) (figures, error)
}

// figures are what one run yields; which of them depends on the workload.
type figures struct {
	CPU    float64 // of the server process, ns a delivery, or a dial
	Rate   float64 // deliveries, or dials, a second
	Allocs float64 // a delivery, or a dial
	RSS    float64 // bytes at the end

	P50, P99, P999, Max float64 // ns from the intended time to arrival, or from the dial to the greeting

	SessionRSS, SessionHeap, SessionStack float64 // bytes a session

	Served   float64 // ns until the last of many clients had what it came for
	Failures float64 // sessions that were not served
	Quiet    float64 // P99 without the disturbance

	Note string
}

// env is the same for all runs.
type env struct {
	Time    time.Duration // to measure in each run
	Options server.Options
	Profile string // of the server process; empty: none
	CPUs    []int  // of the server process; empty: any
}

// audience says who hears what: session i is subscribed to every topic whose block
// of sessions it is in.
type audience struct {
	Topics   int
	Sessions int // in all
	Each     int // subscribers of each topic
	Payload  int // bytes
}

// check makes sure that the blocks fit.
func (a audience) check() error {
	if a.Topics < 1 || a.Sessions < 1 || a.Each < 1 {
		return fmt.Errorf("there must be topics, sessions and subscribers: %+v", a)
	}
	if a.Sessions%a.Each != 0 {
		return fmt.Errorf("%d sessions are no multiple of %d a topic", a.Sessions, a.Each)
	}
	return wire.CheckPayloadSize(a.Payload)
}

// sessions lists every session's topics. The stream of a topic is its number.
func (a audience) sessions() []load.Session {
	sessions := make([]load.Session, a.Sessions)
	blocks := a.Sessions / a.Each
	for topic := range a.Topics {
		name := wire.TopicName(topic)
		first := topic % blocks * a.Each
		for i := first; i < first+a.Each; i++ {
			s := &sessions[i]
			s.Topics = append(s.Topics, name)
			s.Streams = append(s.Streams, uint32(topic))
		}
	}
	return sessions
}

// stage is a server process with its sessions, subscribed.
type stage struct {
	*child
	load          *load.Generator
	subscriptions int // that must be in force
}

// setUp starts a server and connects the sessions to it.
func setUp(e env, kind server.Kind, sessions []load.Session, payload int) (*stage, error) {
	s, err := start(e, kind, payload)
	if err != nil {
		return nil, err
	}
	if err := s.dial(sessions, handshakes); err != nil {
		s.tearDown()
		return nil, err
	}
	return s, nil
}

// handshakes is how many sessions dial at a time where dialing is not measured. It is far
// less than any listen backlog.
const handshakes = 128

// start starts a server, and a generator for it.
func start(e env, kind server.Kind, payload int) (*stage, error) {
	c, err := startServer(e, kind)
	if err != nil {
		return nil, err
	}
	s := &stage{child: c}
	s.load, err = load.New(load.Options{
		Address:    s.Address,
		Dialect:    kind.Dialect,
		Payload:    payload,
		TLS:        e.Options.TLS,
		Subscribed: e.Options.Topic != "" && !kind.NoHook,
		Greeted:    e.Options.Greeting != nil,
	})
	if err != nil {
		s.tearDown()
		return nil, err
	}
	return s, nil
}

// dial connects more sessions, and returns when all are subscribed.
func (s *stage) dial(sessions []load.Session, underWay int) error {
	if need := s.subscriptions + len(sessions) + 100; need > server.FileLimit() {
		return fmt.Errorf("%d sessions need more open files than the limit of %d", len(sessions), server.FileLimit())
	}
	if err := s.load.Dial(sessions, underWay); err != nil {
		return err
	}
	for _, session := range sessions {
		s.subscriptions += len(session.Topics)
	}
	return s.awaitSubscriptions(s.subscriptions - s.load.Failed)
}

// subscribeTimeout is how long all subscriptions together may take.
const subscribeTimeout = 30 * time.Second

func (s *stage) awaitSubscriptions(total int) error {
	for start := time.Now(); ; {
		reply, err := s.ask(server.Command{Op: server.OpSubscriptions})
		if err != nil {
			return err
		}
		if reply.Subscriptions >= total {
			return s.load.Quiet(5 * time.Millisecond) // the acknowledgements are on their way still
		}
		if time.Since(start) > subscribeTimeout {
			return fmt.Errorf("%d of %d subscriptions after %s", reply.Subscriptions, total, subscribeTimeout)
		}
		if err := s.load.Quiet(2 * time.Millisecond); err != nil {
			return err
		}
	}
}

func (s *stage) tearDown() {
	if s.load != nil {
		s.load.Close()
	}
	s.stop()
}

// open and close begin and end the measuring.
func (s *stage) open() error {
	_, err := s.ask(server.Command{Op: server.OpOpen})
	return err
}

func (s *stage) close() (server.Usage, error) {
	reply, err := s.ask(server.Command{Op: server.OpClose})
	if err != nil {
		return server.Usage{}, err
	}
	return *reply.Usage, nil
}

// publish has the server publish size bytes count times, in turn over topics from the first.
// The measuring begins with it.
func (s *stage) publish(from, count, first, topics, size int) error {
	return s.tell(server.Command{Op: server.OpBurst, From: from, Count: count, First: first, Topics: topics, Size: size})
}

// afterQuiet is how long a run waits at its end for deliveries that must not come.
const afterQuiet = 50 * time.Millisecond

// perDelivery divides what was used.
func perDelivery(u server.Usage, deliveries int) figures {
	n := float64(deliveries)
	return figures{
		CPU:    float64(u.CPU) / n,
		Rate:   n / u.Wall.Seconds(),
		Allocs: float64(u.Allocs) / n,
		RSS:    float64(u.RSS),
	}
}
