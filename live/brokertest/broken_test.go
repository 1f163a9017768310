package brokertest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/brokertest"
	"github.com/livetopic/livetopic/live/internal/simcluster"
)

// broken is a broker that breaks a promise.
type broken struct{ simcluster.Altered }

// every returns a function that returns true in every nth call.
func every(n int64) func() bool {
	var count atomic.Int64
	return func() bool { return count.Add(1)%n == 0 }
}

// wrongs are ways to break a broker. Each has the promise that such a broker does not keep.
var wrongs = []struct {
	name, promise string
	do            func(b *broken)
}{
	{"every publication is delivered", "a subscribed topic is delivered, and no other", func(b *broken) {
		b.OnStart = func() { b.All.Subscribe(context.Background(), "b") }
	}},
	{"Subscribe takes effect later", "every publication of this node comes once Subscribe has returned", func(b *broken) {
		b.OnSubscribe = func(topic string) string {
			time.AfterFunc(time.Second, func() { b.All.Subscribe(context.Background(), topic) })
			return "another"
		}
	}},
	{"a publication is lost", "publications of one goroutine keep their order, and each comes once", func(b *broken) {
		lose := every(300)
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			if !lose() {
				s.Deliver(p)
			}
		}
	}},
	{"a publication comes twice", "publications of one goroutine keep their order, and each comes once", func(b *broken) {
		double := every(300)
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			s.Deliver(p)
			if double() {
				s.Deliver(p)
			}
		}
	}},
	{"a publication overtakes", "publications of one goroutine keep their order, and each comes once", func(b *broken) {
		var held *broker.Publication
		hold := every(50)
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			if held == nil && hold() {
				held = p
				return
			}
			s.Deliver(p)
			if held != nil {
				s.Deliver(held)
				held = nil
			}
		}
	}},
	{"deliveries overlap", "calls of Deliver for one topic never overlap", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) { go s.Deliver(p) }
	}},
	{"Unsubscribe does nothing", "nothing comes after Unsubscribe", func(b *broken) {
		b.OnUnsubscribe = func(string) error { return nil }
	}},
	{"subscriptions add up", "Subscribe twice is the same as once", func(b *broken) {
		var mu sync.Mutex
		times := make(map[string]int)
		b.OnSubscribe = func(topic string) string {
			mu.Lock()
			defer mu.Unlock()
			times[topic]++
			return topic
		}
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			mu.Lock()
			n := times[p.Topic]
			mu.Unlock()
			for range n {
				s.Deliver(p)
			}
		}
	}},
	{"a subscription that has ended is for ever", "a topic may be subscribed to again", func(b *broken) {
		var ended sync.Map
		b.OnUnsubscribe = func(topic string) error { ended.Store(topic, true); return b.All.Unsubscribe(topic) }
		b.OnSubscribe = func(topic string) string {
			if _, ok := ended.Load(topic); ok {
				return "another"
			}
			return topic
		}
	}},
	{"Unsubscribe wants a subscription", "Unsubscribe without a subscription is no error", func(b *broken) {
		b.OnUnsubscribe = func(topic string) error {
			if topic == "never" {
				return fmt.Errorf("no subscription of %q", topic)
			}
			return b.All.Unsubscribe(topic)
		}
	}},
	{"Unsubscribe waits for a delivery", "Unsubscribe does not wait for a Deliver that is under way", func(b *broken) {
		var mu sync.Mutex
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			mu.Lock()
			defer mu.Unlock()
			s.Deliver(p)
		}
		b.OnUnsubscribe = func(topic string) error {
			mu.Lock()
			defer mu.Unlock()
			return b.All.Unsubscribe(topic)
		}
	}},
	{"data is trimmed", "data comes as it was given", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			p.Data = []byte(strings.TrimSpace(string(p.Data)))
			s.Deliver(p)
		}
	}},
	{"there is no time", "data comes as it was given", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) { p.Time = time.Time{}; s.Deliver(p) }
	}},
	{"delivered data is changed", "data comes as it was given", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			p.Data = slices.Clone(p.Data)
			s.Deliver(p)
			if len(p.Data) > 0 {
				p.Data[0] = 'X'
			}
		}
	}},
	{"a publisher's data is written behind", "a publisher's data is left as it is", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			_ = append(data, o.Except...)
			return b.All.Publish(context.Background(), topic, slices.Clone(data), o)
		}
	}},
	{"topics are folded", "topics that look alike never mix", func(b *broken) {
		fold := strings.NewReplacer(":", ".")
		var mu sync.Mutex
		known := make(map[string][]string)
		b.OnSubscribe = func(topic string) string {
			mu.Lock()
			defer mu.Unlock()
			known[fold.Replace(topic)] = append(known[fold.Replace(topic)], topic)
			return fold.Replace(topic)
		}
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			return b.All.Publish(context.Background(), fold.Replace(topic), data, o)
		}
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			mu.Lock()
			defer mu.Unlock()
			for _, topic := range known[p.Topic] {
				c := *p
				c.Topic = topic
				s.Deliver(&c)
			}
		}
	}},
	{"Except is forgotten", "Except travels", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) { p.Except = ""; s.Deliver(p) }
	}},
	{"there are positions without history", "a topic without history has no positions", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) { p.Epoch = "e"; s.Deliver(p) }
	}},
	{"a context that has ended blocks all that follows", "a context that has ended does no harm", func(b *broken) {
		var stuck atomic.Bool
		b.All = &contextual{b.All, func(ctx context.Context) {
			if ctx.Err() != nil {
				stuck.Store(true)
			}
		}}
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			if !stuck.Load() {
				s.Deliver(p)
			}
		}
	}},
	{"it is not safe for many", "many goroutines may use it at once", func(b *broken) {
		var under atomic.Int64
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			defer under.Add(-1)
			if under.Add(1) > 1 {
				return live.Position{}, fmt.Errorf("busy")
			}
			time.Sleep(10 * time.Microsecond)
			return b.All.Publish(context.Background(), topic, data, o)
		}
	}},
	{"Publish works after Close", "after Close everything returns an error, and nothing comes", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			at, _ := b.All.Publish(context.Background(), topic, data, o)
			return at, nil
		}
	}},
	{"a goroutine stays", "Close leaves no goroutine", func(b *broken) {
		b.OnStart = func() { go func() { select {} }() }
	}},
	{"what is under way blocks after Close", "Close may come while everything is under way", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			at, err := b.All.Publish(context.Background(), topic, data, o)
			if err != nil {
				select {}
			}
			return at, err
		}
	}},

	{"Prev is not the one before", "positions grow within one epoch, and each names the one before it", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) { p.Prev = max(p.Prev, 1) - 1; s.Deliver(p) }
	}},
	{"offsets go round", "positions grow within one epoch, and each names the one before it", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) { p.Offset %= 100; s.Deliver(p) }
	}},
	{"the epoch changes", "positions grow within one epoch, and each names the one before it", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) { p.Epoch += fmt.Sprint(p.Offset / 100); s.Deliver(p) }
	}},
	{"Publish returns another position", "Publish returns the position that is delivered", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			at, err := b.All.Publish(context.Background(), topic, data, o)
			at.Offset++
			return at, err
		}
	}},
	{"there is no position without a subscriber", "Publish returns a position though nobody is subscribed", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			return live.Position{}, nil
		}
	}},
	{"an empty topic has no epoch", "an empty topic has a position, and a later publication a greater one", func(b *broken) {
		b.OnLast = func(at live.Position) live.Position {
			if at.Offset == 0 {
				return live.Position{}
			}
			return at
		}
	}},
	{"Last lags", "Last is the newest position as soon as Publish has returned", func(b *broken) {
		var mu sync.Mutex
		var before live.Position
		b.OnLast = func(at live.Position) live.Position {
			mu.Lock()
			defer mu.Unlock()
			at, before = before, at
			return at
		}
	}},
	{"the epoch stays when the end is lost", "a history that lost its end is another one", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			at, err := b.All.Publish(context.Background(), topic, data, o)
			at.Epoch = "e"
			return at, err
		}
	}},
	{"Last keeps the epoch when the end is lost", "a history that lost its end is another one", func(b *broken) {
		var first string
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			at, err := b.All.Publish(context.Background(), topic, data, o)
			if first == "" {
				first = at.Epoch
			}
			return at, err
		}
		b.OnLast = func(at live.Position) live.Position {
			at.Epoch = first
			return at
		}
	}},
	{"Read includes after", "Read returns what lies between two offsets", func(b *broken) {
		b.OnRead = func(topic string, after, upto uint64, limit int) (broker.Page, error) {
			return b.All.Read(context.Background(), topic, max(after, 1)-1, upto, limit)
		}
	}},
	{"Read excludes upto", "Read returns what lies between two offsets", func(b *broken) {
		b.OnRead = func(topic string, after, upto uint64, limit int) (broker.Page, error) {
			page, err := b.All.Read(context.Background(), topic, after, upto-1, limit)
			page.Upto = upto
			return page, err
		}
	}},
	{"Read has no limit", "Read returns what lies between two offsets", func(b *broken) {
		b.OnRead = func(topic string, after, upto uint64, limit int) (broker.Page, error) {
			return b.All.Read(context.Background(), topic, after, upto, limit+1)
		}
	}},
	{"a page that is cut reaches further", "Read returns what lies between two offsets", func(b *broken) {
		b.OnPage = func(p *broker.Page) { p.Upto = 1 << 40 }
	}},
	{"Read returns the newest first", "Read returns what lies between two offsets", func(b *broken) {
		b.OnPage = func(p *broker.Page) { slices.Reverse(p.Publications) }
	}},
	{"a page has no epoch", "Read returns what lies between two offsets", func(b *broken) {
		b.OnPage = func(p *broker.Page) { p.Epoch = "" }
	}},
	{"a page never reaches far enough", "Read returns what lies between two offsets", func(b *broken) {
		b.OnPage = func(p *broker.Page) { p.Upto = 0 }
	}},
	{"nothing is complete", "Read returns what lies between two offsets", func(b *broken) {
		b.OnPage = func(p *broker.Page) { p.Complete = false }
	}},
	{"Tail returns all", "Tail returns the newest", func(b *broken) {
		b.OnTail = func(p *broker.Page) { p.Publications = slices.Repeat(p.Publications, 2) }
	}},
	{"a page that is cut skips a publication", "large publications are read page by page", func(b *broken) {
		b.OnPage = func(p *broker.Page) {
			if len(p.Publications) > 2 {
				p.Upto, p.Publications = p.Publications[1].Offset, p.Publications[:1]
			}
		}
	}},
	{"a page that is cut begins anew", "large publications are read page by page", func(b *broken) {
		b.OnPage = func(p *broker.Page) {
			if len(p.Publications) > 2 {
				p.Upto, p.Publications = p.Publications[1].Offset, p.Publications[1:2]
			}
		}
	}},
	{"a tail is cut in silence", "large publications are read page by page", func(b *broken) {
		b.OnTail = func(p *broker.Page) { p.Publications = p.Publications[:(len(p.Publications)+1)/2] }
	}},
	{"a tail that is cut has the newest", "large publications are read page by page", func(b *broken) {
		b.OnTail = func(p *broker.Page) { p.Publications = p.Publications[len(p.Publications)/2:] }
	}},
	{"a tail is cut though it is small", "large publications are read page by page", func(b *broken) {
		b.OnTail = func(p *broker.Page) {
			if len(p.Publications) > 1 {
				p.Publications, p.Upto = p.Publications[:1], p.Publications[0].Offset
			}
		}
	}},
	{"a tail that is cut begins too early", "large publications are read page by page", func(b *broken) {
		b.All = early{b.All}
	}},
	{"data is read otherwise than delivered", "what is read is what was delivered", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) { p.Offset++; p.Prev = 0; s.Deliver(p) }
	}},
	{"everything is complete, after a trim by number", "a history that was trimmed by number says so", func(b *broken) {
		b.OnPage = func(p *broker.Page) { p.Complete = true }
	}},
	{"everything is complete, after a trim by age", "a history that was trimmed by age says so, and keeps its epoch", func(b *broken) {
		b.OnPage = func(p *broker.Page) { p.Complete = true }
	}},
	{"nothing is ever trimmed", "a history that was trimmed by number says so", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			o.History *= 10
			return b.All.Publish(context.Background(), topic, data, o)
		}
	}},
	{"nothing is too old", "a history that was trimmed by age says so, and keeps its epoch", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			o.HistoryAge = 0
			return b.All.Publish(context.Background(), topic, data, o)
		}
	}},
	{"histories are folded", "histories of topics that look alike never mix", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			return b.All.Publish(context.Background(), strings.ReplaceAll(topic, "*", "a"), data, o)
		}
	}},
	{"a page has holes now and then", "a history may be read while it grows", func(b *broken) {
		hole := every(3)
		b.OnPage = func(p *broker.Page) {
			if len(p.Publications) > 2 && hole() {
				p.Publications = slices.Delete(p.Publications, 1, 2)
			}
		}
	}},
	{"a context that has ended loses history", "a context that has ended does no harm to the history", func(b *broken) {
		var lost atomic.Bool
		b.All = &contextual{b.All, func(ctx context.Context) {
			if ctx.Err() != nil {
				lost.Store(true)
			}
		}}
		b.OnLast = func(at live.Position) live.Position {
			if lost.Load() {
				at.Offset = 0
			}
			return at
		}
	}},
	{"a page's slice is used again", "what was read is not changed", func(b *broken) {
		shared := make([]*broker.Publication, 100)
		b.OnTail = func(p *broker.Page) { p.Publications = shared[:copy(shared, p.Publications)] }
		publish := b.All.Publish
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			at, err := publish(context.Background(), topic, data, o)
			page, _ := b.All.Tail(context.Background(), topic, 100)
			copy(shared, page.Publications)
			return at, err
		}
	}},

	{"a node is deaf to others", "a publication reaches every node that is subscribed, and no other", func(b *broken) {
		b.OnSubscribe = func(topic string) string {
			if b.name() == 1 {
				return "another"
			}
			return topic
		}
	}},
	{"a node has an order of its own", "every node sees one order and the same positions", func(b *broken) {
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			time.Sleep(time.Duration(len(data)) * 10 * time.Microsecond)
			return b.All.Publish(context.Background(), topic, data, o)
		}
		shift := uint64(b.name())
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			p.Offset += shift
			if p.Prev > 0 {
				p.Prev += shift
			}
			s.Deliver(p)
		}
	}},
	{"a node forgets whom to except", "Except and data travel between nodes", func(b *broken) {
		b.OnDeliver = func(s broker.Sink, p *broker.Publication) {
			if b.name() == 2 {
				p.Except = ""
			}
			s.Deliver(p)
		}
	}},
	{"Last is the node's own", "Last at one node knows what Publish at another has returned", func(b *broken) {
		var own atomic.Pointer[live.Position]
		b.OnPublish = func(topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
			at, err := b.All.Publish(context.Background(), topic, data, o)
			own.Store(&at)
			return at, err
		}
		b.OnLast = func(at live.Position) live.Position {
			if mine := own.Load(); mine != nil {
				return *mine
			}
			return at
		}
	}},
	{"each node has its epoch", "an empty topic has one epoch at all nodes", func(b *broken) {
		b.OnLast = func(at live.Position) live.Position { at.Epoch += fmt.Sprint(b.name()); return at }
	}},

	{"a broadcast does not come back", "a broadcast reaches every server, the sender too, in order", func(b *broken) {
		own := fmt.Sprintf("[%v,", b.name())
		b.OnHear = func(f func([]byte)) func([]byte) {
			return func(data []byte) {
				if !bytes.HasPrefix(data, []byte(own)) {
					f(data)
				}
			}
		}
	}},
	{"broadcasts overtake", "a broadcast reaches every server, the sender too, in order", func(b *broken) {
		b.OnHear = func(f func([]byte)) func([]byte) {
			slow := every(20)
			return func(data []byte) {
				if slow() {
					data = slices.Clone(data)
					time.AfterFunc(20*time.Millisecond, func() { f(data) })
					return
				}
				f(data)
			}
		}
	}},
}

// contextual calls look with the context of each call.
type contextual struct {
	simcluster.All
	look func(ctx context.Context)
}

func (c *contextual) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	c.look(ctx)
	return c.All.Publish(ctx, topic, data, o)
}

func (c *contextual) Last(ctx context.Context, topic string) (live.Position, error) {
	c.look(ctx)
	return c.All.Last(ctx, topic)
}

// early returns tails that are cut, and that begin too early: before the newest publications that
// were asked for.
type early struct{ simcluster.All }

func (e early) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	page, err := e.All.Tail(ctx, topic, limit+5)
	if len(page.Publications) > limit {
		page.Publications = page.Publications[:limit]
		page.Upto = page.Publications[limit-1].Offset
	}
	return page, err
}

// numbered is the broker of a node, with the number of the node.
type numbered struct {
	simcluster.All
	number int
}

func (b *broken) name() int { return b.All.(*numbered).number }

const brokenEnv = "BROKERTEST_BROKEN"

// TestBrokenBroker runs the suite for a broker that the environment names.
func TestBrokenBroker(t *testing.T) {
	name := os.Getenv(brokenEnv)
	if name == "" {
		return // TestSuiteFindsBrokenBrokers runs it
	}
	brokertest.BeImpatient()
	for _, w := range wrongs {
		if w.name != name {
			continue
		}
		var sim *simcluster.Sim
		nodes := func(_ *testing.T, n int) []live.Broker {
			sim = simcluster.NewSim(1, n, simcluster.Faults{})
			brokers := make([]live.Broker, n)
			for i := range brokers {
				b := &broken{simcluster.Altered{All: &numbered{sim.Node(i).(simcluster.All), i}}}
				w.do(b)
				brokers[i] = b
			}
			return brokers
		}
		brokertest.Run(t, func(t *testing.T) live.Broker { return nodes(t, 1)[0] }, brokertest.Features{
			History: true, Bus: true, Nodes: nodes,
			LoseEnd: func(_ *testing.T, b live.Broker, topic string) live.Broker {
				sim.LoseEnd(topic, 5)
				return b
			},
		})
	}
}

// Each broken broker fails the test of the promise that it breaks.
func TestSuiteFindsBrokenBrokers(t *testing.T) {
	for _, w := range wrongs {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			label := strings.ReplaceAll(w.promise, " ", "_")
			cmd := exec.Command(os.Args[0], "-test.run=^TestBrokenBroker$/^"+regexp.QuoteMeta(label)+"$", "-test.v")
			cmd.Env = append(os.Environ(), brokenEnv+"="+w.name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestBrokenBroker/"+label) {
				t.Errorf("%q is not found: %v\n%s", w.promise, err, out)
			}
		})
	}
}

// A broker may be slow, and its deliveries may be late.
func TestSuiteAllowsWhatIsNotPromised(t *testing.T) {
	nodes := func(_ *testing.T, n int) []live.Broker {
		sim := simcluster.NewSim(2, n, simcluster.Faults{
			Delay: 2 * time.Millisecond, Latency: time.Millisecond, Interest: 10 * time.Millisecond, Lag: 10 * time.Millisecond,
			Cut: 0.5, NoPrev: 0.3, Sparse: true,
		})
		brokers := make([]live.Broker, n)
		for i := range brokers {
			brokers[i] = sim.Node(i)
		}
		return brokers
	}
	brokertest.Run(t, func(t *testing.T) live.Broker { return nodes(t, 1)[0] },
		brokertest.Features{History: true, Bus: true, Nodes: nodes})
}
