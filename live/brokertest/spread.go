package brokertest

import (
	"fmt"
	"slices"
	"sync"

	"github.com/livetopic/livetopic/live/broker"
)

// spread are the promises between the nodes of one system.
var spread = []promise{
	{"a publication reaches every node that is subscribed, and no other", func(s *suite) {
		s.connect(plain, "t")
		s.nodes[2].unsubscribe("t")
		s.quiet()
		s.nodes[2].rec.forget("t")
		s.nodes[0].publish("t", number(1), plain)
		s.nodes[0].await("t", number(1))
		s.nodes[1].await("t", number(1))
		s.quiet()
		for i, want := range [][]string{{number(1)}, {number(1)}, nil} {
			s.nodes[i].await("t", want...)
		}
	}},

	{"publications of one goroutine keep their order at every node", func(s *suite) {
		s.connect(plain, "t")
		const goroutines, each = 6, 100
		s.publishers(goroutines, each, func(g int) *node { return s.nodes[g%len(s.nodes)] }, "t", plain)
		for _, n := range s.nodes {
			s.checkOrder(n.awaitCount("t", goroutines*each), goroutines, each)
		}
	}},

	{"topics that look alike never mix between nodes", func(s *suite) {
		from, to := s.nodes[0], s.nodes[1]
		s.nodes = s.nodes[:2]
		s.connect(plain, alike...)
		for i, topic := range alike {
			from.publish(topic, number(i), plain)
		}
		for i, topic := range alike {
			to.await(topic, number(i))
		}
		s.quiet()
		for i, topic := range alike {
			to.await(topic, number(i))
			from.await(topic, number(i))
		}
	}},

	{"Except and data travel between nodes", func(s *suite) {
		s.connect(plain, "t")
		data := []string{"", ` {"a" : "é"} `, `"x"`}
		for i, d := range data {
			s.nodes[0].publish("t", d, broker.PublishOptions{Except: fmt.Sprint("session ", i)})
		}
		for _, n := range s.nodes {
			for i, p := range n.await("t", data...) {
				if want := fmt.Sprint("session ", i); p.Except != want {
					s.Errorf("Except is %q, it was %q", p.Except, want)
				}
			}
		}
	}},

	{"a node that closes leaves the others at work", func(s *suite) {
		s.connect(plain, "t")
		if err := s.nodes[0].close(); err != nil {
			s.Fatal(err)
		}
		s.nodes[1].publish("t", number(1), plain)
		s.nodes[1].await("t", number(1))
		s.nodes[2].await("t", number(1))
	}},
}

// spreadHistories are the promises about history between the nodes of one system.
var spreadHistories = []promise{
	{"a publication with an ID is made once, at whatever nodes it is published", publishWithIDs},

	{"every node sees one order and the same positions", func(s *suite) {
		topic := s.Topic("t", long)
		s.connect(long, topic)
		begin := s.nodes[0].last(topic)
		const goroutines, each = 6, 50
		s.publishers(goroutines, each, func(g int) *node { return s.nodes[g%len(s.nodes)] }, topic, long)
		var first []string
		for i, n := range s.nodes {
			got := n.awaitCount(topic, goroutines*each)
			s.checkOrder(got, goroutines, each)
			s.checkChain(got)
			log := n.read(topic, begin.Offset, n.last(topic).Offset, 1000)
			s.wantComplete(log, true)
			if !slices.Equal(placesOf(log.Publications), placesOf(got)) {
				s.Errorf("node %d: what was read is not what was delivered", i)
			}
			if i == 0 {
				first = placesOf(got)
			} else if !slices.Equal(placesOf(got), first) {
				s.Errorf("node %d has another order, or other positions, than node 0", i)
			}
		}
	}},

	{"Last at one node knows what Publish at another has returned", func(s *suite) {
		topic := s.Topic("t", long)
		for i := range 50 {
			at := s.nodes[i%3].publish(topic, number(i), long)
			if last := s.nodes[(i+1)%3].last(topic); last != at {
				s.Fatalf("published at %v, Last at another node is %v", at, last)
			}
		}
		epoch := s.nodes[0].last(topic).Epoch
		for _, n := range s.nodes {
			s.wantPage(n.tail(topic, 100), epoch, 0, 50)
		}
	}},

	{"an empty topic has one epoch at all nodes", func(s *suite) {
		topic := s.Topic("t", short)
		epochs := make([]string, len(s.nodes))
		var wg sync.WaitGroup
		for i, n := range s.nodes {
			wg.Go(func() {
				at, err := n.recoverer().Last(s.ctx(), topic)
				if err != nil {
					s.Errorf("Last: %v", err)
				}
				epochs[i] = at.Epoch
			})
		}
		wg.Wait()
		for _, e := range epochs {
			if e != epochs[0] || e == "" {
				s.Fatalf("epochs are %q", epochs)
			}
		}
	}},
}

// placesOf returns the position and data of each publication, as a text.
func placesOf(publications []*broker.Publication) []string {
	places := make([]string, len(publications))
	for i, p := range publications {
		places[i] = fmt.Sprintf("%s %d %s", p.Epoch, p.Offset, p.Data)
	}
	return places
}
