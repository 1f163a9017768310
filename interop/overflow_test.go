package interop

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// flood is what a client on a stalled line gets of topics that drop publications.
type flood struct {
	server *live.Server
	line   *livetest.Relay
	ended  livetest.Ends
	pad    string
}

const (
	floodQueue = 16
	floodSize  = 4 << 10
)

func newFlood(t *testing.T, mode live.Overflow, history int) (*flood, livetest.Endpoint) {
	f := &flood{pad: strings.Repeat("x", floodSize)}
	opts := livetest.Permissive()
	opts.QueueSize = floodQueue
	opts.OnClose = f.ended.OnClose
	opts.Topics = livetest.Keeping("", live.TopicOptions{History: history, Overflow: mode})
	var server *live.Server
	opts.OnMessage = livetest.Subscriber(&server).OnMessage
	server = livetest.NewServer(t, opts)
	f.server = server
	at := livetest.ServeSmall(t, server.Handler())
	f.line = livetest.Through(t, at)
	return f, at
}

func (f *flood) publish(topic string, n int) {
	f.server.Publish(topic, fmt.Appendf(nil, `"%d %s"`, n, f.pad))
}

// number returns what publish numbered.
func number(t testing.TB, data []byte) int {
	t.Helper()
	head, _, ok := strings.Cut(strings.TrimPrefix(string(data), `"`), " ")
	n, err := strconv.Atoi(head)
	if !ok || err != nil {
		t.Fatalf("data is %.40s", data)
	}
	return n
}

func eachOverflow(t *testing.T, test func(t *testing.T, mode live.Overflow, history int)) {
	for _, mode := range []struct {
		name string
		live.Overflow
	}{{"drop oldest", live.OverflowDropOldest}, {"latest", live.OverflowLatest}} {
		for _, history := range []int{0, 1000} {
			t.Run(fmt.Sprintf("%s, history %d", mode.name, history), func(t *testing.T) {
				t.Parallel()
				test(t, mode.Overflow, history)
			})
		}
	}
}

// A client on a stalled line stays, whatever is published. Where publications were
// dropped there is a gap, and nothing is out of order.
func TestOverflowTellsTheGapInItsPlace(t *testing.T) {
	eachOverflow(t, func(t *testing.T, mode live.Overflow, history int) {
		const rounds, published = 3, 200
		f, _ := newFlood(t, mode, history)
		topics := []string{"a", "b"}
		c := livetest.DialV1(t, f.line.Endpoint)
		for i, topic := range topics {
			c.Must(livetest.SubscribeTo(i+1, topic))
		}
		next := map[string]int{"a": 0, "b": 0}
		gap := map[string]bool{}
		gaps := 0
		n := 0
		for round := range rounds {
			f.line.Stall()
			for range published {
				for _, topic := range topics {
					f.publish(topic, n)
				}
				n++
			}
			if f.ended.Count() > 0 {
				t.Fatalf("round %d: the session ended with %v", round, f.ended.Only(t))
			}
			f.line.Resume()
			heard := 0
			for next["a"] < n || next["b"] < n {
				m := c.Next()
				if m.Op == "gap" { // perhaps a second, if what was to follow the first was dropped too
					gap[m.Topic] = true
					gaps++
					continue
				}
				got := livetest.NumberOf(m.Data)
				switch due := next[m.Topic]; {
				case got < due:
					t.Fatalf("topic %s: %d came after %d", m.Topic, got, due-1)
				case got > due && !gap[m.Topic]:
					t.Fatalf("topic %s: %d came after %d, without a gap", m.Topic, got, due-1)
				case got == due && gap[m.Topic]:
					t.Fatalf("topic %s: a gap before %d, where nothing is missing", m.Topic, got)
				}
				if (m.At != "") != (history > 0) {
					t.Errorf("position %q of a topic with history %d", m.At, history)
				}
				next[m.Topic], gap[m.Topic] = got+1, false
				heard++
			}
			if heard == 2*published {
				t.Fatalf("round %d: nothing was dropped, so that nothing was tested", round)
			}
		}
		if gaps == 0 || f.server.Stats().Dropped == 0 {
			t.Errorf("%d gaps, %d dropped", gaps, f.server.Stats().Dropped)
		}
	})
}

// What waits for a client stays within QueueSize. The sockets hold some besides.
func TestOverflowKeepsTheBounds(t *testing.T) {
	eachOverflow(t, func(t *testing.T, mode live.Overflow, history int) {
		f, _ := newFlood(t, mode, history)
		c := livetest.DialV1(t, f.line.Endpoint)
		c.Must(livetest.SubscribeTo(1, "t"))
		f.line.Stall()
		const published = 2000
		for n := range published {
			f.publish("t", n)
		}
		f.line.Resume()
		var sinceGap []int
		gaps := 0
		for len(sinceGap) == 0 || sinceGap[len(sinceGap)-1] != published-1 {
			if m := c.Next(); m.Op == "gap" {
				gaps++
				sinceGap = nil
			} else {
				sinceGap = append(sinceGap, livetest.NumberOf(m.Data))
			}
		}
		if gaps == 0 || len(sinceGap) > floodQueue {
			t.Errorf("%d gaps; after the last %d publications had waited, with a QueueSize of %d", gaps, len(sinceGap), floodQueue)
		}
		for i, n := range sinceGap {
			if n != published-len(sinceGap)+i {
				t.Fatalf("after the gap came %v", sinceGap)
			}
		}
	})
}

// A plain client knows no gap. It stays too, and hears what is left in order.
func TestOverflowOfAPlainClient(t *testing.T) {
	eachOverflow(t, func(t *testing.T, mode live.Overflow, history int) {
		f, _ := newFlood(t, mode, history)
		c := livetest.Dial(t, f.line.Endpoint)
		c.Subscribe("t")
		f.line.Stall()
		const published = 500
		for n := range published {
			f.publish("t", n)
		}
		f.line.Resume()
		heard := 0
		for last := -1; last < published-1; heard++ {
			text := c.Read()
			data, ok := strings.CutPrefix(text, `{"topic":"t","data":`)
			if !ok {
				t.Fatalf("got %.100s", text)
			}
			n := livetest.NumberOf([]byte(data))
			if n <= last {
				t.Fatalf("%d came after %d", n, last)
			}
			last = n
		}
		if heard == published {
			t.Error("nothing was dropped, so that nothing was tested")
		}
		if f.ended.Count() > 0 {
			t.Errorf("the session ended with %v", f.ended.Only(t))
		}
	})
}

// A queue of one holds the newest, and does not end the session of a client that
// takes a moment.
func TestOverflowOfTheSmallestQueue(t *testing.T) {
	for _, mode := range []live.Overflow{live.OverflowDropOldest, live.OverflowLatest} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			var ended livetest.Ends
			opts := livetest.Permissive()
			opts.QueueSize, opts.OnClose = 1, ended.OnClose
			opts.Topics = livetest.Keeping("", live.TopicOptions{Overflow: mode})
			server := livetest.NewServer(t, opts)
			c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
			c.Must(livetest.SubscribeTo(1, "t"))
			for n := range 5000 {
				server.Publish("t", fmt.Appendf(nil, `%d`, n))
			}
			gap, due := false, 0
			for due < 5000 {
				m := c.Next()
				if m.Op == "gap" {
					gap = true
					continue
				}
				n, err := strconv.Atoi(string(m.Data))
				if err != nil || n < due || n > due != gap {
					t.Fatalf("%s came when %d was due; a gap before it: %t", m.Raw, due, gap)
				}
				due, gap = n+1, false
			}
			if n := ended.Count(); n > 0 {
				t.Errorf("the session ended with %v", ended.Only(t))
			}
		})
	}
}

// Only topics that say so drop publications. One beside them that does not closes the
// session of a client that is too slow for it, and others' publications never make
// room for it.
func TestOverflowIsEachTopicsOwn(t *testing.T) {
	var ended livetest.Ends
	opts := livetest.Permissive()
	opts.QueueSize, opts.OnClose = floodQueue, ended.OnClose
	opts.Topics = livetest.Keeping("drop", live.TopicOptions{Overflow: live.OverflowDropOldest})
	server := livetest.NewServer(t, opts)
	slow := livetest.Through(t, livetest.ServeSmall(t, server.Handler()))
	c := livetest.DialV1(t, slow.Endpoint)
	c.Must(livetest.SubscribeTo(1, "drop"))
	c.Must(livetest.SubscribeTo(2, "keep"))
	slow.Stall()
	pad := `"` + strings.Repeat("x", floodSize) + `"`
	for range 200 {
		server.Publish("drop", []byte(pad))
	}
	time.Sleep(10 * time.Millisecond) // it would have ended by now
	if ended.Count() > 0 {
		t.Fatalf("the session ended with %v", ended.Only(t))
	}
	for range floodQueue + 1 {
		server.Publish("keep", []byte(pad))
	}
	slow.Resume()
	_, code := c.Rest()
	if err := ended.Only(t); err != live.ErrQueueFull || code != live.CloseQueueFull {
		t.Errorf("OnClose got %v, the client code %d; want ErrQueueFull and 4100", err, code)
	}
}
