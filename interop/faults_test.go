package interop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// A line that is stalled costs its own session, with ErrQueueFull, and nobody
// else a moment: each publication has reached all others before the next is
// made.
func TestStalledReaderIsClosedAndHoldsUpNobody(t *testing.T) {
	const others, delay = 20, 4 * time.Second // far below WriteTimeout
	livetest.OverEachSmall(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
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

// A line that is stalled while the queue is far from full ends its session too.
// It may take a last bit now and then, when the kernels on the way move what
// they hold, and each starts WriteTimeout anew.
func TestSocketThatTakesNothingIsGivenUp(t *testing.T) {
	const writeTimeout, slack = 500 * time.Millisecond, 4 * time.Second
	livetest.OverEachSmall(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
		var ended livetest.Ends
		var server *live.Server
		opts := livetest.Subscriber(&server)
		opts.WriteTimeout, opts.OnClose = writeTimeout, ended.OnClose
		server = livetest.NewServer(t, opts)
		slow := livetest.Through(t, serve(t, server.Handler()))
		livetest.Dial(t, slow.Endpoint).Subscribe("t")
		slow.Stall()
		for range 100 {
			server.Publish("t", []byte(`"`+strings.Repeat("x", 4<<10)+`"`))
		}
		start := time.Now()
		err := ended.Only(t)
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
	livetest.OverEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
		var ended livetest.Ends
		var server *live.Server
		opts := livetest.Subscriber(&server)
		opts.PingInterval, opts.PingTimeout, opts.OnClose = interval, timeout, ended.OnClose
		server = livetest.NewServer(t, opts)
		at := serve(t, server.Handler())

		// As silent as the dead one, save that it answers pings.
		idle := livetest.Dial(t, livetest.Through(t, at).Endpoint)
		idle.Subscribe("t")
		dead := livetest.Through(t, at)
		livetest.Dial(t, dead.Endpoint).Subscribe("t")
		dead.Vanish()
		start := time.Now()

		err := ended.Only(t) // so it is not the idle one's either
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
		livetest.Check(t, "the idle client", idle.Read(), `{"topic":"t","data":"still here"}`)
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
			livetest.OverEachSmall(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
				const peers = 5
				var ended livetest.Ends
				var server *live.Server
				opts := livetest.Subscriber(&server)
				opts.OnClose = ended.OnClose
				server = live.New(opts)
				at := serve(t, server.Handler())
				lines := make([]*livetest.Relay, peers)
				for i := range lines {
					lines[i] = livetest.Through(t, at)
					livetest.Dial(t, lines[i].Endpoint).Subscribe("t")
					lines[i].Stall()
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
				livetest.Eventually(t, "every OnClose", func() bool { return ended.Count() == peers })
				for id, err := range ended.Once(t) {
					if err != live.ErrServerClosed {
						t.Errorf("%s ended with %v, want ErrServerClosed", id, err)
					}
				}
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
	livetest.OverEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
		var ended livetest.Ends
		server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo, OnClose: ended.OnClose})
		c := livetest.Connect(t, serve(t, server.Handler()), livetest.Dialing{Buffer: livetest.SmallBuffer})
		livetest.Check(t, "the client", c.Ask(`{"topic":"t"}`), `{"topic":"t"}`)
		ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
		defer cancel()
		start := time.Now()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(start); took < time.Second || took > 8*time.Second {
			t.Errorf("Shutdown took %v, want some 5 s", took)
		}
		if err := ended.Only(t); err != live.ErrServerClosed {
			t.Errorf("OnClose got %v, want ErrServerClosed", err)
		}
		// The client finds the close frame, and the end of the line.
		c.Conn.SetReadDeadline(time.Now().Add(livetest.Patience))
		if f, err := c.ReadFrame(); f.CloseCode() != live.CloseRestart {
			t.Errorf("read %s, %v, want code 1012", f, err)
		}
		if n, err := io.Copy(io.Discard, c.In); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("then came %d bytes, %v", n, err)
		}
	})
}

func TestByteByByteDelivery(t *testing.T) {
	withEach(t, func(t *testing.T, l library, serve func(testing.TB, http.Handler) livetest.Endpoint) {
		server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo})
		slow := livetest.Through(t, serve(t, server.Handler()))
		slow.Trickle() // the handshake too
		c := l.connect(t, slow.Endpoint, nil)
		for _, n := range []int{50, 125, 126, 3000} {
			c.Send(livetest.Fill(n))
			if got := c.Read(); got != livetest.Fill(n) {
				t.Errorf("sent %d bytes, got %d: %.60s…", n, len(got), got)
			}
		}
		if err := c.ping("slowly"); err != nil {
			t.Error(err)
		}
		if err := c.close(1000); err != nil {
			t.Error(err)
		}
		livetest.Eventually(t, "the session's end", func() bool { return server.Stats().Sessions == 0 })
	})
}

// cuts are the ways in which a line ends.
var cuts = []struct {
	name string
	cut  func(*livetest.Relay)
}{
	{"closed", (*livetest.Relay).HangUp},
	{"reset", (*livetest.Relay).Reset},
}

// Wherever a frame is cut off, there was no message, and the session is over.
// The frame has a header of 8 bytes and 200 of payload.
func TestFrameCutOnItsWayToTheServer(t *testing.T) {
	for _, way := range cuts {
		for _, n := range []int{0, 1, 2, 3, 4, 7, 8, 9, 100, 207} {
			t.Run(fmt.Sprintf("%s after %d bytes", way.name, n), func(t *testing.T) {
				t.Parallel()
				var ended livetest.Ends
				heard := make(chan string, 1)
				server := livetest.NewServer(t, live.Options{
					OnMessage: func(_ context.Context, s *live.Session, topic string, data []byte) { heard <- string(data) },
					OnClose:   ended.OnClose,
				})
				l := livetest.Through(t, livetest.Serve(t, server.Handler()))
				c := livetest.Dial(t, l.Endpoint)
				c.Send(`{"data":1}`)
				<-heard
				l.CutUp(n, func() { way.cut(l) })
				c.Say(livetest.Fill(200))
				if err := ended.Only(t); err == nil {
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
				livetest.OverEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
					var ended livetest.Ends
					server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo, OnClose: ended.OnClose})
					l := livetest.Through(t, serve(t, server.Handler()))
					c := livetest.Dial(t, l.Endpoint)
					c.Send(`{"data":1}`)
					livetest.Check(t, "the client", c.Read(), `{"data":1}`)
					l.CutDown(n, func() { way.cut(l) })
					c.Send(livetest.Fill(200))
					if got, code := c.Rest(); len(got) != 0 || code != 0 {
						t.Errorf("the client got %v and code %d", got, code)
					}
					if err := ended.Only(t); err == nil {
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
	livetest.OverEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
		for _, sizes := range [][]int{{30}, {30, 31, 32}, {100, 5000, 100}, {70_000}} {
			server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo})
			at := serve(t, server.Handler())
			conn := livetest.DialTransport(t, at)
			text := livetest.Dialing{}.Request(at)
			for _, n := range sizes {
				text += string(livetest.Masked(livetest.TextFrame, livetest.Fill(n)))
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
				frame := string(livetest.Unmasked(livetest.TextFrame, livetest.Fill(n)))
				got := make([]byte, len(frame))
				if _, err := io.ReadFull(r, got); err != nil || string(got) != frame {
					t.Fatalf("%v: the echo of %d bytes is %.60q, %v", sizes, n, got, err)
				}
			}
		}
	})
}
