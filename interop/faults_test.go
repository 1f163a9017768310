package interop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"

	"github.com/livetopic/livetopic/live"
)

// A line that is stalled costs its own session, with ErrQueueFull, and nobody
// else a moment: each publication has reached all others before the next is
// made.
func TestStalledReaderIsClosedAndHoldsUpNobody(t *testing.T) {
	const others, delay = 20, 4 * time.Second // far below WriteTimeout
	overEachSmall(t, func(t *testing.T, serve func(testing.TB, http.Handler) endpoint) {
		var ended ends
		var server *live.Server
		opts := subscriber(&server)
		opts.QueueSize, opts.OnClose = 32, ended.onClose
		server = newServer(t, opts)
		at := serve(t, server.Handler())

		slow := through(t, at)
		victim := dial(t, slow.endpoint)
		victim.subscribe("t")
		all := make([]*client, others)
		for i := range all {
			all[i] = dial(t, at)
			all[i].subscribe("t")
		}
		slow.stall()

		pad := strings.Repeat("x", 4<<10)
		publish := func(n int) {
			t.Helper()
			server.Publish("t", fmt.Appendf(nil, `"%d %s"`, n, pad))
			start := time.Now()
			for i, c := range all {
				if got, want := c.read(), fmt.Sprintf(`{"topic":"t","data":"%d %s"}`, n, pad); got != want {
					t.Fatalf("client %d got %.40s, want %.40s", i, got, want)
				}
			}
			if took := time.Since(start); took > delay {
				t.Errorf("publication %d took %v to reach all others", n, took)
			}
		}
		n := 0
		for ; ended.count() == 0; n++ {
			if n == 1000 {
				t.Fatalf("after %d publications the stalled session is still open", n)
			}
			publish(n)
		}
		if err := ended.only(t); err != live.ErrQueueFull {
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
		slow.resume()
		got, code := victim.rest()
		if code != live.CloseQueueFull {
			t.Errorf("close code %d (%v), want 4100", code, victim.in.err)
		}
		for i, text := range got {
			if want := fmt.Sprintf(`{"topic":"t","data":"%d %s"}`, i, pad); text != want {
				t.Fatalf("message %d is %.40s", i, text)
			}
		}
	})
}

// A line that is stalled while the queue is far from full ends its session too.
// It may take a last bit now and then, when the kernels on the way move what
// they hold, and each starts WriteTimeout anew.
func TestSocketThatTakesNothingIsGivenUp(t *testing.T) {
	const writeTimeout, slack = 500 * time.Millisecond, 4 * time.Second
	overEachSmall(t, func(t *testing.T, serve func(testing.TB, http.Handler) endpoint) {
		var ended ends
		var server *live.Server
		opts := subscriber(&server)
		opts.WriteTimeout, opts.OnClose = writeTimeout, ended.onClose
		server = newServer(t, opts)
		slow := through(t, serve(t, server.Handler()))
		dial(t, slow.endpoint).subscribe("t")
		slow.stall()
		for range 100 {
			server.Publish("t", []byte(`"`+strings.Repeat("x", 4<<10)+`"`))
		}
		start := time.Now()
		err := ended.only(t)
		if took := time.Since(start); took > writeTimeout+slack {
			t.Errorf("given up after %v, with a WriteTimeout of %v", took, writeTimeout)
		}
		if !errors.Is(err, live.ErrWriteFailed) {
			t.Errorf("OnClose got %v, want ErrWriteFailed", err)
		}
	})
}

func TestDeadLineIsFoundWithinPingIntervalAndTimeout(t *testing.T) {
	const interval, timeout, slack = time.Second, 2 * time.Second, time.Second
	overEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) endpoint) {
		var ended ends
		var server *live.Server
		opts := subscriber(&server)
		opts.PingInterval, opts.PingTimeout, opts.OnClose = interval, timeout, ended.onClose
		server = newServer(t, opts)
		at := serve(t, server.Handler())

		// As silent as the dead one, save that it answers pings.
		idle := dial(t, through(t, at).endpoint)
		idle.subscribe("t")
		dead := through(t, at)
		dial(t, dead.endpoint).subscribe("t")
		dead.vanish()
		start := time.Now()

		err := ended.only(t) // so it is not the idle one's either
		took := time.Since(start)
		if err != live.ErrPingTimeout {
			t.Errorf("OnClose got %v, want ErrPingTimeout", err)
		}
		if took > interval+timeout+slack {
			t.Errorf("found after %v, want %v at most", took, interval+timeout)
		}
		if took < timeout {
			t.Errorf("given up after %v, before an answer was overdue", took)
		}
		if st := server.Stats(); st.Sessions != 1 || st.PingTimeouts != 1 {
			t.Errorf("%d sessions, %d ping timeouts; want 1, 1", st.Sessions, st.PingTimeouts)
		}
		server.Publish("t", []byte(`"still here"`))
		check(t, "the idle client", idle.read(), `{"topic":"t","data":"still here"}`)
	})
}

func TestShutdownDoesNotWaitForPeersPastItsContext(t *testing.T) {
	const window, slack = 300 * time.Millisecond, 3 * time.Second // below the time to answer a close frame
	for _, test := range []struct {
		name  string
		queue int // publications of 4 KB
	}{
		{"close frame never answered", 0},
		{"socket full", 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			overEachSmall(t, func(t *testing.T, serve func(testing.TB, http.Handler) endpoint) {
				const peers = 5
				var ended ends
				var server *live.Server
				opts := subscriber(&server)
				opts.OnClose = ended.onClose
				server = live.New(opts)
				at := serve(t, server.Handler())
				lines := make([]*line, peers)
				for i := range lines {
					lines[i] = through(t, at)
					dial(t, lines[i].endpoint).subscribe("t")
					lines[i].stall()
				}
				for range test.queue {
					server.Publish("t", []byte(`"`+strings.Repeat("x", 4<<10)+`"`))
				}

				ctx, cancel := context.WithTimeout(context.Background(), window)
				defer cancel()
				start := time.Now()
				err := server.Shutdown(ctx)
				if took := time.Since(start); took > window+slack {
					t.Errorf("Shutdown took %v, with %v to go", took, window)
				}
				if err != context.DeadlineExceeded {
					t.Errorf("Shutdown returned %v, want the context's error", err)
				}
				await(t, "every OnClose", func() bool { return ended.count() == peers })
				ended.mu.Lock()
				for id, errs := range ended.errs {
					if len(errs) != 1 || errs[0] != live.ErrServerClosed {
						t.Errorf("%s ended with %v, want ErrServerClosed, once", id, errs)
					}
				}
				ended.mu.Unlock()
				if st := server.Stats(); st.Sessions != 0 || st.Topics != 0 {
					t.Errorf("%d sessions and %d topics are left", st.Sessions, st.Topics)
				}
				// And now there is nothing to wait for.
				if err := server.Shutdown(context.Background()); err != nil {
					t.Errorf("the second Shutdown returned %v", err)
				}
			})
		})
	}
}

// A peer has five seconds to answer a close frame. After that the connection is
// closed, and a patient Shutdown returns without error.
func TestPeerThatNeverAnswersTheCloseFrameIsCut(t *testing.T) {
	overEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) endpoint) {
		var ended ends
		server := newServer(t, live.Options{OnMessage: echo, OnClose: ended.onClose})
		conn := dialUnread(t, serve(t, server.Handler()))
		if err := conn.WriteMessage(gorilla.TextMessage, []byte(`{"topic":"t"}`)); err != nil {
			t.Fatal(err)
		}
		if _, data, err := conn.ReadMessage(); string(data) != `{"topic":"t"}` {
			t.Fatalf("read %s, %v", data, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		start := time.Now()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(start); took < time.Second || took > 8*time.Second {
			t.Errorf("Shutdown took %v, want some 5 s", took)
		}
		if err := ended.only(t); err != live.ErrServerClosed {
			t.Errorf("OnClose got %v, want ErrServerClosed", err)
		}
		// The client finds the close frame, and the end of the line.
		conn.SetReadDeadline(time.Now().Add(patience))
		if _, _, err := conn.ReadMessage(); !gorilla.IsCloseError(err, live.CloseRestart) {
			t.Errorf("read %v, want code 1012", err)
		}
		if n, err := io.Copy(io.Discard, conn.NetConn()); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("then came %d bytes, %v", n, err)
		}
	})
}

func TestByteByByteDelivery(t *testing.T) {
	withEach(t, func(t *testing.T, l library, serve func(testing.TB, http.Handler) endpoint) {
		server := newServer(t, live.Options{OnMessage: echo})
		slow := through(t, serve(t, server.Handler()))
		slow.trickle() // the handshake too
		c := l.connect(t, slow.endpoint, nil)
		for _, n := range []int{50, 125, 126, 3000} {
			c.send(fill(n))
			if got := c.read(); got != fill(n) {
				t.Errorf("sent %d bytes, got %d: %.60s…", n, len(got), got)
			}
		}
		if err := c.ping("slowly"); err != nil {
			t.Error(err)
		}
		if err := c.close(1000); err != nil {
			t.Error(err)
		}
		await(t, "the session's end", func() bool { return server.Stats().Sessions == 0 })
	})
}

// cuts are the ways in which a line ends.
var cuts = []struct {
	name string
	cut  func(*line)
}{
	{"closed", (*line).hangUp},
	{"reset", (*line).reset},
}

// Wherever a frame is cut off, there was no message, and the session is over.
// The frame has a header of 8 bytes and 200 of payload.
func TestFrameCutOnItsWayToTheServer(t *testing.T) {
	for _, way := range cuts {
		for _, n := range []int{0, 1, 2, 3, 4, 7, 8, 9, 100, 207} {
			t.Run(fmt.Sprintf("%s after %d bytes", way.name, n), func(t *testing.T) {
				t.Parallel()
				var ended ends
				heard := make(chan string, 1)
				server := newServer(t, live.Options{
					OnMessage: func(_ context.Context, s *live.Session, topic string, data []byte) { heard <- string(data) },
					OnClose:   ended.onClose,
				})
				l := through(t, serve(t, server.Handler()))
				c := dial(t, l.endpoint)
				c.send(`{"data":1}`)
				<-heard
				l.cutUp(n, func() { way.cut(l) })
				c.peer.send(fill(200))
				if err := ended.only(t); err == nil {
					t.Error("OnClose got nil, as if the client had closed")
				}
				select {
				case text := <-heard:
					t.Errorf("OnMessage got %s", text)
				default:
				}
			})
		}
	}
}

// The frame has a header of 4 bytes and 200 of payload. Over TLS all cuts are
// within the record around it.
func TestFrameCutOnItsWayToTheClient(t *testing.T) {
	for _, way := range cuts {
		for _, n := range []int{0, 1, 2, 3, 4, 5, 100, 203} {
			t.Run(fmt.Sprintf("%s after %d bytes", way.name, n), func(t *testing.T) {
				overEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) endpoint) {
					var ended ends
					server := newServer(t, live.Options{OnMessage: echo, OnClose: ended.onClose})
					l := through(t, serve(t, server.Handler()))
					c := dial(t, l.endpoint)
					c.send(`{"data":1}`)
					check(t, "the client", c.read(), `{"data":1}`)
					l.cutDown(n, func() { way.cut(l) })
					c.send(fill(200))
					if got, code := c.rest(); len(got) != 0 || code != 0 {
						t.Errorf("the client got %v and code %d", got, code)
					}
					if err := ended.only(t); err == nil {
						t.Error("OnClose got nil, as if the client had closed")
					}
				})
			})
		}
	}
}

// A client need not wait for the 101: what it sends behind its request is read
// when the session has begun, however much of it net/http has already buffered.
func TestFramesSentTogetherWithTheHandshake(t *testing.T) {
	overEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) endpoint) {
		for _, sizes := range [][]int{{30}, {30, 31, 32}, {100, 5000, 100}, {70_000}} {
			server := newServer(t, live.Options{OnMessage: echo})
			at := serve(t, server.Handler())
			conn := dialRaw(t, at)
			text := rawHandshake
			for _, n := range sizes {
				text += maskedFrame(fill(n))
			}
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("answered %v, %v", resp, err)
			}
			for _, n := range sizes {
				frame := unmaskedFrame(fill(n))
				got := make([]byte, len(frame))
				if _, err := io.ReadFull(r, got); err != nil || string(got) != frame {
					t.Fatalf("%v: the echo of %d bytes is %.60q, %v", sizes, n, got, err)
				}
			}
		}
	})
}

// dialRaw connects without speaking WebSocket.
func dialRaw(t testing.TB, e endpoint) net.Conn {
	t.Helper()
	conn, err := dialTransport(e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}
