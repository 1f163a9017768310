package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
)

// instance is one process of an application: a live.Server with its HTTP server, over
// a broker.
type instance struct {
	node   int
	broker *Broker
	looks  atomic.Int64 // how often the server has compared a topic with its history
	server *live.Server
	http   *httptest.Server
	lines  *lineBook
}

// counted is the broker of an instance. It counts looks.
type counted struct {
	*Broker
	looks *atomic.Int64
}

func (b counted) Last(ctx context.Context, topic string) (live.Position, error) {
	defer b.looks.Add(1)
	return b.Broker.Last(ctx, topic)
}

// awaitSettled waits until a new subscription has been compared with its history as often as
// every new subscription is.
func (in *instance) awaitSettled(t testing.TB) {
	t.Helper()
	before := in.looks.Load()
	waitFor(t, "a topic to settle", func() bool { return in.looks.Load() >= before+2 })
}

// runInstance starts an instance over a broker, or over the result of wrap.
func runInstance(t testing.TB, node int, b *Broker, wrap func(*Broker) live.Broker, change ...func(*live.Options)) *instance {
	t.Helper()
	in := &instance{node: node, broker: b}
	var broker live.Broker = counted{b, &in.looks}
	if wrap != nil {
		broker = wrap(b)
	}
	o := live.Options{
		Broker:      broker,
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		OnPublish:   func(_ context.Context, _ *live.Session, _ string, data []byte) ([]byte, error) { return data, nil },
		QueueSize:   4096, // then no client loses its connection because much is sent at once
		Logger:      quiet(),
	}
	for _, c := range change {
		c(&o)
	}
	in.server = live.New(o)
	in.http = httptest.NewUnstartedServer(in.server.Handler())
	in.lines = &lineBook{Listener: in.http.Listener, lines: make(map[net.Conn]bool)}
	in.http.Listener = in.lines
	in.http.Start()
	t.Cleanup(in.stop)
	return in
}

func (in *instance) url() string { return in.http.URL }

// stop ends the instance without a farewell to its clients.
func (in *instance) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	in.server.Shutdown(ctx)
	in.http.Close()
}

// drop breaks all connections of clients, and accepts no more.
func (in *instance) drop() {
	in.lines.Close()
	in.lines.reset()
}

// lineBook is a listener that keeps a list of its connections.
type lineBook struct {
	net.Listener
	mu    sync.Mutex
	lines map[net.Conn]bool
}

func (b *lineBook) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.lines[c] = true
	}
	return c, err
}

// reset breaks the connections without a farewell, like a process that is killed.
func (b *lineBook) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.lines {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	clear(b.lines)
}

// fleet is a mesh with an instance on each node.
type fleet struct {
	*mesh              // its t is the subtest that runs
	life    testing.TB // everything stops at its end
	streams []StreamConfig
	serving []func(*live.Options) // the options in which these instances differ from others

	mu        sync.Mutex // guards the fields below
	instances [meshSize]*instance
}

func newFleet(t testing.TB, streams ...StreamConfig) *fleet {
	return &fleet{mesh: newMesh(t), life: t, streams: streams}
}

// boot starts node i, and waits for no other node.
func (f *fleet) boot(i int, change ...func(*Options)) *instance {
	f.t.Helper()
	o := f.options(i)
	o.Streams = f.streams
	for _, c := range change {
		c(&o)
	}
	b, err := New(o)
	if err != nil {
		f.t.Fatalf("node %d: %v", i, err)
	}
	in := runInstance(f.life, i, b, nil, f.serving...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.adopt(i, b.server)
	f.instances[i] = in
	return in
}

// bootAll starts all nodes, and waits until everything is ready.
func (f *fleet) bootAll() {
	f.t.Helper()
	for i := range f.instances {
		f.boot(i)
	}
	f.awaitReady()
}

// at returns the instance on node i; nil: it is down.
func (f *fleet) at(i int) *instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.instances[i]
}

// awaitReady waits until all running nodes see each other and all streams exist.
func (f *fleet) awaitReady() {
	f.t.Helper()
	f.awaitWhole()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := range f.instances {
		if in := f.at(i); in != nil {
			if err := in.broker.Ready(ctx); err != nil {
				f.t.Fatalf("node %d: %v", i, err)
			}
		}
	}
}

// crash ends node i like a process that is killed: its clients and the other nodes lose their
// connections to it without a farewell.
func (f *fleet) crash(i int) {
	f.t.Helper()
	f.mu.Lock()
	in := f.instances[i]
	f.instances[i] = nil
	f.mu.Unlock()
	in.drop()
	f.kill(i)
	in.stop()
}

// revive starts a node again after a crash.
func (f *fleet) revive(i int) *instance {
	f.t.Helper()
	f.heal(i)
	return f.boot(i)
}

// leader returns the node that leads a stream; -1: there is none.
func (f *fleet) leader(stream string) int {
	for i, e := range f.nodes {
		if e != nil && e.srv.JetStreamIsStreamLeader("$G", stream) {
			return i
		}
	}
	return -1
}

func (f *fleet) awaitLeader(stream string) int {
	f.t.Helper()
	waitFor(f.t, "a leader of stream "+stream, func() bool { return f.leader(stream) >= 0 })
	return f.leader(stream)
}

// stored is a publication in the stream.
type stored struct {
	sequence uint64
	data     string
}

func (s stored) String() string { return fmt.Sprintf("%s at %d", s.data, s.sequence) }

// contents reads the messages of a subject from a stream, with NATS's own means.
func contents(t testing.TB, e *embedded, stream, subject string) []stored {
	t.Helper()
	return contentsBy(t, streamsOf(t, e), stream, subject)
}

func contentsBy(t testing.TB, js jetstream.JetStream, stream, subject string) (all []stored) {
	t.Helper()
	waitFor(t, "the contents of stream "+stream, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return false
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
		if err != nil {
			return false
		}
		want := int(info.State.Subjects[subject])
		if all = nil; want == 0 {
			return true
		}
		// It reads them one by one, since a consumer might be placed on a node that is cut off.
		// It asks the leader, since a copy that was cut off may lag for a long time.
		s.CachedInfo().Config.AllowDirect = false
		for next := uint64(1); len(all) < want; {
			m, err := s.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
			if err != nil {
				return false
			}
			all = append(all, stored{m.Sequence, string(m.Data)})
			next = m.Sequence + 1
		}
		return true
	})
	return all
}

// press publishes numbers to a topic, one after another, and keeps those that were
// acknowledged.
type press struct {
	topic   string
	name    string
	repeats bool // a number that was not acknowledged is published again under its ID, perhaps elsewhere

	mu     sync.Mutex // guards what follows
	tried  []string
	acked  []string
	unsure string  // what is published again; "": nothing
	bad    []error // the errors other than live.ErrUnavailable
}

// publish publishes the next number at an instance.
func (p *press) publish(in *instance) error {
	p.mu.Lock()
	data := p.unsure
	if data == "" {
		data = fmt.Sprintf(`"%s.%d"`, p.name, len(p.tried))
		p.tried = append(p.tried, data)
	}
	p.mu.Unlock()
	var opts []live.PublishOption
	if p.repeats {
		opts = append(opts, live.ID(data))
	}
	err := in.server.Publish(p.topic, []byte(data), opts...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.repeats {
		p.unsure = data
	}
	switch {
	case err == nil:
		p.acked = append(p.acked, data)
		p.unsure = ""
	case !errors.Is(err, live.ErrUnavailable) && !errors.Is(err, live.ErrServerClosed):
		p.bad = append(p.bad, err)
	}
	return err
}

func (p *press) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

// isUnsure reports whether the press does not know whether its last number is stored.
func (p *press) isUnsure() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unsure != ""
}

// run publishes until ctx ends, with a pause each time. choose names the instance; nil: none
// now.
func (p *press) run(ctx context.Context, pause time.Duration, choose func() *instance) {
	for ctx.Err() == nil {
		if in := choose(); in != nil {
			p.publish(in)
		}
		sleep(ctx, pause)
	}
}

// verifyStored checks that each acknowledged publication is stored, and that each stored
// publication is from a press, once and in the order of its press.
func verifyStored(t testing.TB, all []stored, presses ...*press) {
	t.Helper()
	index := make(map[string]int)
	for i, s := range all {
		if before, twice := index[s.data]; twice {
			t.Errorf("%s is stored twice: %v and %v", s.data, all[before], s)
		}
		index[s.data] = i
	}
	known := 0
	for _, p := range presses {
		p.mu.Lock()
		for _, err := range p.bad {
			t.Errorf("press %s: %v", p.name, err)
		}
		for _, data := range p.acked {
			if _, ok := index[data]; !ok {
				t.Errorf("%s was acknowledged, and is not stored", data)
			}
		}
		before := -1
		for _, data := range p.tried {
			i, ok := index[data]
			if !ok {
				continue
			}
			known++
			if slices.Contains(p.acked, data) && i < before {
				t.Errorf("%s is stored before what was published earlier", data)
			}
			before = max(before, i)
		}
		p.mu.Unlock()
	}
	if known != len(index) {
		t.Errorf("%d publications are stored, and %d of them are known", len(index), known)
	}
}

// seedFor returns a random generator, and prints its seed if the test fails.
func seedFor(t testing.TB, fixed uint64) *rand.Rand {
	seed := fixed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}
