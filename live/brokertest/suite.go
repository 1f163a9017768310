package brokertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// patience is how long a test waits for an event that must happen. The event may take
// as long as that.
var patience = 20 * time.Second

// suite is the test of one promise, with its nodes. A test of a single broker uses the
// first node.
type suite struct {
	*testing.T
	Features
	make  func(t *testing.T) live.Broker
	nodes []*node
}

// node is a broker under test, and the recorder of its deliveries.
type node struct {
	live.Broker
	s   *suite
	rec *recorder
	bus *busRecorder // nil: this is no test of the bus
}

// start starts a broker, and closes it at the end of the test.
func (s *suite) start(b live.Broker) *node {
	n := &node{Broker: b, s: s, rec: newRecorder(s.Local)}
	return s.startWith(n, n.rec)
}

// startKeyed is start for the promises of keyed topics.
func (s *suite) startKeyed(b live.Broker) *node {
	n := &node{Broker: b, s: s, rec: newRecorder(s.Local)}
	return s.startWith(n, keyedRules{n.rec})
}

func (s *suite) startWith(n *node, sink broker.Sink) *node {
	s.nodes = append(s.nodes, n)
	n.Broker.Start(sink)
	s.Cleanup(func() {
		n.close()
		n.rec.check(s.T)
	})
	return n
}

// close closes the broker. It may have been closed before.
func (n *node) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return n.Close(ctx)
}

// ctx returns a context that ends when patience does.
func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.Cleanup(cancel)
	return ctx
}

// These are the options with which the suite publishes, and for which it calls Features.Topic.
var (
	plain    = broker.PublishOptions{}
	short    = broker.PublishOptions{History: 10}
	long     = broker.PublishOptions{History: 1000}
	fleeting = broker.PublishOptions{History: 10, HistoryAge: 300 * time.Millisecond}
)

// Subscribe calls the broker's Subscribe, and tells the recorder.
func (n *node) Subscribe(ctx context.Context, topic string) error {
	err := n.Broker.Subscribe(ctx, topic)
	if err == nil {
		n.rec.want(topic, true)
	}
	return err
}

// Unsubscribe calls the broker's Unsubscribe, and tells the recorder.
func (n *node) Unsubscribe(topic string) error {
	n.rec.want(topic, false)
	return n.Broker.Unsubscribe(topic)
}

func (n *node) subscribe(topics ...string) {
	n.s.Helper()
	for _, topic := range topics {
		if err := n.Subscribe(n.s.ctx(), topic); err != nil {
			n.s.Fatalf("Subscribe(%q): %v", topic, err)
		}
	}
}

func (n *node) unsubscribe(topic string) {
	n.s.Helper()
	if err := n.Unsubscribe(topic); err != nil {
		n.s.Fatalf("Unsubscribe(%q): %v", topic, err)
	}
}

func (n *node) publish(topic, data string, o broker.PublishOptions) live.Position {
	n.s.Helper()
	at, err := n.Publish(n.s.ctx(), topic, []byte(data), o)
	if err != nil {
		n.s.Fatalf("Publish(%q): %v", topic, err)
	}
	return at
}

// await waits for publications of a topic and returns all that came. The test fails if
// more publications came, or other data.
func (n *node) await(topic string, data ...string) []*broker.Publication {
	n.s.Helper()
	got := n.awaitCount(topic, len(data))
	if !slices.Equal(dataOf(got), data) {
		n.s.Fatalf("on %q came %.300q, want %.300q", topic, dataOf(got), data)
	}
	return got
}

// awaitCount waits for that many publications of a topic, with any data.
func (n *node) awaitCount(topic string, count int) []*broker.Publication {
	n.s.Helper()
	n.s.eventually(func() bool { return len(n.rec.on(topic)) >= count }, func() string {
		got := n.rec.on(topic)
		return fmt.Sprintf("%d publications on %q, not %d: %.300q", len(got), topic, count, dataOf(got))
	})
	return n.rec.on(topic)
}

// quiet waits until no publication has come at any node for Features.Quiet.
func (s *suite) quiet() {
	for before := -1; ; time.Sleep(s.Quiet) {
		now := 0
		for _, n := range s.nodes {
			now += n.rec.count()
		}
		if now == before {
			return
		}
		before = now
	}
}

// eventually waits for a condition. If the condition does not come true, the test fails with the
// text that what returns.
func (s *suite) eventually(ok func() bool, what func() string) {
	s.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("after %v: %s", patience, what())
		}
	}
}

// soon calls f. The test fails if f does not return within patience.
func (s *suite) soon(what string, f func()) {
	s.Helper()
	done := make(chan struct{})
	go func() { // ends with f
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		s.Fatalf("%s did not return within %v", what, patience)
	}
}

// connect subscribes every node to topics. Then it waits until publications of every
// node reach all nodes, because Subscribe need not wait for that.
func (s *suite) connect(o broker.PublishOptions, topics ...string) {
	s.Helper()
	for _, topic := range topics {
		for _, n := range s.nodes {
			n.subscribe(topic)
		}
		for i, from := range s.nodes {
			s.probe(from, topic, fmt.Sprintf(`"probe %d"`, i), o)
		}
	}
	s.quiet()
	for _, n := range s.nodes {
		for _, topic := range topics {
			n.rec.forget(topic)
		}
	}
}

// probe publishes until a publication has reached all nodes.
func (s *suite) probe(from *node, topic, mark string, o broker.PublishOptions) {
	s.Helper()
	heard := func() bool {
		for _, n := range s.nodes {
			if !slices.Contains(dataOf(n.rec.on(topic)), mark) {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(patience); !heard(); time.Sleep(2 * time.Millisecond) {
		from.publish(topic, mark, o)
		if time.Now().After(deadline) {
			s.Fatalf("after %v, publications of %s on %q do not reach all nodes", patience, mark, topic)
		}
	}
}

// number returns data that is different for each publication: a JSON array of numbers.
func number(parts ...int) string { return strings.ReplaceAll(fmt.Sprint(parts), " ", ",") }

// numbers returns number(from) to number(to-1).
func numbers(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, number(i))
	}
	return all
}

func dataOf(publications []*broker.Publication) []string {
	data := make([]string, len(publications))
	for i, p := range publications {
		data[i] = string(p.Data)
	}
	return data
}

// recorder is the Sink of a broker under test.
type recorder struct {
	during func(p *broker.Publication) // called within Deliver; set before anything is published

	local bool // Features.Local

	mu     sync.Mutex                                 // guards the fields below
	wanted map[string]bool                            // subscribed topics; used only with local
	got    map[string][]*broker.Publication           // what came, by topic
	copies map[*broker.Publication]broker.Publication // each publication as it was when it came
	total  int                                        // how many publications came
	busy   map[string]bool                            // topics for which a call of Deliver is under way
	wrong  []string                                   // mistakes of the broker
}

func newRecorder(local bool) *recorder {
	return &recorder{
		local:  local,
		wanted: make(map[string]bool),
		got:    make(map[string][]*broker.Publication),
		copies: make(map[*broker.Publication]broker.Publication),
		busy:   make(map[string]bool),
	}
}

func (r *recorder) want(topic string, yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted[topic] = yes
}

func (r *recorder) Deliver(p *broker.Publication) {
	r.mu.Lock()
	if r.local && !r.wanted[p.Topic] {
		r.mu.Unlock()
		return
	}
	if r.busy[p.Topic] && !(r.local && p.Offset == 0) {
		r.wrong = append(r.wrong, fmt.Sprintf("Deliver was called for %q while another call for it was under way", p.Topic))
	}
	r.busy[p.Topic] = true
	r.total++
	r.got[p.Topic] = append(r.got[p.Topic], p)
	r.copies[p] = copyOf(p)
	r.mu.Unlock()
	if r.during != nil {
		r.during(p)
	}
	r.mu.Lock()
	r.busy[p.Topic] = false
	r.mu.Unlock()
}

// Lost is allowed at any time.
func (r *recorder) Lost(string, error) {}

// on returns the publications that came on a topic.
func (r *recorder) on(topic string) []*broker.Publication {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got[topic])
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

func (r *recorder) forget(topic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.got, topic)
}

// check reports mistakes that no broker may make in any test. It also checks that all
// delivered publications are as they were when they came.
func (r *recorder) check(t *testing.T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.wrong[:min(len(r.wrong), 3)] {
		t.Error(w)
	}
	for p, was := range r.copies {
		if !same(p, &was) {
			t.Errorf("a publication was changed after it was delivered: it was %v, it is %v", describe(&was), describe(p))
		}
	}
}

func copyOf(p *broker.Publication) broker.Publication {
	c := *p
	c.Data = slices.Clone(p.Data)
	return c
}

func same(a, b *broker.Publication) bool {
	return a.Topic == b.Topic && string(a.Data) == string(b.Data) && a.Time.Equal(b.Time) &&
		a.Position == b.Position && a.Prev == b.Prev && a.Except == b.Except
}

func describe(p *broker.Publication) string {
	return fmt.Sprintf("{topic %q, data %.60q, at %q %d, prev %d, except %q}", p.Topic, p.Data, p.Epoch, p.Offset, p.Prev, p.Except)
}
