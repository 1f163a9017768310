//go:build soak && unix

package live_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// TestSlowClientsMissNothingOfATopicWithHistory with a thousand clients, for half a minute of
// too much: go test -race -tags soak -timeout 10m -run Thousand ./live
func TestAThousandSlowClientsMissNothing(t *testing.T) {
	const clients, pace, size = 1000, 20_000, 1000
	const perSecond, seconds = 2 * pace / size, 30
	keepUp(t, clients, pace, size, perSecond, perSecond*seconds, live.Options{})
}

// Ten thousand clients, or as many as files can be open, come at once to a topic with a state, and come back at
// once with positions that are too old. They cost a handful of questions.
func TestTenThousandShareAState(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	clients := min(10_000, int(files.Cur)/2-100) // each is two sockets of this process
	a := &countingApp{pause: 20 * time.Millisecond, fill: strings.Repeat("x", 5000)}
	server, at := a.serve(t, live.Options{})
	a.change(t, server)
	old := ""
	for _, way := range []string{"without a position", "with a position that is too old"} {
		all := make([]*livetest.Client, clients)
		for i := range all {
			all[i] = livetest.Connect(t, at, livetest.Dialing{V1: true}).Greeted()
		}
		before, began := a.asked.Load(), time.Now()
		op := livetest.SubscribeTo(1, "n")
		if old != "" {
			op = livetest.ResumeFrom(1, "n", old)
		}
		for _, c := range all {
			c.Send(op)
		}
		for _, c := range all {
			f := c.Next()
			if f.State == nil || f.WasRecovered() {
				t.Fatal(f)
			}
			old = f.At
		}
		asked := a.asked.Load() - before
		t.Logf("%d clients %s: %d questions, all have the state after %v", clients, way, asked, time.Since(began).Round(time.Millisecond))
		if asked > 10 {
			t.Errorf("%d questions", asked)
		}
		livetest.Each(100, func(i int) {
			for _, c := range all[i*clients/100 : (i+1)*clients/100] {
				c.Drop()
			}
		})
		livetest.Eventually(t, "the sessions' end", func() bool { return server.Stats().Sessions == 0 })
		for range 60 { // more than the history keeps
			a.change(t, server)
		}
	}
}

var soakTime = flag.Duration("soak", 10*time.Minute, "how long TestSoak takes")

const (
	soakTick     = 10 * time.Millisecond // a number is published on every topic
	soakSize     = 200                   // bytes of a publication
	soakHistory  = 6000                  // publications: those of a minute
	soakKeys     = 50
	soakSteady   = 20 // clients that stay
	soakRoamers  = 60 // clients whose connections are cut; every sixth is slow
	soakVisitors = 30 // clients that do harm, at any time
)

var soakTopics = []string{"kept/a", "kept/b", "kept/c", "kept/d"}

// TestSoak keeps a server busy, round after round. In each round clients come, are cut off and resume,
// read too slowly, flood the server, and leave in all ways. Between the rounds it is quiet. Then only the
// clients that stay are connected, and the server must use as much memory and as many goroutines
// as before. No client may miss a number that the history has.
func TestSoak(t *testing.T) {
	s := startSoak(t)
	rounds := max(min(*soakTime/20, 30*time.Second), 3*time.Second)
	for start := time.Now(); (time.Since(start) < *soakTime || len(s.samples) < 8) && !t.Failed(); {
		s.round(rounds)
		s.rest()
	}
	close(s.over)
	s.running.Wait()
	s.checkMemory()
}

// soak is a server under load, and what the test knows of it.
type soak struct {
	*livetest.Host
	t       *testing.T
	stayers []*stayer
	over    chan struct{} // closed at the end
	running sync.WaitGroup
	visits  atomic.Int64
	samples []sample

	mu    sync.Mutex        // held while something is published; guards the fields below
	n     int               // the newest number of every topic
	table map[string]string // the keyed topic
}

// sample is what the process used when it was quiet.
type sample struct {
	heap       uint64 // live bytes
	goroutines int
}

func startSoak(t *testing.T) *soak {
	s := &soak{t: t, over: make(chan struct{}), table: make(map[string]string)}
	opts := livetest.Open(live.Options{
		Compression: true,
		Topics:      soakRules,
		OnMessage: func(_ context.Context, c *live.Session, topic string, data []byte) {
			switch topic {
			case "subscribe":
				s.Subscribe(c, strings.Trim(string(data), `"`))
			case "unsubscribe":
				s.Unsubscribe(c, strings.Trim(string(data), `"`))
			case "publish":
				s.Publish("noise", data)
			case "close me":
				c.Close()
			}
		},
	})
	s.Host = livetest.Hosting{}.Start(t, opts)
	for range soakHistory { // so that the histories do not grow later
		s.publish()
	}
	for range soakSteady {
		s.stayers = append(s.stayers, s.follow())
	}
	s.running.Go(func() {
		for tick := time.NewTicker(soakTick); ; {
			select {
			case <-tick.C:
				s.publish()
			case <-s.over:
				return
			}
		}
	})
	return s
}

func soakRules(topic string) live.TopicOptions {
	kind, _, _ := strings.Cut(topic, "/")
	switch kind {
	case "kept":
		return live.TopicOptions{History: soakHistory}
	case "keyed":
		return live.TopicOptions{Keyed: true}
	}
	return live.TopicOptions{Overflow: live.OverflowDropOldest}
}

// publish publishes the next number on every topic.
func (s *soak) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	data := livetest.Padded(s.n, soakSize)
	for _, topic := range append([]string{"newest"}, soakTopics...) {
		s.must(s.Publish(topic, []byte(data)))
	}
	key := strconv.Itoa(rand.IntN(soakKeys))
	if rand.IntN(4) == 0 {
		delete(s.table, key)
		s.must(s.Remove("keyed", key))
		return
	}
	s.table[key] = data
	s.must(s.Publish("keyed", []byte(data), live.Key(key)))
}

func (s *soak) must(err error) {
	if err != nil {
		s.t.Error(err)
	}
}

func (s *soak) newest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// stayer is a client that stays, and must get everything.
type stayer struct {
	*livetest.Client
	mu      sync.Mutex     // guards the fields below
	newest  map[string]int // the number that came last, of each topic
	skipped map[string]bool
	table   keyTable
}

// follow connects a client that stays. It reads until the test ends.
func (s *soak) follow() *stayer {
	f := &stayer{newest: make(map[string]int), skipped: make(map[string]bool)}
	f.Client = s.Connect(s.t, livetest.Dialing{V1: true})
	topics := append([]string{"keyed", "newest"}, soakTopics...)
	var ops []string
	for i, topic := range topics {
		ops = append(ops, livetest.SubscribeTo(i+1, topic))
	}
	f.Send(livetest.InOneFrame(ops...))
	s.running.Go(func() {
		for {
			frame, err := f.ReadFrame()
			if frame.Op == "reply" {
				frame.Topic = topics[frame.ID-1]
			}
			if err == nil {
				err = f.take(frame)
			}
			select {
			case <-s.over:
				f.Drop()
				return
			default:
			}
			if err != nil {
				s.t.Errorf("a client that stays: %v", err)
				f.Drop()
				return
			}
		}
	})
	return f
}

// take takes a frame. The error says what is wrong with it.
func (f *stayer) take(frame livetest.Frame) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case frame.Op == "hello" || frame.First == livetest.PingFrame:
	case frame.Op == "ping":
		return f.Say(`{"op":"pong"}`)
	case frame.Op == "error":
		return fmt.Errorf("got %s", frame)
	case frame.Topic == "keyed":
		f.table.take(frame)
	case frame.Op == "reply":
	case frame.Op == "gap" && frame.Topic == "newest":
		f.skipped[frame.Topic] = true
	case frame.IsPublication():
		n, before := livetest.NumberOf(frame.Data), f.newest[frame.Topic]
		if before > 0 && n != before+1 && !(n > before && f.skipped[frame.Topic]) {
			return fmt.Errorf("on %s %d came after %d", frame.Topic, n, before)
		}
		f.newest[frame.Topic], f.skipped[frame.Topic] = n, false
	default:
		return fmt.Errorf("got %s", frame)
	}
	return nil
}

// has reports whether the client has the newest number of every topic, and the whole table.
func (f *stayer) has(n int, table map[string]string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, topic := range append([]string{"newest"}, soakTopics...) {
		if f.newest[topic] != n {
			return false
		}
	}
	return maps.Equal(f.table.keys, table)
}

// round lets all kinds of clients come for a while, and returns when they have gone.
func (s *soak) round(d time.Duration) {
	calm := make(chan struct{})
	var target atomic.Int64 // what roamers must have, once it is set
	var clients sync.WaitGroup
	for i := range soakRoamers {
		clients.Go(s.roamer(i, calm, &target).Roam)
	}
	for i := range soakVisitors {
		clients.Go(func() {
			for n := i; ; n += soakVisitors {
				select {
				case <-calm:
					return
				default:
					s.visit(n)
				}
			}
		})
	}
	time.Sleep(d)
	target.Store(int64(s.newest() + 1))
	close(calm)
	clients.Wait()
}

// roamer returns a client whose connection is cut again and again.
func (s *soak) roamer(i int, calm chan struct{}, target *atomic.Int64) *livetest.Roamer {
	one, other := soakTopics[i%4], soakTopics[(i+1)%4]
	r := &livetest.Roamer{
		T: s.t, At: s.Endpoint, Calm: calm,
		Topics:  []string{one, other},
		Ledgers: map[string]*livetest.Ledger{one: {}, other: {}},
		Up:      2 * time.Second, Down: 200 * time.Millisecond,
		Done: func(r *livetest.Roamer) bool {
			want := target.Load()
			return want > 0 && int64(r.Ledgers[one].Seen) >= want && int64(r.Ledgers[other].Seen) >= want
		},
		Take: func(r *livetest.Roamer, f livetest.Frame) error {
			if f.Op == "gap" {
				return fmt.Errorf("a gap, though the history has everything: %s", f)
			}
			return r.Ledgers[f.Topic].Heard(livetest.NumberOf(f.Data), f)
		},
		Answered: func(_ *livetest.Roamer, a *livetest.Ledger, f livetest.Frame) error {
			if a.Since != "" && !f.WasRecovered() {
				return fmt.Errorf("resumed since %s, and was told of a gap: %s", a.Since, f)
			}
			return a.Subscribed(f)
		},
	}
	if i%6 == 0 {
		r.Slow = 40_000 // of the 50,000 bytes that are published in a second on two topics
	}
	return r
}

// visit is the visit of a client that does harm, or leaves in a way of its own.
func (s *soak) visit(n int) {
	s.visits.Add(1)
	scope := &livetest.Scope{TB: s.t}
	defer scope.End()
	if i := n % (len(vanishings) + len(attacks)); i < len(vanishings) {
		v, err := visit(scope, s.Endpoint, uint64(n))
		if err != nil {
			s.t.Error("dial:", err)
			return
		}
		v.act()
		time.Sleep(rand.N(100 * time.Millisecond))
		vanishings[i].way(v) // its error says that the client was faster than its own connection
	} else {
		attacks[i-len(vanishings)].run(scope, s)
	}
}

// attacks are what hostile clients and bad connections do. Each takes some seconds at most.
var attacks = []struct {
	name string
	run  func(t testing.TB, s *soak)
}{
	{"half a handshake", func(t testing.TB, s *soak) {
		text := livetest.Dialing{V1: true}.Request(s.Endpoint)
		raw(s, text[:rand.IntN(len(text))])
	}},
	{"no HTTP", func(t testing.TB, s *soak) { raw(s, livetest.Fill(1000)) }},
	{"half a frame", func(t testing.TB, s *soak) {
		hostile(t, s, func(c *livetest.Client) {
			c.Write(livetest.Masked(livetest.TextFrame, strings.Repeat("x", 1<<20))[:1<<19])
		})
	}},
	{"fragments without end", func(t testing.TB, s *soak) {
		hostile(t, s, func(c *livetest.Client) {
			c.Write(livetest.Masked(0x01, "x"))
			for range 1000 {
				if c.Write(livetest.Masked(0x00, "x")) != nil {
					return
				}
			}
		})
	}},
	{"a compressed bomb", func(t testing.TB, s *soak) {
		hostile(t, s, func(c *livetest.Client) { c.Write(deflated(strings.Repeat("x", 5<<20))) })
	}},
	{"no UTF-8", func(t testing.TB, s *soak) {
		hostile(t, s, func(c *livetest.Client) { c.Say("{\"topic\":\"\xff\"}") })
	}},
	{"half a close frame", func(t testing.TB, s *soak) {
		hostile(t, s, func(c *livetest.Client) { c.Write(livetest.Closing(1000, "bye")[:3]) })
	}},
	{"flood", func(t testing.TB, s *soak) {
		hostile(t, s, func(c *livetest.Client) {
			flood := livetest.Array(100, func(i int) string {
				return livetest.Operation("publish", i+1, "noise", "data", livetest.Padded(i, 1000))
			})
			for range 20 {
				if c.Say(flood) != nil {
					return
				}
			}
		})
	}},
	{"questions, whose answers nobody reads", func(t testing.TB, s *soak) {
		hostile(t, s, func(c *livetest.Client) {
			c.Say(livetest.Array(100, func(i int) string {
				return livetest.Operation("history", i+1, soakTopics[i%4], "limit", 1000)
			}))
		})
	}},
	{"a thousand topics", func(t testing.TB, s *soak) {
		hostile(t, s, func(c *livetest.Client) {
			c.Say(livetest.Array(1000, func(i int) string {
				return livetest.SubscribeTo(i+1, fmt.Sprint("many/", rand.IntN(1_000_000)))
			}))
		})
	}},
	{"takes nothing of what it is sent", func(t testing.TB, s *soak) {
		c, err := livetest.Try(t, s.Endpoint, livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer})
		if err != nil {
			s.t.Error("dial:", err)
			return
		}
		c.Say(livetest.Array(4, func(i int) string {
			return livetest.Operation("subscribe", i+1, soakTopics[i], "last", 1000)
		}))
		time.Sleep(rand.N(3 * time.Second))
		c.Reset()
	}},
}

// raw sends a text on a connection without a handshake, and closes it after a moment.
func raw(s *soak, text string) {
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		s.t.Error("dial:", err)
		return
	}
	defer conn.Close()
	io.WriteString(conn, text)
	time.Sleep(rand.N(200 * time.Millisecond))
}

// hostile lets a client do something, and resets its connection after a moment.
func hostile(t testing.TB, s *soak, do func(c *livetest.Client)) {
	c, err := livetest.Try(t, s.Endpoint, livetest.Dialing{V1: rand.IntN(2) == 0, Deflate: true})
	if err != nil {
		s.t.Error("dial:", err)
		return
	}
	do(c)
	time.Sleep(rand.N(200 * time.Millisecond))
	c.Reset()
}

// rest waits until it is quiet, compares what the clients that stay have with what was published, and
// measures the process.
func (s *soak) rest() {
	livetest.Eventually(s.t, "the end of all other sessions", func() bool { return s.Stats().Sessions == soakSteady })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.stayers {
		for deadline := time.Now().Add(livetest.Patience); !f.has(s.n, s.table) && !s.t.Failed(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				s.t.Fatalf("a client that stays has %v and %d keys, want %d and %d keys", f.newest, len(f.table.keys), s.n, len(s.table))
			}
		}
	}
	if st := s.Stats(); st.Topics != len(soakTopics)+2 || st.Subscriptions != soakSteady*(len(soakTopics)+2) || st.Panics > 0 {
		s.t.Errorf("when it is quiet: %+v", st)
	}
	s.samples = append(s.samples, s.measure())
	st := s.Stats()
	s.t.Logf("%d visits, %d sessions, %d numbers, %d delivered, %d malformed: %+v",
		s.visits.Load(), st.Accepted, s.n, st.Delivered, st.Malformed, s.samples[len(s.samples)-1])
}

// measure returns the least that the process uses within some seconds: what has ended may be let go of
// a little later.
func (s *soak) measure() sample {
	least := sample{1 << 62, 1 << 30}
	for range 20 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		least.heap = min(least.heap, m.HeapAlloc)
		least.goroutines = min(least.goroutines, runtime.NumGoroutine())
		time.Sleep(100 * time.Millisecond)
	}
	return least
}

// checkMemory compares the rounds at the end with those after the first quarter, in which caches fill.
func (s *soak) checkMemory() {
	if s.t.Failed() {
		return
	}
	n := len(s.samples)
	median := func(of []sample) (m sample) {
		heaps, goroutines := make([]uint64, len(of)), make([]int, len(of))
		for i, one := range of {
			heaps[i], goroutines[i] = one.heap, one.goroutines
		}
		slices.Sort(heaps)
		slices.Sort(goroutines)
		return sample{heaps[len(of)/2], goroutines[len(of)/2]}
	}
	before, after := median(s.samples[n/4:n/2]), median(s.samples[3*n/4:])
	s.t.Logf("live heap %d KB, later %d KB; goroutines %d, later %d",
		before.heap>>10, after.heap>>10, before.goroutines, after.goroutines)
	if slack := before.heap/50 + 256<<10; after.heap > before.heap+slack {
		s.t.Errorf("the live heap has grown by %d KB", (after.heap-before.heap)>>10)
	}
	if after.goroutines > before.goroutines {
		s.t.Error("there are more goroutines than before")
	}
}
