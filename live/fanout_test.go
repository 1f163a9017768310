package live_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestPublicationByAClientReachesEveryone(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Permissive())
	at := livetest.Serve(t, server.Handler())
	for _, topic := range []string{"t", "chat"} {
		all := make([]*livetest.Client, 5)
		for i := range all {
			all[i] = livetest.DialV1(t, at)
			all[i].Must(livetest.SubscribeTo(1, topic))
		}
		all[2].Send(`{"op":"publish","id":9,"topic":"` + topic + `","data":{"text":"hello"}}`)
		for i, c := range all {
			var heard, reply livetest.Frame
			for heard.Raw == "" || i == 2 && reply.Raw == "" {
				if f := c.Next(); f.IsPublication() {
					heard = f
				} else {
					reply = f
				}
			}
			if string(heard.Data) != `{"text":"hello"}` || heard.Topic != topic || (heard.At != "") != (topic == "chat") {
				t.Errorf("client %d heard %s", i, heard.Raw)
			}
			if i == 2 && (reply.Op != "reply" || reply.ID != 9 || reply.At != heard.At) {
				t.Errorf("the publisher heard %s and was answered by %s", heard.Raw, reply.Raw)
			}
		}
	}
}

func TestExceptLeavesOutOneSession(t *testing.T) {
	t.Parallel()
	var server *live.Server
	opts := livetest.Permissive()
	opts.OnRequest = func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
		return nil, server.Publish(topic, data, live.Except(s))
	}
	server = livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	for _, topic := range []string{"t", "chat"} {
		a, b := livetest.DialV1(t, at), livetest.DialV1(t, at)
		a.Must(livetest.SubscribeTo(1, topic))
		b.Must(livetest.SubscribeTo(1, topic))
		a.Must(`{"op":"request","id":2,"topic":"` + topic + `","data":"not for a"}`)
		server.Publish(topic, []byte(`"for all"`), live.Except(nil))
		a.Hears(topic, `"for all"`)
		b.Hears(topic, `"not for a"`, `"for all"`)
	}
}

// torrent is what a client on a stalled line gets of topics that drop publications.
type torrent struct {
	server *live.Server
	line   *livetest.Relay
	ended  livetest.Ends
	pad    string
}

const (
	torrentQueue = 16
	torrentSize  = 4 << 10
)

func newTorrent(t *testing.T, mode live.Overflow, history int) (*torrent, livetest.Endpoint) {
	f := &torrent{pad: strings.Repeat("x", torrentSize)}
	opts := livetest.Permissive()
	opts.QueueSize = torrentQueue
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

func (f *torrent) publish(topic string, n int) {
	f.server.Publish(topic, fmt.Appendf(nil, `"%d %s"`, n, f.pad))
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
	t.Parallel()
	eachOverflow(t, func(t *testing.T, mode live.Overflow, history int) {
		const rounds, published = 3, 200
		f, _ := newTorrent(t, mode, history)
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
	t.Parallel()
	eachOverflow(t, func(t *testing.T, mode live.Overflow, history int) {
		f, _ := newTorrent(t, mode, history)
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
		if gaps == 0 || len(sinceGap) > torrentQueue {
			t.Errorf("%d gaps; after the last %d publications had waited, with a QueueSize of %d", gaps, len(sinceGap), torrentQueue)
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
	t.Parallel()
	eachOverflow(t, func(t *testing.T, mode live.Overflow, history int) {
		f, _ := newTorrent(t, mode, history)
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
	t.Parallel()
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
	t.Parallel()
	var ended livetest.Ends
	opts := livetest.Permissive()
	opts.QueueSize, opts.OnClose = torrentQueue, ended.OnClose
	opts.Topics = livetest.Keeping("drop", live.TopicOptions{Overflow: live.OverflowDropOldest})
	server := livetest.NewServer(t, opts)
	slow := livetest.Through(t, livetest.ServeSmall(t, server.Handler()))
	c := livetest.DialV1(t, slow.Endpoint)
	c.Must(livetest.SubscribeTo(1, "drop"))
	c.Must(livetest.SubscribeTo(2, "keep"))
	slow.Stall()
	pad := `"` + strings.Repeat("x", torrentSize) + `"`
	for range 200 {
		server.Publish("drop", []byte(pad))
	}
	time.Sleep(10 * time.Millisecond) // it would have ended by now
	if ended.Count() > 0 {
		t.Fatalf("the session ended with %v", ended.Only(t))
	}
	for range torrentQueue + 1 {
		server.Publish("keep", []byte(pad))
	}
	slow.Resume()
	_, code := c.Rest()
	if err := ended.Only(t); err != live.ErrQueueFull || code != live.CloseQueueFull {
		t.Errorf("OnClose got %v, the client code %d; want ErrQueueFull and 4100", err, code)
	}
}

// A line that is stalled costs its own session, with ErrQueueFull, and nobody
// else a moment: each publication has reached all others before the next is
// made.
func TestStalledReaderIsClosedAndHoldsUpNobody(t *testing.T) {
	const others, delay = 20, 4 * time.Second // far below WriteTimeout
	livetest.OverEachSmall(t, func(t *testing.T, serve livetest.Serving) {
		var ended livetest.Ends
		var server *live.Server
		opts := livetest.Subscriber(&server)
		opts.QueueSize, opts.OnClose = 32, ended.OnClose
		server = livetest.NewServer(t, opts)
		at := serve(t, server.Handler())

		slow := livetest.Through(t, at)
		victim := livetest.Dial(t, slow.Endpoint)
		victim.Subscribe("t")
		all := make([]*livetest.Client, others)
		for i := range all {
			all[i] = livetest.Dial(t, at)
			all[i].Subscribe("t")
		}
		slow.Stall()

		pad := strings.Repeat("x", 4<<10)
		publish := func(n int) {
			t.Helper()
			server.Publish("t", fmt.Appendf(nil, `"%d %s"`, n, pad))
			start := time.Now()
			for i, c := range all {
				if got, want := c.Read(), fmt.Sprintf(`{"topic":"t","data":"%d %s"}`, n, pad); got != want {
					t.Fatalf("client %d got %.40s, want %.40s", i, got, want)
				}
			}
			if took := time.Since(start); took > delay {
				t.Errorf("publication %d took %v to reach all others", n, took)
			}
		}
		n := 0
		for ; ended.Count() == 0; n++ {
			if n == 1000 {
				t.Fatalf("after %d publications the stalled session is still open", n)
			}
			publish(n)
		}
		if err := ended.Only(t); err != live.ErrQueueFull {
			t.Errorf("OnClose got %v, want ErrQueueFull", err)
		}
		if st := server.Stats(); st.Sessions != others || st.Subscriptions != others || st.QueueFull != 1 {
			t.Errorf("%d sessions, %d subscriptions, %d closed with a full queue; want %d, %d, 1",
				st.Sessions, st.Subscriptions, st.QueueFull, others, others)
		}
		for range 10 {
			publish(n)
			n++
		}

		// What the line still held is a beginning without a gap, and then the reason.
		slow.Resume()
		got, code := victim.Rest()
		if code != live.CloseQueueFull {
			t.Errorf("close code %d (%v), want 4100", code, victim.Err())
		}
		for i, text := range got {
			if want := fmt.Sprintf(`{"topic":"t","data":"%d %s"}`, i, pad); text.Raw != want {
				t.Fatalf("message %d is %.40s", i, text)
			}
		}
	})
}

// Sessions with and without compression get the same; those with it, in fewer
// bytes.
func TestCompressedPublicationIsShared(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{Compression: true})
	srv, url := serve(t, opts)
	data := `"` + strings.Repeat("lorem ipsum ", 5000) + `"`
	plain, s1 := pair(t, url, sessions)
	srv.Subscribe(s1, "t")
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
	s2 := livetest.Receive(t, sessions)
	srv.Subscribe(s2, "t")
	srv.Publish("t", []byte(data))
	s2.Close()
	plain.Hears("t", data)
	conn.SetReadDeadline(time.Now().Add(livetest.Patience))
	buf := make([]byte, 1<<20)
	total := 0
	for !strings.HasSuffix(string(buf[:total]), "\x03\xe8closed by the server") {
		n, err := conn.Read(buf[total:])
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if !strings.Contains(string(buf[:total]), "\xc1") || total > len(data)/10 {
		t.Errorf("%d bytes for %d", total, len(data))
	}
}

// A queue that is full of what may be dropped has space for other topics.
func TestWhatMayBeDroppedMakesSpaceForOtherTopics(t *testing.T) {
	t.Parallel()
	for _, v1 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v1=%v", v1), func(t *testing.T) {
			opts, sessions := livetest.Connected(live.Options{QueueSize: 16})
			opts.Topics = func(topic string) live.TopicOptions {
				if topic == "drops" {
					return live.TopicOptions{Overflow: live.OverflowDropOldest}
				}
				return live.TopicOptions{}
			}
			h := livetest.Hosting{Buffer: 8 << 10}.Start(t, opts)
			p := slowPeer(h, t, v1, 0)
			s := livetest.Receive(t, sessions)
			h.Subscribe(s, "drops")
			h.Subscribe(s, "other")
			p.Line.Stall()
			for i := 0; h.Stats().Dropped < 50; i++ {
				h.Publish("drops", []byte(livetest.Padded(i, 1000)))
			}
			const others = 5
			h.PublishNumbers(t, "other", 1, others, 10)
			p.Line.Resume()
			p.Attend()
			for want := 1; want <= others; {
				if f := p.Next(); f.Topic == "other" && f.Op == "" {
					if livetest.NumberOf(f.Data) != want {
						t.Fatalf("got %s, want number %d", &f, want)
					}
					want++
				}
			}
			if st := h.Stats(); st.QueueFull != 0 || st.Sessions != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}
