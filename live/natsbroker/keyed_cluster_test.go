package natsbroker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// watcher follows a keyed topic at a node, as a client and as a listener.
type watcher struct {
	name   string
	conn   *livetest.Client
	client folded // what came on conn

	mu    sync.Mutex // guards the fields below
	heard folded
	gaps  int
}

// watch follows the topic "k" until the test ends.
func watch(t testing.TB, name string, s *live.Server, url string) *watcher {
	t.Helper()
	w := &watcher{name: name, client: folded{}, heard: folded{}}
	_, err := s.Listen("k", func(m live.Message) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.heard.set(m.Key, string(m.Data), m.Removed)
	}, live.OnGap(func(string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.gaps++
		clear(w.heard)
	}))
	if err != nil {
		t.Fatal(err)
	}
	c := livetest.DialV1(t, livetest.Endpoint{URL: "ws" + strings.TrimPrefix(url, "http")})
	c.Send(livetest.SubscribeTo(1, "k"))
	w.conn = c
	return w
}

func (w *watcher) take(f livetest.Frame) {
	if f.Op == "reply" || f.Op == "gap" {
		clear(w.client)
	}
	for _, m := range f.Messages {
		w.client.set(m.Key, string(m.Data), m.Removed)
	}
	if f.IsPublication() {
		w.client.set(f.Key, string(f.Data), f.Removed)
	}
}

// await waits until the client and the listener know what they should.
func (w *watcher) await(t testing.TB, want map[string]string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		for w.conn.Waiting() > 0 {
			w.take(w.conn.Next())
		}
		w.mu.Lock()
		heard := maps.Clone(w.heard)
		w.mu.Unlock()
		switch {
		case maps.Equal(w.client, want) && maps.Equal(heard, want):
			return
		case time.Now().After(deadline):
			t.Fatalf("%s: the client knows %v, the listener %v, and true is %v", w.name, w.client, heard, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Keys end at their age, by TopicOptions.HistoryAge or by the MaxAge of their stream. All nodes of a
// cluster learn of it, and so does a client that comes back to another node.
func TestKeysEndAtAllNodes(t *testing.T) {
	t.Parallel()
	for what, age := range map[string]struct{ topic, stream time.Duration }{
		"HistoryAge": {topic: time.Second},
		"MaxAge":     {stream: time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFleet(t, StreamConfig{Name: "KEYS", Subjects: []string{"k"}, Keyed: true, MaxAge: age.stream})
			f.serving = append(f.serving, func(o *live.Options) { o.Topics = keyed(100, age.topic) })
			f.bootAll()
			var watchers []*watcher
			for i := range meshSize {
				in := f.at(i)
				watchers = append(watchers, watch(t, fmt.Sprint("node ", i), in.server, in.url()))
			}
			var mu sync.Mutex
			var removals []uint64 // their offsets
			f.at(0).server.Listen("k", func(m live.Message) {
				mu.Lock()
				defer mu.Unlock()
				if m.Removed {
					removals = append(removals, m.Position.Offset)
				}
			})
			for i := range 12 {
				key := strconv.Itoa(i)
				mustPut(t, f.at(i%meshSize).server, "k", key, key)
			}
			at, err := f.at(0).server.Position(t.Context(), "k")
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range watchers {
				w.await(t, map[string]string{})
			}
			livetest.Eventually(t, "all removals", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(removals) == 12
			})
			if got := valuesOf(t, f.at(1).server, "k"); len(got) > 0 {
				t.Errorf("the history has %v", got)
			}
			c := livetest.DialV1(t, livetest.Endpoint{URL: "ws" + strings.TrimPrefix(f.at(2).url(), "http")})
			c.Send(livetest.ResumeFrom(1, "k", at.String()))
			reply, _ := c.Reply(1)
			mu.Lock()
			later := 0 // on a busy machine the first keys end before the last are put
			for _, offset := range removals {
				if offset > at.Offset {
					later++
				}
			}
			mu.Unlock()
			if later == 0 {
				t.Error("no key ended after the position")
			}
			if !reply.WasRecovered() || len(reply.Messages) != later {
				t.Errorf("the reply is %s, want %d removals", reply.Raw, later)
			}
			for _, m := range reply.Messages {
				if !m.Removed {
					t.Errorf("came %+v", m)
				}
			}
			for _, w := range watchers {
				if w.gaps > 0 {
					t.Errorf("%s: %d gaps", w.name, w.gaps)
				}
			}
		})
	}
}

// A node is cut off from the leader of the stream, or is the leader, while keys are written and removed at
// the others. When it is back, its clients and listeners have the truth.
func TestKeysAreTrueAfterACut(t *testing.T) {
	t.Parallel()
	f := newFleet(t, StreamConfig{Name: "KEYS", Subjects: []string{"k"}, Keyed: true})
	f.serving = append(f.serving, func(o *live.Options) { o.Topics = keyed(1000, 0) })
	f.bootAll()
	var watchers []*watcher
	for i := range meshSize {
		watchers = append(watchers, watch(t, fmt.Sprint("node ", i), f.at(i).server, f.at(i).url()))
	}
	random := seedFor(t, 0)
	for _, leads := range []bool{false, true} {
		alone := f.awaitLeader("KEYS")
		if !leads {
			alone, _ = others(alone)
		}
		a, b := others(alone)
		f.changeKeys(random, a, b, alone)
		how := linkCut
		if random.IntN(2) == 0 {
			how = linkBlackhole
		}
		f.isolate(alone, how)
		f.changeKeys(random, a, b)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := f.at(alone).server.PublishContext(ctx, "k", []byte(`"alone"`), live.Key("alone")); err == nil {
			t.Error("a publication was acknowledged to a node that is cut off")
		}
		cancel()
		f.heal(alone)
		f.awaitReady()
		f.awaitLeader("KEYS")
		waitFor(t, "the key that may have been stored later is removed", func() bool { return f.at(a).server.Remove("k", "alone") == nil })
		var want map[string]string
		waitFor(t, "the history of all nodes is the same", func() bool {
			want = f.valuesAt(a)
			return want != nil && maps.Equal(f.valuesAt(b), want) && maps.Equal(f.valuesAt(alone), want)
		})
		for _, w := range watchers {
			w.await(t, want)
		}
	}
}

// valuesAt returns what the history at a node has of the topic "k"; nil: it cannot be had now.
func (f *fleet) valuesAt(node int) map[string]string {
	messages, err := f.at(node).server.History(context.Background(), "k", 1000)
	if err != nil {
		return nil
	}
	values := make(map[string]string)
	for _, m := range messages {
		values[m.Key] = string(m.Data)
	}
	return values
}

// changeKeys writes and removes keys at some nodes. A call may fail while there is no leader.
func (f *fleet) changeKeys(random *rand.Rand, nodes ...int) {
	f.t.Helper()
	failed := 0
	for i := range 300 {
		s := f.at(nodes[random.IntN(len(nodes))]).server
		key := strconv.Itoa(random.IntN(60))
		var err error
		if random.IntN(3) == 0 {
			err = s.Remove("k", key)
		} else {
			err = s.Publish("k", strconv.AppendInt(nil, int64(i), 10), live.Key(key))
		}
		if err != nil {
			failed++
		}
	}
	if failed > 20 {
		f.t.Fatalf("%d of 300 calls failed", failed)
	}
}
