package interop

import (
	"fmt"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// catchUpModes have a slow client read on in a topic's history.
var catchUpModes = map[string]live.Overflow{"default": live.OverflowDefault, "catch up": live.OverflowCatchUp}

// A client on a stalled line stays, whatever is published on topics with history. When
// its line moves again it hears all that came meanwhile, once and in order, and then what
// is new.
func TestSlowClientOfATopicWithHistoryMissesNothing(t *testing.T) {
	const rounds, published = 3, 200 // 800 KB of each topic in a round, with a queue of 64 KB
	for name, mode := range catchUpModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := newFlood(t, mode, rounds*published)
			topics := []string{"a", "b"}
			c := livetest.DialV1(t, f.line.Endpoint)
			for i, topic := range topics {
				c.Must(livetest.SubscribeTo(i+1, topic))
			}
			next := map[string]int{}
			n := 0
			for range rounds {
				f.line.Stall()
				for range published {
					for _, topic := range topics {
						f.publish(topic, n)
					}
					n++
				}
				if got := f.server.Stats().CatchingUp; got != len(topics) {
					t.Fatalf("%d topics catch up, want %d: nothing was tested", got, len(topics))
				}
				f.line.Resume()
				for next["a"] < n || next["b"] < n {
					m := c.Next()
					if !m.IsPublication() || m.Recovered != nil { // it did not ask
						t.Fatalf("got %.100s", m.Raw)
					}
					if _, offset := livetest.OffsetOf(m.At); livetest.NumberOf(m.Data) != next[m.Topic] || offset != next[m.Topic]+1 {
						t.Fatalf("topic %s: %.20s at %s came when %d was due", m.Topic, m.Data, m.At, next[m.Topic])
					}
					next[m.Topic]++
				}
				livetest.Eventually(t, "the end of catching up", func() bool { return f.server.Stats().CatchingUp == 0 })
			}
			for _, topic := range topics {
				f.server.Publish(topic, []byte(`"new"`))
				c.Hears(topic, `"new"`)
			}
			if extra := c.Settled(); len(extra) != 0 {
				t.Errorf("then came %.100s", extra[0].Raw)
			}
			if st := f.server.Stats(); f.ended.Count() > 0 || st.Dropped != 0 || st.Gaps != 0 || st.QueueFull != 0 {
				t.Errorf("%d sessions ended; %d dropped, %d gaps, %d closed with a full queue", f.ended.Count(), st.Dropped, st.Gaps, st.QueueFull)
			}
		})
	}
}

// So does a plain client, which knows of no history.
func TestSlowPlainClientOfATopicWithHistoryMissesNothing(t *testing.T) {
	const published = 500
	for name, mode := range catchUpModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := newFlood(t, mode, published)
			c := livetest.Dial(t, f.line.Endpoint)
			c.Subscribe("t")
			f.line.Stall()
			for n := range published {
				f.publish("t", n)
			}
			f.line.Resume()
			for n := range published {
				if got, want := c.Read(), fmt.Sprintf(`{"topic":"t","data":"%d %s"}`, n, f.pad); got != want {
					t.Fatalf("publication %d is %.60s", n, got)
				}
			}
			livetest.Eventually(t, "the end of catching up", func() bool { return f.server.Stats().CatchingUp == 0 })
			f.server.Publish("t", []byte(`"new"`))
			livetest.Check(t, "the plain client", c.Read(), `{"topic":"t","data":"new"}`)
			if f.ended.Count() > 0 {
				t.Errorf("the session ended with %v", f.ended.Only(t))
			}
		})
	}
}

// What the history has dropped before a slow client could read it is a gap, where it is.
// After the gap's position nothing is missing, and it is no larger than what was dropped.
func TestSlowClientIsToldWhatTheHistoryHasDropped(t *testing.T) {
	const history, rounds, published = 50, 3, 1000 // 4 MB in a round, more than is at hand besides the history
	for name, mode := range catchUpModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _ := newFlood(t, mode, history)
			c := livetest.DialV1(t, f.line.Endpoint)
			c.Must(livetest.SubscribeTo(1, "t"))
			next, n := 0, 0
			for round := range rounds {
				gaps := 0
				f.line.Stall()
				for range published {
					f.publish("t", n)
					n++
				}
				f.line.Resume()
				for next < n {
					m := c.Next()
					_, offset := livetest.OffsetOf(m.At)
					switch {
					case m.Op == "gap" && m.Topic == "t":
						if offset <= next || offset > n-history {
							t.Fatalf("a gap up to %s when %d was due; the history has %d of %d", m.At, next, history, n)
						}
						next = offset // numbers begin with 0, offsets with 1
						gaps++
					case !m.IsPublication() || m.Recovered != nil || livetest.NumberOf(m.Data) != next || offset != next+1:
						t.Fatalf("%.100s came when %d was due", m.Raw, next)
					default:
						next++
					}
				}
				if gaps == 0 {
					t.Errorf("round %d: no gap, so that nothing was tested", round)
				}
			}
			if f.ended.Count() > 0 {
				t.Errorf("the session ended with %v", f.ended.Only(t))
			}
		})
	}
}

// The same while a client that comes back reads what it missed: the gap comes after the
// reply and what the server had read until then.
func TestHistoryThatIsTrimmedWhileAClientComesBack(t *testing.T) {
	const history, more, perSecond = 300, 700, 512 << 10
	for _, asked := range askedFor {
		if asked.name == "history" {
			continue
		}
		t.Run(asked.name, func(t *testing.T) {
			t.Parallel()
			opts := livetest.Permissive()
			opts.QueueBytes = 64 << 10
			opts.Topics = livetest.Keeping("", live.TopicOptions{History: history})
			server := livetest.NewServer(t, opts)
			slow := livetest.Through(t, livetest.ServeSmall(t, server.Handler()))
			c := livetest.DialV1(t, slow.Endpoint)
			epoch, _ := livetest.OffsetOf(c.Must(livetest.SubscribeTo(1, "t")).At)
			c.Must(livetest.UnsubscribeFrom(1, "t"))
			pad := strings.Repeat("x", floodSize)
			publish := func(from, to int) {
				for n := from; n <= to; n++ {
					server.Publish("t", fmt.Appendf(nil, `"%d %s"`, n, pad))
				}
			}
			publish(1, history)
			slow.Slow(perSecond)
			reply := c.Must(asked.op(history, epoch))
			if asked.name == "since" && !reply.WasRecovered() {
				t.Fatalf("answered by %.100s", reply.Raw)
			}
			publish(history+1, history+more)
			slow.Slow(0)

			seen, gaps := 0, 0
			take := func(data []byte, at string) {
				if _, offset := livetest.OffsetOf(at); livetest.NumberOf(data) != seen+1 || offset != seen+1 {
					t.Fatalf("%.20s at %s came after %d", data, at, seen)
				}
				seen++
			}
			for _, m := range reply.Messages {
				take(m.Data, m.At)
			}
			if reply.At != fmt.Sprintf("%s.%d", epoch, seen) {
				t.Errorf("after %d messages the reply is at %s", seen, reply.At)
			}
			for seen < history+more {
				m := c.Next()
				if m.Op == "gap" && m.Topic == "t" {
					_, offset := livetest.OffsetOf(m.At)
					if offset <= seen || offset > more {
						t.Fatalf("a gap up to %s after %d; the history has what follows %d", m.At, seen, more)
					}
					seen = offset
					gaps++
					continue
				}
				take(m.Data, m.At)
				if m.WasRecovered() != (seen <= history) {
					t.Fatalf("%.100s; the client had asked for what came up to %d", m.Raw, history)
				}
			}
			if gaps == 0 { // there may be two: publishing takes a while, in which the client reads on
				t.Error("no gap, though the history was trimmed")
			}
		})
	}
}

// A client that is too slow is closed where there is no history to go on from, and where
// the application says so. With a history it then has the rest when it comes back.
func TestSlowClientIsClosed(t *testing.T) {
	for _, test := range []struct {
		name    string
		mode    live.Overflow
		history int
	}{
		{"default, no history", live.OverflowDefault, 0},
		{"catch up, no history", live.OverflowCatchUp, 0},
		{"close, no history", live.OverflowClose, 0},
		{"close, with history", live.OverflowClose, 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			const published = 200
			f, at := newFlood(t, test.mode, test.history)
			c := livetest.DialV1(t, f.line.Endpoint)
			since := c.Must(livetest.SubscribeTo(1, "t")).At
			f.line.Stall()
			for n := range published {
				f.publish("t", n)
			}
			if err := f.ended.Only(t); err != live.ErrQueueFull {
				t.Errorf("OnClose got %v, want ErrQueueFull", err)
			}
			f.line.Resume()
			got, code := c.Rest()
			if code != live.CloseQueueFull {
				t.Errorf("close code %d (%v), want 4100", code, c.Err())
			}
			if len(got) == published {
				t.Error("all was heard, so that nothing was tested")
			}
			for i, text := range got {
				m, err := livetest.ParseFrame(text.Raw)
				if err != nil || !m.IsPublication() || livetest.NumberOf(m.Data) != i {
					t.Fatalf("frame %d is %.100s", i, text)
				}
				since = m.At
			}
			if test.history == 0 {
				return
			}
			reply := livetest.DialV1(t, at).Recovers(livetest.ResumeFrom(1, "t", since), published)
			if !reply.WasRecovered() || len(reply.Messages) != published-len(got) {
				t.Fatalf("%d came after %d of %d: %.200s", len(reply.Messages), len(got), published, reply.Raw)
			}
			for i, m := range reply.Messages {
				if livetest.NumberOf(m.Data) != len(got)+i {
					t.Fatalf("%.20s came when %d was due", m.Data, len(got)+i)
				}
			}
		})
	}
}
