package interop

import (
	"fmt"
	"strings"
	"testing"

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
			c := dialV1(t, f.line.endpoint)
			for i, topic := range topics {
				c.must(subscribeTo(i+1, topic))
			}
			next := map[string]int{}
			n := 0
			for range rounds {
				f.line.stall()
				for range published {
					for _, topic := range topics {
						f.publish(topic, n)
					}
					n++
				}
				if got := f.server.Stats().CatchingUp; got != len(topics) {
					t.Fatalf("%d topics catch up, want %d: nothing was tested", got, len(topics))
				}
				f.line.resume()
				for next["a"] < n || next["b"] < n {
					m := c.next()
					if !m.isPublication() || m.Recovered != nil { // it did not ask
						t.Fatalf("got %.100s", m.text)
					}
					if _, offset := offsetOf(m.At); number(t, m.Data) != next[m.Topic] || offset != next[m.Topic]+1 {
						t.Fatalf("topic %s: %.20s at %s came when %d was due", m.Topic, m.Data, m.At, next[m.Topic])
					}
					next[m.Topic]++
				}
				await(t, "the end of catching up", func() bool { return f.server.Stats().CatchingUp == 0 })
			}
			for _, topic := range topics {
				f.server.Publish(topic, []byte(`"new"`))
				c.hears(topic, `"new"`)
			}
			if extra := c.settled(); len(extra) != 0 {
				t.Errorf("then came %.100s", extra[0].text)
			}
			if st := f.server.Stats(); f.ended.count() > 0 || st.Dropped != 0 || st.Gaps != 0 || st.QueueFull != 0 {
				t.Errorf("%d sessions ended; %d dropped, %d gaps, %d closed with a full queue", f.ended.count(), st.Dropped, st.Gaps, st.QueueFull)
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
			c := dial(t, f.line.endpoint)
			c.subscribe("t")
			f.line.stall()
			for n := range published {
				f.publish("t", n)
			}
			f.line.resume()
			for n := range published {
				if got, want := c.read(), fmt.Sprintf(`{"topic":"t","data":"%d %s"}`, n, f.pad); got != want {
					t.Fatalf("publication %d is %.60s", n, got)
				}
			}
			await(t, "the end of catching up", func() bool { return f.server.Stats().CatchingUp == 0 })
			f.server.Publish("t", []byte(`"new"`))
			check(t, "the plain client", c.read(), `{"topic":"t","data":"new"}`)
			if f.ended.count() > 0 {
				t.Errorf("the session ended with %v", f.ended.only(t))
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
			c := dialV1(t, f.line.endpoint)
			c.must(subscribeTo(1, "t"))
			next, n := 0, 0
			for round := range rounds {
				gaps := 0
				f.line.stall()
				for range published {
					f.publish("t", n)
					n++
				}
				f.line.resume()
				for next < n {
					m := c.next()
					_, offset := offsetOf(m.At)
					switch {
					case m.Op == "gap" && m.Topic == "t":
						if offset <= next || offset > n-history {
							t.Fatalf("a gap up to %s when %d was due; the history has %d of %d", m.At, next, history, n)
						}
						next = offset // numbers begin with 0, offsets with 1
						gaps++
					case !m.isPublication() || m.Recovered != nil || number(t, m.Data) != next || offset != next+1:
						t.Fatalf("%.100s came when %d was due", m.text, next)
					default:
						next++
					}
				}
				if gaps == 0 {
					t.Errorf("round %d: no gap, so that nothing was tested", round)
				}
			}
			if f.ended.count() > 0 {
				t.Errorf("the session ended with %v", f.ended.only(t))
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
			opts := permissive()
			opts.QueueBytes = 64 << 10
			opts.Topics = keeping("", live.TopicOptions{History: history})
			server := newServer(t, opts)
			slow := through(t, serveSmall(t, server.Handler()))
			c := dialV1(t, slow.endpoint)
			epoch, _ := offsetOf(c.must(subscribeTo(1, "t")).At)
			c.must(unsubscribeFrom(1, "t"))
			pad := strings.Repeat("x", floodSize)
			publish := func(from, to int) {
				for n := from; n <= to; n++ {
					server.Publish("t", fmt.Appendf(nil, `"%d %s"`, n, pad))
				}
			}
			publish(1, history)
			slow.slow(perSecond)
			reply := c.must(asked.op(history, epoch))
			if asked.name == "since" && !reply.recovered() {
				t.Fatalf("answered by %.100s", reply.text)
			}
			publish(history+1, history+more)
			slow.slow(0)

			seen, gaps := 0, 0
			take := func(data []byte, at string) {
				if _, offset := offsetOf(at); number(t, data) != seen+1 || offset != seen+1 {
					t.Fatalf("%.20s at %s came after %d", data, at, seen)
				}
				seen++
			}
			for _, m := range reply.messages() {
				take(m.Data, m.At)
			}
			if reply.At != fmt.Sprintf("%s.%d", epoch, seen) {
				t.Errorf("after %d messages the reply is at %s", seen, reply.At)
			}
			for seen < history+more {
				m := c.next()
				if m.Op == "gap" && m.Topic == "t" {
					_, offset := offsetOf(m.At)
					if offset <= seen || offset > more {
						t.Fatalf("a gap up to %s after %d; the history has what follows %d", m.At, seen, more)
					}
					seen = offset
					gaps++
					continue
				}
				take(m.Data, m.At)
				if m.recovered() != (seen <= history) {
					t.Fatalf("%.100s; the client had asked for what came up to %d", m.text, history)
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
			c := dialV1(t, f.line.endpoint)
			since := c.must(subscribeTo(1, "t")).At
			f.line.stall()
			for n := range published {
				f.publish("t", n)
			}
			if err := f.ended.only(t); err != live.ErrQueueFull {
				t.Errorf("OnClose got %v, want ErrQueueFull", err)
			}
			f.line.resume()
			got, code := c.rest()
			if code != live.CloseQueueFull {
				t.Errorf("close code %d (%v), want 4100", code, c.in.err)
			}
			if len(got) == published {
				t.Error("all was heard, so that nothing was tested")
			}
			for i, text := range got {
				m, err := parseFrame(text)
				if err != nil || !m.isPublication() || number(t, m.Data) != i {
					t.Fatalf("frame %d is %.100s", i, text)
				}
				since = m.At
			}
			if test.history == 0 {
				return
			}
			reply := dialV1(t, at).recovers(resumeFrom(1, "t", since), published)
			if !reply.recovered() || len(reply.messages()) != published-len(got) {
				t.Fatalf("%d came after %d of %d: %.200s", len(reply.messages()), len(got), published, reply.text)
			}
			for i, m := range reply.messages() {
				if number(t, m.Data) != len(got)+i {
					t.Fatalf("%.20s came when %d was due", m.Data, len(got)+i)
				}
			}
		})
	}
}
