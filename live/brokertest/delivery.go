package brokertest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// delivery has the promises of every broker.
var delivery = []promise{
	{"a subscribed topic is delivered, and no other", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("a")
		n.publish("b", number(1), plain)
		n.publish("a", number(2), plain)
		n.await("a", number(2))
		s.quiet()
		n.await("a", number(2))
		n.await("b")
	}},

	{"every publication of this node comes once Subscribe has returned", func(s *suite) {
		n := s.nodes[0]
		for i := range 100 {
			topic := fmt.Sprint("t", i)
			n.subscribe(topic)
			n.publish(topic, number(i), plain)
		}
		for i := range 100 {
			n.await(fmt.Sprint("t", i), number(i))
		}
	}},

	{"publications of one goroutine keep their order, and each comes once", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("t")
		const goroutines, each = 8, 200
		s.publishers(goroutines, each, func(int) *node { return n }, "t", plain)
		got := n.awaitCount("t", goroutines*each)
		s.checkOrder(got, goroutines, each)
		s.quiet()
		if got := n.rec.on("t"); len(got) != goroutines*each {
			s.Errorf("%d publications came of %d", len(got), goroutines*each)
		}
	}},

	{"calls of Deliver for one topic never overlap", func(s *suite) {
		n := s.nodes[0]
		n.rec.during = func(*broker.Publication) { time.Sleep(200 * time.Microsecond) }
		n.subscribe("a", "b")
		var wg sync.WaitGroup
		for _, topic := range []string{"a", "b"} {
			wg.Go(func() { s.publishers(8, 25, func(int) *node { return n }, topic, plain) })
		}
		wg.Wait()
		n.awaitCount("a", 200)
		n.awaitCount("b", 200)
	}},

	{"nothing comes after Unsubscribe", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("a", "b")
		n.publish("a", number(1), plain)
		n.await("a", number(1))
		n.unsubscribe("a")
		n.publish("a", number(2), plain)
		n.publish("b", number(3), plain)
		n.await("b", number(3))
		s.quiet()
		n.await("a", number(1))
	}},

	{"a topic may be subscribed to again", func(s *suite) {
		n := s.nodes[0]
		for i := range 50 {
			n.subscribe("t")
			n.publish("t", number(i), plain)
			n.await("t", numbers(0, i+1)...)
			n.unsubscribe("t")
		}
	}},

	{"Subscribe twice is the same as once", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("t", "t", "u")
		n.publish("t", number(1), plain)
		n.await("t", number(1))
		s.quiet()
		n.await("t", number(1))
		n.unsubscribe("t")
		n.publish("t", number(2), plain)
		n.publish("u", number(3), plain)
		n.await("u", number(3))
		s.quiet()
		n.await("t", number(1))
	}},

	{"Unsubscribe without a subscription is no error", func(s *suite) {
		n := s.nodes[0]
		n.unsubscribe("never")
		n.subscribe("t")
		n.unsubscribe("t")
		n.unsubscribe("t")
	}},

	// The server calls Unsubscribe with a lock held that Deliver needs.
	{"Unsubscribe does not wait for a Deliver that is under way", func(s *suite) {
		n := s.nodes[0]
		under, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		n.rec.during = func(*broker.Publication) {
			once.Do(func() { close(under) })
			<-release
		}
		n.subscribe("t")
		published := make(chan struct{})
		go func() {
			defer close(published)
			n.Publish(s.ctx(), "t", []byte(number(1)), plain)
		}()
		<-under
		defer func() { <-published }()
		defer close(release)
		s.soon("Unsubscribe", func() { n.Unsubscribe("t") })
	}},

	{"data comes as it was given", func(s *suite) {
		n := s.nodes[0]
		data := []string{"", "null", `""`, " [1 , 2]\n", `{"a":{"b":[true,null,-1.5e300]}}`, `"é, 世界, \u0000, 🙂"`}
		for _, size := range []int{1000, 65_536, 500_000} {
			data = append(data, `"`+strings.Repeat("x", size)+`"`)
		}
		n.subscribe("t")
		before := time.Now()
		for _, d := range data {
			n.publish("t", d, plain)
		}
		for _, p := range n.await("t", data...) {
			if p.Time.Before(before.Add(-time.Minute)) || p.Time.After(time.Now().Add(time.Minute)) {
				s.Errorf("published at %v, its Time is %v", before, p.Time)
			}
		}
	}},

	{"a publisher's data is left as it is", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("t")
		data := []byte(`{"a":1}          `)[:7]
		for _, except := range []string{"", "somebody"} {
			if _, err := n.Publish(s.ctx(), "t", data, broker.PublishOptions{Except: except}); err != nil {
				s.Fatal(err)
			}
		}
		n.await("t", `{"a":1}`, `{"a":1}`)
		if whole := string(data[:cap(data)]); !strings.HasPrefix(whole, `{"a":1}          `) {
			s.Errorf("it has become %q", whole)
		}
	}},

	{"topics that look alike never mix", func(s *suite) {
		n := s.nodes[0]
		for i, topic := range alike {
			if err := n.Subscribe(s.ctx(), topic); err != nil {
				s.Fatalf("Subscribe(%q): %v", topic, err)
			}
			n.publish(topic, number(i), plain)
		}
		for i, topic := range alike {
			n.await(topic, number(i))
		}
		s.quiet()
		for i, topic := range alike {
			n.await(topic, number(i))
		}
	}},

	{"Except travels", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("t")
		want := []string{"", "5f0c0d6e8a4b4d7f9b1f3c0a7e2d9c11", "an ID: \"quoted\", {braced}, é"}
		for i, except := range want {
			n.publish("t", number(i), broker.PublishOptions{Except: except})
		}
		for i, p := range n.await("t", numbers(0, len(want))...) {
			if p.Except != want[i] {
				s.Errorf("Except is %q, it was %q", p.Except, want[i])
			}
		}
	}},

	{"a topic without history has no positions", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("t")
		for i := range 3 {
			if at := n.publish("t", number(i), plain); at != (live.Position{}) {
				s.Errorf("Publish returned %v", at)
			}
		}
		for _, p := range n.await("t", numbers(0, 3)...) {
			if p.Position != (live.Position{}) || p.Prev != 0 {
				s.Errorf("delivered: %s", describe(p))
			}
		}
	}},

	{"a context that has ended does no harm", func(s *suite) {
		n := s.nodes[0]
		n.subscribe("t")
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		taken := 0
		s.soon("a call with a context that has ended", func() {
			n.Subscribe(ended, "u")
			if _, err := n.Publish(ended, "t", []byte(number(0)), plain); err == nil {
				taken = 1
			}
		})
		n.publish("t", number(1), plain)
		got := n.awaitCount("t", 1+taken)
		if last := string(got[len(got)-1].Data); last != number(1) {
			s.Errorf("%q came after what was published later", last)
		}
		n.subscribe("u")
		n.publish("u", number(2), plain)
		n.await("u", number(2))
	}},

	{"many goroutines may use it at once", func(s *suite) {
		n := s.nodes[0]
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 100 {
					topic := fmt.Sprint("t", (g+i)%5)
					var err error
					switch i % 4 {
					case 0:
						err = n.Subscribe(s.ctx(), topic)
					case 3:
						err = n.Unsubscribe(topic)
					default:
						_, err = n.Publish(s.ctx(), topic, []byte(number(g, i)), plain)
					}
					if err != nil {
						s.Errorf("%d on %q: %v", i%4, topic, err)
					}
				}
			})
		}
		wg.Wait()
		s.quiet()
		for i := range 5 {
			topic := fmt.Sprint("t", i)
			n.rec.forget(topic)
			n.subscribe(topic)
			n.publish(topic, number(i), plain)
			n.await(topic, number(i))
		}
	}},
}

// alike are names that a broker might confuse with one another, take for a pattern, or
// refuse.
var alike = []string{
	"a.b", "a:b", "a b", "a/b", "a*b", "a>b", "a=b", "a_b", "a%b", "a.:b", "a:.b", "a%2Eb", "a=2Eb",
	"a", "A", "a*", "*", "a.*", "a.>", ">", "a.", ".a", "a..b", "a::b", ":", ".", "..", "=", "=_", "?", "a?", "[a]", "$a", "#", "a#", "+",
	" a", "a ", "a\tb", "a\nb", "a\r\nb", "a\x00b", "a\x7fb", `a"b`, `a\b`, "a'b",
	"é", "e\u0301", "世界", "🙂", "\u200ba", "\u2028",
	strings.Repeat("x", 255), strings.Repeat("x", 254), strings.Repeat(".", 255), strings.Repeat("é", 127), strings.Repeat("*", 255), strings.Repeat("\x00", 255),
}

// publishers starts goroutines. Goroutine g publishes [g, 0], [g, 1], … on a topic.
// publishers returns when all have ended.
func (s *suite) publishers(goroutines, each int, at func(g int) *node, topic string, o broker.PublishOptions) {
	ctx := s.ctx()
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				if _, err := at(g).Publish(ctx, topic, []byte(number(g, i)), o); err != nil {
					s.Errorf("Publish(%q): %v", topic, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// checkOrder checks that the publications of publishers came in order, each once.
func (s *suite) checkOrder(got []*broker.Publication, goroutines, each int) {
	s.Helper()
	next := make([]int, goroutines)
	for _, p := range got {
		var g, i int
		if _, err := fmt.Sscanf(string(p.Data), "[%d,%d]", &g, &i); err != nil {
			s.Fatalf("%.60q came, which was not published", p.Data)
		}
		if i != next[g] {
			s.Fatalf("goroutine %d: publication %d came, not %d", g, i, next[g])
		}
		next[g]++
	}
	for g, n := range next {
		if n != each {
			s.Errorf("goroutine %d: %d publications came of %d", g, n, each)
		}
	}
}
