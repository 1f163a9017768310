package brokertest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// buses are the promises of a broker that can speak to all servers.
var buses = []promise{
	{"a broadcast reaches every server, the sender too, in order", func(s *suite) {
		s.connectBus()
		const each = 100
		ctx := s.ctx()
		var wg sync.WaitGroup
		for i, n := range s.nodes {
			wg.Go(func() {
				for j := range each {
					if err := n.Broker.(broker.Bus).Broadcast(ctx, []byte(number(i, j))); err != nil {
						s.Errorf("Broadcast: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		for _, n := range s.nodes {
			for i := range s.nodes {
				var want []string
				for j := range each {
					want = append(want, number(i, j))
				}
				prefix := fmt.Sprintf("[%d,", i)
				s.eventually(func() bool { return slices.Equal(n.bus.heard(prefix), want) }, func() string {
					return fmt.Sprintf("of %q came %.300q", want, n.bus.heard(prefix))
				})
			}
		}
	}},

	{"the data of a broadcast is left as it is", func(s *suite) {
		s.connectBus()
		data := []string{"[x", "[ \x00 \xff", "[" + string(slices.Repeat([]byte("x"), 100_000))}
		for _, d := range data {
			if err := s.nodes[0].Broker.(broker.Bus).Broadcast(s.ctx(), []byte(d)); err != nil {
				s.Fatal(err)
			}
		}
		for _, n := range s.nodes {
			s.eventually(func() bool { return slices.Equal(n.bus.heard("["), data) }, func() string {
				return fmt.Sprintf("%.300q came", n.bus.heard("["))
			})
		}
	}},

	{"a broadcast from within a broadcast does not block", func(s *suite) {
		n := s.nodes[0]
		n.bus.during = func(b []byte) {
			if strings.HasPrefix(string(b), "probe") {
				n.Broker.(broker.Bus).Broadcast(s.ctx(), append([]byte("again "), b...))
			}
		}
		s.connectBus()
		s.eventually(func() bool { return len(n.bus.heard("again probe 0")) > 0 }, func() string { return "it did not come" })
	}},
}

// busRecorder records the broadcasts that a broker hands over.
type busRecorder struct {
	during func(b []byte) // called for each broadcast; set before the first broadcast

	mu  sync.Mutex
	got []string // guarded by mu
}

func (r *busRecorder) take(b []byte) {
	r.mu.Lock()
	r.got = append(r.got, string(b))
	r.mu.Unlock()
	if r.during != nil {
		r.during(b)
	}
}

// heard returns the broadcasts that begin with a prefix.
func (r *busRecorder) heard(prefix string) (data []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.got {
		if strings.HasPrefix(b, prefix) {
			data = append(data, b)
		}
	}
	return data
}

// startBus starts a broker whose broadcasts are recorded.
func (s *suite) startBus(b live.Broker) {
	bus, ok := b.(broker.Bus)
	if !ok {
		s.Fatalf("%T is no broker.Bus", b)
	}
	r := &busRecorder{}
	bus.OnBroadcast(r.take)
	s.start(b).bus = r
}

// connectBus waits until broadcasts of every node reach all nodes.
func (s *suite) connectBus() {
	s.Helper()
	for i, from := range s.nodes {
		mark := fmt.Sprintf("probe %d", i)
		heard := func() bool {
			for _, n := range s.nodes {
				if len(n.bus.heard(mark)) == 0 {
					return false
				}
			}
			return true
		}
		for deadline := time.Now().Add(patience); !heard(); time.Sleep(2 * time.Millisecond) {
			if err := from.Broker.(broker.Bus).Broadcast(s.ctx(), []byte(mark)); err != nil {
				s.Fatalf("Broadcast: %v", err)
			}
			if time.Now().After(deadline) {
				s.Fatalf("after %v, broadcasts of node %d do not reach all nodes", patience, i)
			}
		}
	}
}
