package brokertest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

// What a broker promises that can speak to all servers.
var buses = []promise{
	{"a broadcast reaches every server, the sender too, in order", func(s *suite) {
		s.connectBus()
		const each = 100
		ctx := s.ctx()
		var wg sync.WaitGroup
		for i, n := range s.nodes {
			wg.Go(func() {
				for j := range each {
					if err := n.Broker.(live.Bus).Broadcast(ctx, "a", []byte(number(i, j))); err != nil {
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
				s.eventually(func() bool { return slices.Equal(n.bus.heard("a", prefix), want) }, func() string {
					return fmt.Sprintf("of %q came %.300q", want, n.bus.heard("a", prefix))
				})
			}
		}
	}},

	{"kinds of broadcasts do not mix, and data is left as it is", func(s *suite) {
		s.connectBus()
		data := []string{"[x", "[ \x00 \xff", "[" + string(slices.Repeat([]byte("x"), 100_000))}
		for _, d := range data {
			if err := s.nodes[0].Broker.(live.Bus).Broadcast(s.ctx(), "b", []byte(d)); err != nil {
				s.Fatal(err)
			}
		}
		for _, n := range s.nodes {
			s.eventually(func() bool { return slices.Equal(n.bus.heard("b", "["), data) }, func() string {
				return fmt.Sprintf("%.300q came", n.bus.heard("b", "["))
			})
			if got := n.bus.heard("a", "["); len(got) > 0 {
				s.Errorf("as another kind came %.300q", got)
			}
		}
	}},

	{"a broadcast tells whom it is from", func(s *suite) {
		s.connectBus()
		names := make(map[string]int) // of the sender: its number
		for i := range s.nodes {
			mark := fmt.Sprintf("probe %d", i)
			for j, n := range s.nodes {
				from := n.bus.from("a", mark)
				if other, ok := names[from]; ok && other != i {
					s.Errorf("nodes %d and %d both are %q", i, other, from)
				}
				if j > 0 && names[from] != i {
					s.Errorf("node %d has several names", i)
				}
				names[from] = i
			}
		}
	}},

	{"a broadcast from within a broadcast does not block", func(s *suite) {
		n := s.nodes[0]
		n.bus.during = func(kind string, b []byte) {
			if kind == "a" {
				n.Broker.(live.Bus).Broadcast(s.ctx(), "b", b)
			}
		}
		s.connectBus()
		s.eventually(func() bool { return len(n.bus.heard("b", "probe 0")) > 0 }, func() string { return "it did not come" })
	}},
}

// busRecorder notes the broadcasts that a broker hands over.
type busRecorder struct {
	during func(kind string, b []byte) // called within each; set before anything is sent

	mu  sync.Mutex
	got []broadcast
}

type broadcast struct{ kind, from, data string }

func (r *busRecorder) take(kind, from string, b []byte) {
	r.mu.Lock()
	r.got = append(r.got, broadcast{kind, from, string(b)})
	r.mu.Unlock()
	if r.during != nil {
		r.during(kind, b)
	}
}

// heard returns the data of a kind that begins with a prefix.
func (r *busRecorder) heard(kind, prefix string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var data []string
	for _, b := range r.got {
		if b.kind == kind && len(b.data) >= len(prefix) && b.data[:len(prefix)] == prefix {
			data = append(data, b.data)
		}
	}
	return data
}

func (r *busRecorder) from(kind, data string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.got {
		if b.kind == kind && b.data == data {
			return b.from
		}
	}
	return ""
}

// startBus starts a broker whose broadcasts are recorded.
func (s *suite) startBus(b live.Broker) {
	bus, ok := b.(live.Bus)
	if !ok {
		s.Fatalf("%T is no live.Bus", b)
	}
	r := &busRecorder{}
	for _, kind := range []string{"a", "b"} {
		bus.OnBroadcast(kind, func(from string, data []byte) { r.take(kind, from, data) })
	}
	s.start(b).bus = r
}

// connectBus waits until what any node sends reaches all.
func (s *suite) connectBus() {
	s.Helper()
	for i, from := range s.nodes {
		mark := fmt.Sprintf("probe %d", i)
		heard := func() bool {
			for _, n := range s.nodes {
				if len(n.bus.heard("a", mark)) == 0 {
					return false
				}
			}
			return true
		}
		for deadline := time.Now().Add(patience); !heard(); time.Sleep(2 * time.Millisecond) {
			if err := from.Broker.(live.Bus).Broadcast(s.ctx(), "a", []byte(mark)); err != nil {
				s.Fatalf("Broadcast: %v", err)
			}
			if time.Now().After(deadline) {
				s.Fatalf("after %v, broadcasts of node %d do not reach all nodes", patience, i)
			}
		}
	}
}
