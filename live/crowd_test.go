package live_test

import (
	"context"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// crowdSize is how many clients come back at once.
const crowdSize = 100

// comesBack has a crowd of clients subscribe to a topic, each from a position of its own. The first
// question to the broker is not answered before all of them have asked. The clients have sent their
// subscribe then, and check what they get.
func comesBack(t *testing.T, b *remote, server *live.Server, at livetest.Endpoint, topic string, since func(i int) string, check func(i int, c *livetest.Client, reply livetest.Frame)) {
	t.Helper()
	clients := make([]*livetest.Client, crowdSize)
	for i := range clients {
		clients[i] = livetest.DialV1(t, at)
	}
	var gathered atomic.Bool
	gather := func() {
		for deadline := time.Now().Add(livetest.Patience); !gathered.Load() && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			gathered.Store(live.CallsOf(server, topic) >= crowdSize)
		}
	}
	b.look, b.read = gather, gather
	for i, c := range clients {
		c.Send(livetest.ResumeFrom(1, topic, since(i)))
	}
	livetest.Each(crowdSize, func(i int) {
		f, before := clients[i].Reply(1)
		if len(before) > 0 {
			t.Errorf("before the reply came %v", before)
			return
		}
		check(i, clients[i], f)
	})
	if !gathered.Load() {
		t.Error("the clients did not come at once")
	}
}

// crowdHall returns a server whose topic "t" has published so many numbers, the broker, and the
// position before the first number.
func crowdHall(t *testing.T, history, published int) (b *remote, h *livetest.Host, position func(n int) string) {
	b = newRemote()
	h = livetest.Hosting{}.Start(t, livetest.Open(keeping(b, live.TopicOptions{History: history})))
	if _, err := h.Listen("t", func(live.Message) {}); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "the comparisons after the beginning are over", func() bool { return b.last.Load() >= 3 })
	start, err := h.Position(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	h.PublishNumbers(t, "t", 1, published, 0)
	return b, h, func(n int) string {
		return live.Position{Epoch: start.Epoch, Offset: start.Offset + uint64(n)}.String()
	}
}

// mayAsk checks how many times the broker was asked.
func mayAsk(t *testing.T, what string, asked int64, most int64) {
	t.Helper()
	t.Logf("%d clients cost %d %s", crowdSize, asked, what)
	if asked > most {
		t.Errorf("%d clients cost %d %s, want %d at most", crowdSize, asked, what, most)
	}
}

// A crowd of clients comes back with positions that the feed does not have, but the history has. The
// broker is asked for all of them together, and each client gets exactly what it has missed.
func TestCrowdWithOldPositionsIsAskedForTogether(t *testing.T) {
	t.Parallel()          // it mostly waits
	const published = 900 // the feed has the newest 256
	for name, since := range map[string]func(i int) int{
		"the same position":   func(int) int { return 10 },
		"different positions": func(i int) int { return 10 + i },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, h, position := crowdHall(t, 2000, published)
			before := b.reads.Load()
			comesBack(t, b, h.Server, h.Endpoint, "t", func(i int) string { return position(since(i)) }, func(i int, c *livetest.Client, reply livetest.Frame) {
				if !reply.WasRecovered() {
					t.Errorf("the reply is %.200s", reply.Raw)
					return
				}
				got := c.Followed(livetest.ResumeFrom(1, "t", ""), reply, newestIn(position(published))).Messages
				for n, m := range got {
					if livetest.NumberOf(m.Data) != since(i)+1+n {
						t.Errorf("publication %d of client %d is %s", n, i, m.Data)
						return
					}
				}
				if want := published - since(i); len(got) != want {
					t.Errorf("client %d got %d publications, want %d", i, len(got), want)
				}
			})
			// The question of the first client, that of all others, and one for each further page: ten or
			// so. Clients that come late on a busy machine may need some of them again.
			mayAsk(t, "reads", b.reads.Load()-before, crowdSize/2)
		})
	}
}

// newestIn returns the number in a position.
func newestIn(at string) int {
	_, offset := livetest.OffsetOf(at)
	return offset
}

// A crowd of clients comes back with positions of which the history has lost some.
func TestCrowdWithLostPositionsIsAskedForTogether(t *testing.T) {
	t.Parallel() // it mostly waits
	const published, kept = 900, 400
	b, h, position := crowdHall(t, kept, published)
	before := b.reads.Load()
	since := func(i int) int { return published - kept - crowdSize/2 + i }
	comesBack(t, b, h.Server, h.Endpoint, "t", func(i int) string { return position(since(i)) }, func(i int, c *livetest.Client, reply livetest.Frame) {
		if want := since(i) >= published-kept; reply.WasRecovered() != want {
			t.Errorf("from %d: the reply is %.200s", since(i), reply.Raw)
		}
	})
	// Each question halves the number of clients without an answer, so there are ten or so. There are more if
	// the clients ask one after another, each from a smaller position than the client before.
	mayAsk(t, "reads", b.reads.Load()-before, crowdSize)
}

// A crowd of clients comes back with a position of a history that was left, or that is ahead of it.
func TestCrowdWithForeignPositionsIsAskedForTogether(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, foreign := range map[string]func(string) string{
		"another epoch": func(string) string { return live.Position{Epoch: "left", Offset: 7}.String() },
		"ahead":         func(newest string) string { return newest + "0" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, h, position := crowdHall(t, 500, 100)
			before := b.last.Load()
			comesBack(t, b, h.Server, h.Endpoint, "t", func(int) string { return foreign(position(100)) }, func(i int, c *livetest.Client, reply livetest.Frame) {
				if reply.Op != "reply" || reply.WasRecovered() {
					t.Errorf("the reply is %.200s", reply.Raw)
				}
			})
			mayAsk(t, "questions for the newest position", b.last.Load()-before, 5)
		})
	}
}

// A crowd of clients comes back to a keyed topic whose table has forgotten removals that the history
// still has.
func TestCrowdThatMissedRemovalsIsAskedForTogether(t *testing.T) {
	t.Parallel() // it mostly waits
	b := newRemote()
	h := livetest.Hosting{}.Start(t, livetest.Open(keeping(b, live.TopicOptions{Keyed: true})))
	put(t, h, "stays", "1")
	for i := range 100 {
		put(t, h, "goes-"+strconv.Itoa(i), "1")
	}
	start, err := h.Position(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		remove(t, h, "goes-"+strconv.Itoa(i))
	}
	// The table of a topic that begins knows no removals before that.
	listening, err := h.Listen("k", func(live.Message) {})
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Unsubscribe()
	livetest.Eventually(t, "the comparisons after the beginning are over", func() bool { return b.last.Load() >= 4 })
	before := b.reads.Load()
	position := func(i int) string {
		return live.Position{Epoch: start.Epoch, Offset: start.Offset + uint64(i%20)}.String()
	}
	comesBack(t, b, h.Server, h.Endpoint, "k", position, func(i int, c *livetest.Client, reply livetest.Frame) {
		if !reply.WasRecovered() {
			t.Errorf("the reply is %.200s", reply.Raw)
			return
		}
		removed := 0
		for _, m := range reply.Messages {
			if m.Removed {
				removed++
			}
		}
		if want := 100 - i%20; removed != want {
			t.Errorf("from %s: %d removals, want %d", position(i), removed, want)
		}
	})
	mayAsk(t, "reads", b.reads.Load()-before, 5)
}

// A client comes back just after another one, and the history has dropped meanwhile what both have
// missed. The later client gets the state.
func TestStateComesIfTheHistoryWasTrimmedMeanwhile(t *testing.T) {
	t.Parallel() // it mostly waits
	b := newRemote()
	o := livetest.Open(keeping(b, live.TopicOptions{History: 400, Snapshot: func(context.Context, string) (any, error) { return "state", nil }}))
	h := livetest.Hosting{}.Start(t, o)
	if _, err := h.Listen("t", func(live.Message) {}); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "the comparisons after the beginning are over", func() bool { return b.last.Load() >= 3 })
	start, err := h.Position(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	early, late := livetest.DialV1(t, h.Endpoint), livetest.DialV1(t, h.Endpoint)
	h.PublishNumbers(t, "t", 1, 400, 0)
	if f := early.Do(livetest.ResumeFrom(1, "t", start.String())); !f.WasRecovered() {
		t.Fatalf("the first client was answered by %.200s", f.Raw)
	}
	h.PublishNumbers(t, "t", 401, 500, 0)
	if f := late.Do(livetest.ResumeFrom(1, "t", start.String())); string(f.State) != `"state"` {
		t.Errorf("the second client was answered by %.200s", f.Raw)
	}
}

// A broker in this process is asked for each client, so the answer to a client is exact however soon it
// comes after another client.
func TestBrokerInThisProcessIsAskedForEachClient(t *testing.T) {
	const history = 400 // the feed has the newest 256
	h := livetest.Hosting{}.Start(t, livetest.Open(keeping(nil, live.TopicOptions{History: history})))
	if _, err := h.Listen("t", func(live.Message) {}); err != nil {
		t.Fatal(err)
	}
	start, err := h.Position(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	h.PublishNumbers(t, "t", 1, history, 0)
	if f := livetest.DialV1(t, h.Endpoint).Do(livetest.ResumeFrom(1, "t", start.String())); !f.WasRecovered() {
		t.Errorf("the first client was answered by %.200s", f.Raw)
	}
	h.PublishNumbers(t, "t", history+1, history+1, 0)
	if f := livetest.DialV1(t, h.Endpoint).Do(livetest.ResumeFrom(1, "t", start.String())); f.WasRecovered() {
		t.Errorf("the second client was answered by %.200s", f.Raw)
	}
	var st live.Stats
	livetest.Eventually(t, "both subscriptions are counted", func() bool {
		st = h.Stats()
		return st.Recovered+st.NotRecovered == 2
	})
	if st.Recovered != 1 {
		t.Errorf("%d subscriptions are counted as recovered, want 1", st.Recovered)
	}
}

// A broker that panics, or ends its goroutine, in a question that clients share fails that question alone.
// Later clients are answered.
func TestBrokerThatFailsInASharedQuestion(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){"panic": func() { panic("boom") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, h, position := crowdHall(t, 100, 20)
			var failing atomic.Bool
			failing.Store(true)
			b.read = func() {
				if failing.Load() {
					fail()
				}
			}
			b.look = b.read
			c := livetest.DialV1(t, h.Endpoint)
			if f := c.Do(livetest.ResumeFrom(1, "t", "elsewhere.7")); f.Code != "unavailable" && f.Code != "internal" {
				t.Errorf("a client is answered with %s", f.Raw)
			}
			failing.Store(false)
			c.Must(livetest.ResumeFrom(2, "t", "elsewhere.7"))
			d := livetest.DialV1(t, h.Endpoint)
			if f := d.Must(livetest.ResumeFrom(1, "t", position(5))); !f.WasRecovered() {
				t.Errorf("the next client is answered with %s", f.Raw)
			}
		})
	}
}
