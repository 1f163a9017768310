package brokertest

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// endings are the promises about Close.
var endings = []promise{
	{"after Close everything returns an error, and nothing comes", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("t")
		n.publish("t", number(1), plain)
		n.await("t", number(1))
		if err := n.close(); err != nil {
			s.Fatalf("Close: %v", err)
		}
		s.mustFail("Subscribe", func() error { return n.Subscribe(s.ctx(), "u") })
		s.mustFail("Publish", func() error { _, err := n.Publish(s.ctx(), "t", []byte("1"), plain); return err })
		s.mustFail("Publish with history", func() error {
			_, err := n.Publish(s.ctx(), s.Topic("h", short), []byte("1"), short)
			return err
		})
		if r, ok := n.Broker.(broker.Recoverer); ok && s.History {
			topic := s.Topic("h", short)
			s.mustFail("Last", func() error { _, err := r.Last(s.ctx(), topic); return err })
			s.mustFail("Read", func() error { _, err := r.Read(s.ctx(), topic, 0, 10, 10); return err })
			s.mustFail("Tail", func() error { _, err := r.Tail(s.ctx(), topic, 10); return err })
		}
		if b, ok := n.Broker.(broker.Bus); ok && s.Bus {
			s.mustFail("Broadcast", func() error { return b.Broadcast(s.ctx(), []byte("1")) })
		}
		s.soon("a second Close", func() { n.close() })
		s.quiet()
		n.await("t", number(1))
	}},

	{"Close may come while everything is under way", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("t")
		ctx := s.ctx()
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for g := range 6 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					topic := fmt.Sprint("t", i%3)
					switch g % 3 { // each call may fail
					case 0:
						n.Publish(ctx, "t", []byte(number(g, i)), plain)
					case 1:
						n.Subscribe(ctx, topic)
					case 2:
						n.Unsubscribe(topic)
					}
				}
			})
		}
		n.awaitCount("t", 20)
		s.soon("Close", func() { n.close() })
		close(stop)
		s.soon("what was under way", wg.Wait)
		s.quiet()
	}},

	{"Close leaves no goroutine", func(s *suite) {
		s.nodes[0].close()
		use := func() {
			alone := &suite{T: s.T, Features: s.Features}
			n := alone.start(s.make(s.T))
			for i := range 20 {
				topic := fmt.Sprint("t", i)
				n.subscribe(topic)
				n.publish(topic, number(i), plain)
				n.await(topic, number(i))
			}
			n.close()
		}
		use() // starts goroutines that a process has only once
		settled := stableGoroutines()
		for range 3 {
			use()
		}
		s.eventually(func() bool { return runtime.NumGoroutine() <= settled }, func() string {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			return fmt.Sprintf("%d goroutines; there were %d after the first broker was closed\n%s", runtime.NumGoroutine(), settled, stacks)
		})
	}},
}

// stableGoroutines waits until the number of goroutines has not fallen for 100 ms, and
// returns that number.
func stableGoroutines() int {
	least := runtime.NumGoroutine()
	for quiet := 0; quiet < 20; quiet++ {
		time.Sleep(5 * time.Millisecond)
		if n := runtime.NumGoroutine(); n < least {
			least, quiet = n, 0
		}
	}
	return least
}

// mustFail checks that a call after Close returns an error.
func (s *suite) mustFail(what string, f func() error) {
	s.Helper()
	s.soon(what, func() {
		if f() == nil {
			s.Errorf("%s after Close: no error", what)
		}
	})
}
