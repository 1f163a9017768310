package simcluster_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/simcluster"
)

var (
	simSeeds = flag.Int("sim.seeds", defaultSeeds, "how many seeds TestNothingIsLostInSilence runs")
	simFirst = flag.Uint64("sim.first", 1, "the first of them")
	simSeed  = flag.Uint64("sim.seed", 0, "run this seed alone, and print what happened")
)

// Clients move between the nodes of a cluster with faults, and take their positions along, while
// others publish. Each client gets the log from its first position on, once and in order. If it
// lacks a publication, it is told of a gap.
func TestNothingIsLostInSilence(t *testing.T) {
	if *simSeed != 0 {
		r := runWorld(t, *simSeed)
		t.Log(r.story)
		if len(r.wrong)+len(r.falseAlarms) > 0 {
			t.Error(strings.Join(append(r.wrong, r.falseAlarms...), "\n"))
		}
		return
	}
	var next atomic.Uint64
	next.Store(*simFirst)
	end := *simFirst + uint64(*simSeeds)
	var total totals
	t.Run("seeds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1) - 1; seed < end; seed = next.Add(1) - 1 {
					total.add(t, runWorld(t, seed))
				}
			})
		}
	})
	t.Log(&total)
	if total.deliveries < *simSeeds || min(total.notices, total.newest) == 0 && *simSeeds >= 100 {
		t.Error("that is too little to prove anything")
	}
}

// totals has the sums of all results.
type totals struct {
	mu                   sync.Mutex
	worlds, failed       int
	deliveries, resumed  int
	newest               int
	notices, falseAlarms int
}

func (s *totals) add(t *testing.T, r *result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worlds++
	s.deliveries += r.deliveries
	s.resumed += r.resumed
	s.newest += r.newest
	s.notices += r.notices
	s.falseAlarms += len(r.falseAlarms)
	wrong := append(r.wrong, r.falseAlarms...)
	if len(wrong) == 0 {
		return
	}
	s.failed++
	t.Errorf("seed %d: %s; see\n\tgo test ./live/internal/simcluster -run TestNothingIsLostInSilence -v -sim.seed=%d", r.seed, wrong[0], r.seed)
}

func (s *totals) String() string {
	return fmt.Sprintf("%d seeds, %d failed; %d messages received, %d clients came back, %d were given the newest, %d were told of a gap, %d of these without need",
		s.worlds, s.failed, s.deliveries, s.resumed, s.newest, s.notices, s.falseAlarms)
}

// result is the result of one seed.
type result struct {
	seed        uint64
	wrong       []string
	falseAlarms []string
	notices     int
	deliveries  int
	resumed     int
	newest      int
	heard       int // listeners that had the truth in the end
	story       string
}

// hangs is how long a seed may take. If a seed takes longer, one of its goroutines waits for a
// lock, or never waits at all. In both cases the time in a bubble stands still.
const hangs = 30 * time.Second

// runWorld runs one seed in a bubble of its own.
func runWorld(t *testing.T, seed uint64) (r *result) {
	return runSeed(t, seed, newWorld, (*world).judge)
}

func runSeed(t *testing.T, seed uint64, make func(seed uint64) *world, judge func(*world) *result) (r *result) {
	var running atomic.Pointer[world]
	hang := time.AfterFunc(hangs, func() {
		fmt.Fprintf(os.Stderr, "seed %d hangs\n", seed)
		if w := running.Load(); w != nil {
			fmt.Fprintln(os.Stderr, w.story())
		}
		debug.SetTraceback("all")
		panic("a seed hangs")
	})
	defer hang.Stop()
	defer func() {
		if p := recover(); p != nil {
			r = &result{seed: seed, wrong: []string{fmt.Sprint("panic: ", p)}}
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		w := make(seed)
		running.Store(w)
		w.run()
		r = judge(w)
	})
	return r
}

// world has the cluster, the publishers and the clients of one seed.
type world struct {
	seed    uint64
	rand    *rand.Rand
	sim     *simcluster.Sim
	faults  simcluster.Faults
	servers []*live.Server
	topics  []string
	rules   live.TopicOptions
	queue   int
	size    int // of a publication, in bytes; 0: it is a number
	clients []*client
	active  time.Duration // for so long things go wrong
	start   time.Time
	healed  atomic.Pointer[time.Time]
	numbers atomic.Int64
	wrong   chan string

	// Of topics that clients make a view of:
	keys    int          // how many keys are used
	passing bool         // many more keys come and go
	states  atomic.Int64 // how many states were asked for
	listens bool         // the servers listen too
	ears    []*ear
	heard   atomic.Int64 // listeners that had the truth in the end
}

func newWorld(seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{
		seed:   seed,
		rand:   r,
		rules:  live.TopicOptions{History: []int{3, 10, 100}[r.IntN(3)]},
		queue:  []int{2, 256, 256}[r.IntN(3)],
		topics: []string{"a", "b"}[:1+r.IntN(2)],
		active: time.Second + time.Duration(r.Int64N(int64(4*time.Second))),
		start:  time.Now(),
		wrong:  make(chan string, 100),
	}
	if r.IntN(4) == 0 {
		w.rules.HistoryAge = 100*time.Millisecond + time.Duration(r.Int64N(int64(3*time.Second)))
	}
	if large := rand.New(rand.NewPCG(seed, 2)); large.IntN(32) == 0 {
		w.size = 2_000 + large.IntN(18_000)
	}
	nodes := 1 + r.IntN(3)
	w.faults = simcluster.RandomFaults(seed, w.active+time.Duration(r.Int64N(int64(4*time.Second))))
	w.sim = simcluster.NewSim(seed, nodes, w.faults)
	for i := range nodes {
		w.servers = append(w.servers, live.New(live.Options{
			Broker:      w.sim.Node(i),
			Topics:      func(string) live.TopicOptions { return w.rules },
			OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
			OnRequest: func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
				return nil, w.resume(i, s, topic, data)
			},
			QueueSize:    w.queue,
			PingInterval: -1,
			Logger:       slog.New(slog.DiscardHandler),
		}))
	}
	for i := range 1 + r.IntN(3) {
		w.clients = append(w.clients, &client{id: i, since: make(map[string]string), afterGaps: r.IntN(2) == 0})
	}
	return w
}

// resume subscribes a session when its client asks the application for that.
func (w *world) resume(node int, s *live.Session, topic string, data []byte) error {
	var from struct {
		Since string
		Last  int
	}
	if err := json.Unmarshal(data, &from); err != nil {
		return err
	}
	p, err := live.ParsePosition(from.Since)
	if err != nil {
		return err
	}
	return w.servers[node].Subscribe(s, topic, live.Since(p), live.Last(from.Last))
}

// periodic is a time within which every server compares its topics with the history.
const periodic = 70 * time.Second

func (w *world) run() {
	var wg sync.WaitGroup
	if w.listens {
		w.listen()
	}
	for i := range 1 + w.rand.IntN(2) {
		r := rand.New(rand.NewPCG(w.seed, 100+uint64(i)))
		wg.Go(func() { w.publish(r) })
	}
	stay := make(chan struct{})
	var ends sync.WaitGroup
	for i, c := range w.clients {
		r := rand.New(rand.NewPCG(w.seed, 200+uint64(i)))
		wg.Add(1)
		ends.Go(func() {
			w.hop(c, r)
			wg.Done()
			w.settle(c, r, stay)
		})
	}
	wg.Wait()
	if w.rand.IntN(2) == 0 {
		time.Sleep(3 * time.Second) // until no server looks soon of its own accord
		w.burst(w.rand)
		time.Sleep(time.Duration(w.rand.Int64N(int64(time.Second))))
	}
	w.sim.Heal()
	healed := time.Now()
	w.healed.Store(&healed)
	if w.rand.IntN(2) == 0 {
		for _, topic := range w.topics {
			w.publishOne(w.servers[0], topic)
		}
	}
	time.Sleep(periodic)
	w.compare()
	close(stay)
	ends.Wait()
	time.Sleep(periodic)
	for i, s := range w.servers {
		if left := w.sim.Topics(i); len(left) > 0 {
			w.wrong <- fmt.Sprintf("node %d is still subscribed to %q", i, left)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := s.Shutdown(ctx); err != nil {
			w.wrong <- fmt.Sprint("Shutdown: ", err)
		}
		cancel()
	}
}

func (w *world) over() bool { return time.Since(w.start) >= w.active }

// pause waits for a random time up to most, but not past the end.
func (w *world) pause(r *rand.Rand, most time.Duration) {
	time.Sleep(min(time.Duration(r.Int64N(int64(most))), w.active-time.Since(w.start)))
}

// publish publishes until some time after the clients have settled.
func (w *world) publish(r *rand.Rand) {
	most := time.Duration(20+r.IntN(600)) * time.Millisecond
	end := w.active + time.Duration(r.Int64N(int64(time.Second)))
	for range 40 {
		time.Sleep(time.Duration(r.Int64N(int64(most))))
		if time.Since(w.start) > end {
			return
		}
		w.burst(r)
	}
}

// burst publishes one message, or several within milliseconds.
func (w *world) burst(r *rand.Rand) {
	s, topic := w.servers[r.IntN(len(w.servers))], w.topics[r.IntN(len(w.topics))]
	for range max(1, r.IntN(20)-12) {
		w.publishOne(s, topic)
		time.Sleep(time.Duration(r.Int64N(int64(3 * time.Millisecond))))
	}
}

// publishOne publishes a number. It ignores errors, because the log tells whether the publication
// was made.
func (w *world) publishOne(s *live.Server, topic string) {
	if w.rules.Keyed {
		w.publishKey(s, topic)
		return
	}
	data := fmt.Append(nil, w.numbers.Add(1))
	if w.size > 0 {
		data = fmt.Appendf(nil, `[%s,"%s"]`, data, strings.Repeat("x", w.size))
	}
	s.Publish(topic, data)
}

// hop is a client's behaviour while faults happen.
func (w *world) hop(c *client, r *rand.Rand) {
	last := []int{0, 2, 5, 20, 200}[r.IntN(5)]
	w.pause(r, time.Second)
	for !w.over() {
		l := w.connect(c, r.IntN(len(w.servers)))
		l.subscribe(last, w.topics...)
		for range r.IntN(3) {
			w.pause(r, time.Second)
			switch topic := w.topics[r.IntN(len(w.topics))]; r.IntN(4) {
			case 0:
				l.unsubscribe(topic)
				l.settled(time.Second)
				w.pause(r, 300*time.Millisecond)
				if r.IntN(2) == 0 {
					l.resume(last, topic)
				} else {
					l.subscribe(last, topic)
				}
			case 1:
				l.stall(time.Duration(r.Int64N(int64(time.Second))))
			}
		}
		w.pause(r, 500*time.Millisecond)
		l.cut()
		w.pause(r, []time.Duration{10, 200, 2000}[r.IntN(3)]*time.Millisecond)
	}
}

// settle is a client's behaviour after the faults have ended. It stays connected, and comes back
// if the connection ends.
func (w *world) settle(c *client, r *rand.Rand, stay chan struct{}) {
	node := r.IntN(len(w.servers))
	for {
		l := w.connect(c, node)
		l.subscribe(0, w.topics...)
		if l.settled(20*time.Second) && l.has(w.topics) {
			select {
			case <-l.ended:
			case <-stay:
				l.cut()
				return
			}
		}
		l.cut()
		select {
		case <-stay:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (w *world) connect(c *client, node int) *line {
	l, err := c.dial(node, w.servers[node].Handler())
	if err != nil {
		panic(err)
	}
	return l
}

// prompt is how late a publication may come. A loss that the broker announces is repaired at once,
// or when the node can be reached again. The same holds for a publication that is missing because
// other nodes did not yet know of the subscription. Any other loss is repaired when the server
// compares positions.
func (w *world) prompt() (time.Duration, time.Time) {
	f := w.faults
	switch {
	case (f.Loss > 0 || f.Cuts > 0) && f.Announce < 1:
		return periodic, w.start
	case f.Refuse > 0 || f.Outages > 0 || f.Cuts > 0:
		return 5*time.Second + f.Break, *w.healed.Load()
	}
	return 5 * time.Second, w.start
}

// judge lets the oracle check every client and topic.
func (w *world) judge() *result {
	r := &result{seed: w.seed}
	for len(w.wrong) > 0 {
		r.wrong = append(r.wrong, <-w.wrong)
	}
	for _, c := range w.clients {
		for _, topic := range w.topics {
			o := newOracle(w.sim, topic)
			o.prompt, o.free = w.prompt()
			o.judge(c.events)
			o.end(c.id)
			for _, text := range o.wrong {
				r.wrong = append(r.wrong, fmt.Sprintf("client %d: %s", c.id, text))
			}
			for _, text := range o.falseAlarms {
				r.falseAlarms = append(r.falseAlarms, fmt.Sprintf("client %d, false alarm: %s", c.id, text))
			}
			r.notices += o.notices
		}
		for _, e := range c.events {
			r.deliveries += len(e.frame.Messages)
			if e.kind == "publication" {
				r.deliveries++
			}
			if e.kind == "subscribed" && e.since != "" {
				r.resumed++
			}
			if e.kind == "subscribed" && e.last > 0 && len(e.frame.Messages) > 0 && (e.frame.Recovered == nil || !*e.frame.Recovered) {
				r.newest++
			}
		}
	}
	if w.seed == *simSeed {
		r.story = w.story()
	}
	return r
}

// story returns a text with all events, in order.
func (w *world) story() string {
	type line struct {
		time time.Time
		text string
	}
	var lines []line
	for _, topic := range w.topics {
		for _, e := range w.sim.Log(topic) {
			gone := ""
			if !e.Gone.IsZero() {
				gone = fmt.Sprint(", kept until ", e.Gone.Sub(w.start))
			}
			lines = append(lines, line{e.Time, fmt.Sprintf("LOG %s #%s at %s, prev %d%s", topic, brief(e.Data), e.Position, e.Prev, gone)})
		}
	}
	for _, i := range w.sim.Incidents() {
		lines = append(lines, line{i.Time, fmt.Sprintf("    node %d %s %s", i.Node, i.Topic, i.What)})
	}
	for _, c := range w.clients {
		for _, e := range c.events {
			lines = append(lines, line{e.time, fmt.Sprintf("        client %d, %s", c.id, e)})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.time.Compare(b.time) })
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d nodes, topics %q, %+v, queue %d, size %d, %v\nfaults: %+v\n", w.seed, len(w.servers), w.topics, w.rules, w.queue, w.size, w.active, w.faults)
	for _, l := range lines {
		fmt.Fprintf(&b, "%12v %s\n", l.time.Sub(w.start), l.text)
	}
	return b.String()
}
