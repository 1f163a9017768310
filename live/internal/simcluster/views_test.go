package simcluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/live"
)

var viewSeeds = flag.Int("sim.views", max(100, defaultSeeds/20), "how many seeds TestEveryViewIsTrueInTheEnd runs")

// view is what a client makes of a topic that is a table, or that has a state. It follows docs/protocol.md.
type view struct {
	values map[string]string // of a table: the value of each key; of a state: the numbers in it
	stale  bool              // the client must ask for the state
}

func newView() *view { return &view{values: make(map[string]string)} }

func (v *view) publication(key string, data json.RawMessage, removed bool) {
	switch {
	case removed:
		delete(v.values, key)
	case key == "":
		v.values[string(data)] = ""
	default:
		v.values[key] = string(data)
	}
}

// foldReply takes the answer to a subscribe; mu is held.
func (l *line) foldReply(v *view, topic string, f frame) {
	recovered := f.Recovered != nil && *f.Recovered
	switch {
	case f.Keyed && !recovered:
		clear(v.values)
		delete(l.since, topic)
	case len(f.State) > 0:
		var numbers []json.RawMessage
		if err := json.Unmarshal(f.State, &numbers); err != nil {
			l.noteLocked(event{kind: "wrong", topic: topic, frame: frame{Code: err.Error()}})
		}
		clear(v.values)
		for _, n := range numbers {
			v.publication("", n, false)
		}
		v.stale = false
	case !f.Keyed && !recovered:
		l.noteLocked(event{kind: "wrong", topic: topic, frame: frame{Code: ": neither recovered nor a state"}})
	}
	for _, m := range f.Messages {
		v.publication(m.Key, m.Data, m.Removed)
		l.keep(topic, m.At)
	}
}

// foldGap takes a gap; mu is held.
func (l *line) foldGap(v *view, topic string) {
	if !l.keyed {
		v.stale = true
		go l.subscribe(0, topic) // ends when the server has read it, or with the connection
		return
	}
	clear(v.values)
	delete(l.since, topic)
}

// Clients of keyed topics, and of topics with a state, move between the nodes of a cluster with faults.
// When it has been quiet for a while, what each of them knows is the truth.
func TestEveryViewIsTrueInTheEnd(t *testing.T) {
	if *simSeed != 0 {
		r := runViews(t, *simSeed)
		t.Log(r.story)
		if len(r.wrong) > 0 {
			t.Error(strings.Join(r.wrong, "\n"))
		}
		return
	}
	var next atomic.Uint64
	next.Store(*simFirst)
	end := *simFirst + uint64(*viewSeeds)
	var values, resumed, gaps, heard atomic.Int64
	t.Run("seeds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1) - 1; seed < end; seed = next.Add(1) - 1 {
					r := runViews(t, seed)
					values.Add(int64(r.deliveries))
					resumed.Add(int64(r.resumed))
					heard.Add(int64(r.heard))
					gaps.Add(int64(r.notices))
					if len(r.wrong) > 0 {
						t.Errorf("seed %d: %s; see\n\tgo test ./live/internal/simcluster -run TestEveryViewIsTrueInTheEnd -v -sim.seed=%d", seed, r.wrong[0], seed)
					}
				}
			})
		}
	})
	t.Logf("%d seeds; %d values came, %d clients came back, %d were told of a gap, %d listeners had the truth", *viewSeeds, values.Load(), resumed.Load(), gaps.Load(), heard.Load())
	if *viewSeeds >= 100 && min(values.Load(), resumed.Load(), gaps.Load(), heard.Load()) < int64(*viewSeeds)/10 {
		t.Error("that is too little to prove anything")
	}
}

// runViews runs one seed in a bubble of its own.
func runViews(t *testing.T, seed uint64) (r *result) {
	return runSeed(t, seed, newViews, (*world).judgeViews)
}

// newViews returns a world whose topics are tables in half of the seeds, and have a state in the others.
func newViews(seed uint64) *world {
	w := newWorld(seed)
	r := rand.New(rand.NewPCG(seed, 3))
	w.size = 0
	w.keys = []int{2, 10, 60}[r.IntN(3)]
	w.rules.HistoryAge = 0
	if r.IntN(2) == 0 {
		w.keys = 0
		w.rules.Snapshot = w.state
	} else {
		w.rules = live.TopicOptions{Keyed: true, History: []int{5, 100}[r.IntN(2)]}
		if w.passing = r.IntN(8) == 0; w.passing {
			w.rules.History = 1000
		}
		if r.IntN(4) == 0 {
			w.rules.HistoryAge = 100*time.Millisecond + time.Duration(r.Int64N(int64([]time.Duration{3 * time.Second, 2 * time.Minute}[r.IntN(2)])))
		}
	}
	w.listens = r.IntN(3) == 0
	for _, c := range w.clients {
		c.keyed = w.rules.Keyed
		c.views = make(map[string]*view)
		for _, topic := range w.topics {
			c.views[topic] = newView()
		}
	}
	return w
}

// state is the application's Snapshot: the numbers that were published until some moment during the
// call. It may fail while faults happen.
func (w *world) state(ctx context.Context, topic string) (any, error) {
	r := rand.New(rand.NewPCG(w.seed, 1000+uint64(w.states.Add(1))))
	time.Sleep(time.Duration(r.Int64N(int64(200 * time.Millisecond))))
	if w.healed.Load() == nil && r.IntN(6) == 0 {
		return nil, errors.New("no state now")
	}
	numbers := []json.RawMessage{}
	for _, e := range w.sim.Log(topic) {
		numbers = append(numbers, e.Data)
	}
	time.Sleep(time.Duration(r.Int64N(int64(200 * time.Millisecond))))
	return numbers, nil
}

// publishKey gives a key a new value, or removes it.
func (w *world) publishKey(s *live.Server, topic string) {
	n := w.numbers.Add(1)
	r := rand.New(rand.NewPCG(w.seed, 1<<32+uint64(n)))
	key := strconv.Itoa(r.IntN(w.keys))
	if r.IntN(3) == 0 {
		s.Remove(topic, key)
		return
	}
	s.Publish(topic, fmt.Append(nil, n), live.Key(key))
	if w.passing && r.IntN(20) == 0 { // more keys come and go than a topic remembers
		for i := range 300 {
			key := fmt.Sprint("passing ", n, " ", i)
			go func() { // ends with the answers
				s.Publish(topic, fmt.Append(nil, i), live.Key(key))
				s.Remove(topic, key)
			}()
		}
	}
}

// truthOf returns what the clients of a topic should know.
func (w *world) truthOf(topic string) map[string]string {
	if w.rules.Keyed {
		return w.sim.Values(topic)
	}
	all := newView()
	for _, e := range w.sim.Log(topic) {
		all.publication("", e.Data, false)
	}
	return all.values
}

// compare compares what the clients know with the truth, when it has been quiet for a while.
func (w *world) compare() {
	synctest.Wait()
	for _, topic := range w.topics {
		truth := w.truthOf(topic)
		for _, e := range w.ears {
			if e.topic == topic {
				e.compare(truth)
			}
		}
		for _, c := range w.clients {
			c.mu.Lock()
			v := c.views[topic]
			if v != nil && (v.stale || !maps.Equal(v.values, truth)) {
				w.wrong <- fmt.Sprintf("client %d, topic %s: it knows %v, stale %t, and true is %v", c.id, topic, v.values, v.stale, truth)
			}
			c.mu.Unlock()
		}
	}
}

// judgeViews returns what compare has found, and what happened.
func (w *world) judgeViews() *result {
	r := &result{seed: w.seed, heard: int(w.heard.Load())}
	for len(w.wrong) > 0 {
		r.wrong = append(r.wrong, <-w.wrong)
	}
	for _, c := range w.clients {
		for _, topic := range w.topics {
			if w.rules.Keyed {
				r.wrong = append(r.wrong, w.steps(c, topic)...)
			}
		}
		for _, e := range c.events {
			switch e.kind {
			case "wrong":
				r.wrong = append(r.wrong, fmt.Sprintf("client %d: %s", c.id, e))
			case "publication":
				r.deliveries++
			case "subscribed":
				r.deliveries += len(e.frame.Messages)
				if e.since != "" {
					r.resumed++
				}
			case "gap":
				r.notices++
			case "end":
				if isProtest(e.frame.Code) {
					r.wrong = append(r.wrong, fmt.Sprintf("client %d: %s", c.id, e))
				}
			}
		}
	}
	if w.seed == *simSeed {
		r.story = w.story()
	}
	return r
}

// isProtest reports whether a connection ended because the client or the server found a fault. A full
// queue is none.
func isProtest(end string) bool {
	for _, why := range []string{"is unknown", "answers nothing", "close frame"} {
		if strings.Contains(end, why) {
			return !strings.Contains(end, "4100")
		}
	}
	return false
}

// steps checks that on one connection no value of a key comes after a newer one.
func (w *world) steps(c *client, topic string) (wrong []string) {
	place := make(map[string]int)
	for i, e := range w.sim.Log(topic) {
		place[e.Key+" "+string(e.Data)] = i
	}
	newest := make(map[string]int)
	take := func(e event, key string, data json.RawMessage) {
		if len(data) == 0 {
			return // one removal is like another
		}
		at, known := place[key+" "+string(data)]
		switch {
		case !known:
			wrong = append(wrong, fmt.Sprintf("client %d: %s: that was never published", c.id, e))
		case at < newest[key]:
			wrong = append(wrong, fmt.Sprintf("client %d: %s: a newer value of its key came before", c.id, e))
		}
		newest[key] = max(newest[key], at)
	}
	for _, e := range c.events {
		switch {
		case e.kind == "dial", e.topic == topic && (e.kind == "gap" || e.kind == "subscribe" || e.kind == "resume"):
			clear(newest)
		case e.topic == topic && e.kind == "publication":
			take(e, e.frame.Key, e.frame.Data)
		}
	}
	return wrong
}
