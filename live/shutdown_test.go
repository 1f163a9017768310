package live_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestShutdownEndsEverything(t *testing.T) {
	noGoroutinesLeft(t)
	var closes atomic.Int32
	opts, sessions := livetest.Connected(live.Options{
		OnClose: func(_ *live.Session, err error) {
			if err != live.ErrServerClosed {
				t.Error(err)
			}
			closes.Add(1)
		},
	})
	srv, url := serve(t, opts)
	const n = 50
	codes := make(chan string, n)
	for range n {
		c, s := pair(t, url, sessions)
		srv.Subscribe(s, "t")
		go func() {
			code, reason, before := c.Closed()
			if len(before) != 1 {
				t.Errorf("%d messages before the close", len(before))
			}
			codes <- fmt.Sprint(code, " ", reason)
		}()
	}
	srv.Publish("t", []byte(`"the last"`))
	shut(t, srv)
	if got := closes.Load(); got != n {
		t.Errorf("when Shutdown returned %d of %d OnClose had", got, n)
	}
	for range n {
		if got := livetest.Receive(t, codes); got != "1012 restart; return within 1000 ms" {
			t.Error("closed with", got)
		}
	}
	if st := srv.Stats(); st.Sessions != 0 || st.Topics != 0 || st.Subscriptions != 0 {
		t.Errorf("%+v", st)
	}
	if resp := upgrade(t, url, nil); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("afterwards: %s", resp.Status)
	}
	if err := srv.Publish("t", []byte(`1`)); err != live.ErrServerClosed {
		t.Error(err)
	}
	shut(t, srv) // again
}

func TestShutdownSpreadsTheClosing(t *testing.T) {
	var mu sync.Mutex
	var times []time.Time
	opts, sessions := livetest.Connected(live.Options{
		OnClose: func(*live.Session, error) {
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Now())
		},
	})
	srv, url := serve(t, opts)
	const n = 300
	for range n {
		c, _ := pair(t, url, sessions)
		go c.Closed()
	}
	start := time.Now()
	shut(t, srv)
	// A thousand a second: 300 take 300 ms. That they are not sooner is certain.
	if took := times[n-1].Sub(start); took < 250*time.Millisecond {
		t.Errorf("all were closed within %v", took)
	}
	if took := times[n/2].Sub(start); took < 100*time.Millisecond {
		t.Errorf("half were closed within %v", took)
	}
}

func TestShutdownCutsWhatIsLeftWhenItsContextEnds(t *testing.T) {
	noGoroutinesLeft(t)
	release := make(chan struct{})
	opts, sessions := livetest.Connected(live.Options{
		OnMessage: func(context.Context, *live.Session, string, []byte) { <-release },
	})
	srv, url := serve(t, opts)
	c, _ := pair(t, url, sessions)
	c.SendMessage("block", nil)
	dial(t, url) // never answers a close frame
	livetest.Receive(t, sessions)
	livetest.Eventually(t, "the message", func() bool { return srv.Stats().Received == 1 })

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	close(release)
	shut(t, srv) // what was cut ends by itself
}

// A client in the middle of its handshake is refused, or closed like the rest.
func TestShutdownMeetsHandshakes(t *testing.T) {
	inAuth, goOn := make(chan struct{}), make(chan struct{})
	srv, url := serve(t, live.Options{
		OnAuth: func(context.Context, *http.Request) (any, error) {
			close(inAuth)
			<-goOn
			return nil, nil
		},
	})
	done := make(chan string)
	go func() {
		c := dial(t, url)
		code, _, _ := c.Closed()
		done <- fmt.Sprint(code)
	}()
	livetest.Receive(t, inAuth)
	finished := make(chan struct{})
	go func() { shut(t, srv); close(finished) }()
	livetest.Eventually(t, "draining", func() bool {
		resp := upgrade(t, url, func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "BAAAAAAAAAAAAAAAAAAAAA==") })
		return resp.StatusCode == 503
	})
	close(goOn)
	if got := livetest.Receive(t, done); got != "1012" {
		t.Fatal(got)
	}
	livetest.Receive(t, finished)
}

func TestShutdownOfAnIdleServerIsImmediate(t *testing.T) {
	srv := live.New(live.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := srv.Publish("t", []byte(strings.Repeat("1", 3))); err != live.ErrServerClosed {
		t.Fatal(err)
	}
}

func TestDrainComesBeforeTheRestart(t *testing.T) {
	t.Parallel()
	server := live.New(livetest.Permissive())
	at := livetest.Serve(t, server.Handler())
	c := livetest.DialV1(t, at)
	c.Must(livetest.SubscribeTo(1, "t"))
	for i := range 50 {
		server.Publish("t", fmt.Appendf(nil, `%d`, i))
	}
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	done := make(chan error)
	go func() { done <- server.Shutdown(ctx) }()
	got, code := c.Rest()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if len(got) != 51 || code != live.CloseRestart {
		t.Fatalf("got %d frames and code %d, want 51 and 1012", len(got), code)
	}
	drain, err := livetest.ParseFrame(got[50].Raw)
	if err != nil || drain.Op != "drain" || drain.Within <= 0 {
		t.Errorf("the last frame is %s, want drain", got[50].Raw)
	}
	if want := fmt.Sprintf("within %d ms", drain.Within); !strings.Contains(fmt.Sprint(c.Err()), want) {
		t.Errorf("closed with %v, which does not say %q", c.Err(), want)
	}
}

func TestShutdownDoesNotWaitForPeersPastItsContext(t *testing.T) {
	t.Parallel()
	const window, slack = 300 * time.Millisecond, 3 * time.Second // below the time to answer a close frame
	for _, test := range []struct {
		name  string
		queue int // publications of 4 KB
	}{
		{"close frame never answered", 0},
		{"socket full", 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			livetest.OverEachSmall(t, func(t *testing.T, serve livetest.Serving) {
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
	t.Parallel()
	livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
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

// For ShutdownDelay the server is not ready, and refuses new clients. Those that it has notice nothing.
func TestShutdownFirstOnlyRefuses(t *testing.T) {
	t.Parallel()
	const delay = 300 * time.Millisecond
	server := live.New(livetest.Open(live.Options{ShutdownDelay: delay, Logger: livetest.Quiet}))
	at := livetest.Serve(t, server.Handler())
	c := livetest.DialV1(t, at)
	c.Must(livetest.SubscribeTo(1, "t"))
	began := time.Now()
	over := make(chan error, 1)
	go func() { over <- server.Shutdown(context.Background()) }()
	livetest.Eventually(t, "the server is not ready", func() bool { return server.Ready(t.Context()) != nil })
	if status := livetest.Refusal(t, at, nil); status != http.StatusServiceUnavailable {
		t.Errorf("a new client got %d", status)
	}
	if err := server.Publish("t", []byte("1")); err != nil {
		t.Error(err)
	}
	c.Hears("t", "1")
	if code, _, _ := c.Closed(); code != live.CloseRestart || time.Since(began) < delay {
		t.Errorf("closed with %d after %v", code, time.Since(began))
	}
	if err := livetest.Receive(t, over); err != nil {
		t.Error(err)
	}
}

// The delay holds without sessions too, because a balancer still sends pages. It does not outlast the
// context.
func TestShutdownDelayIsBounded(t *testing.T) {
	t.Parallel()
	for _, sessions := range []int{0, 1} {
		inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
			const delay = time.Minute
			server := serve(live.Options{ShutdownDelay: delay, PingInterval: -1})
			for range sessions {
				go closing(dial())
				synctest.Wait()
			}
			began := time.Now()
			if err := server.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took < delay || took > delay+time.Second {
				t.Errorf("with %d sessions Shutdown took %v", sessions, took)
			}
		})
		inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
			const patience = 10 * time.Second
			server := serve(live.Options{ShutdownDelay: time.Hour, PingInterval: -1})
			for range sessions {
				go closing(dial())
				synctest.Wait()
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			began := time.Now()
			if err := server.Shutdown(ctx); err != context.DeadlineExceeded {
				t.Error(err)
			}
			if took := time.Since(began); took < patience || took > patience+time.Second {
				t.Errorf("with %d sessions Shutdown took %v", sessions, took)
			}
		})
	}
}

// closedOnce is a broker that notes when it is closed.
type closedOnce struct {
	live.Broker
	mu    sync.Mutex
	times []time.Time
}

func (b *closedOnce) Close(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.times = append(b.times, time.Now())
	return b.Broker.Close(ctx)
}

// closed reports how many times the broker was closed.
func (b *closedOnce) closed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.times)
}

// Shutdown is called again while it runs. The first call sets the pace, and every call returns when the
// broker is closed. If the ctx of a call ends, the connections are cut for all.
func TestShutdownIsCalledAgain(t *testing.T) {
	t.Parallel()
	const delay, n = 20 * time.Second, 300
	type call struct {
		at, timeout time.Duration // timeout 0: none
		want        error
	}
	for _, test := range []struct {
		name  string
		calls []call
		first time.Duration // when the first session is closed
		last  time.Duration // when the last is
	}{
		{"twice at once", []call{{}, {}}, delay, delay + n*time.Millisecond},
		{"many times at once", slices.Repeat([]call{{}}, 30), delay, delay + n*time.Millisecond},
		{"in the delay", []call{{}, {at: delay / 2}}, delay, delay + n*time.Millisecond},
		{"while sessions are closed", []call{{}, {at: delay + n*time.Millisecond/2}}, delay, delay + n*time.Millisecond},
		{"with more time", []call{{timeout: time.Minute}, {at: time.Second, timeout: time.Hour}}, delay, delay + n*time.Millisecond},
		{"with a shorter time, which suffices", []call{{}, {at: time.Second, timeout: delay + time.Second}}, delay, delay + n*time.Millisecond},
		{"with too short a time", []call{{}, {at: time.Second, timeout: 5 * time.Second, want: context.DeadlineExceeded}, {at: 2 * time.Second}}, 6 * time.Second, 6 * time.Second},
		{"with a time that has ended", []call{{timeout: time.Minute}, {at: time.Second, timeout: -1, want: context.DeadlineExceeded}}, time.Second, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
				var mu sync.Mutex
				var ends []time.Duration
				began := time.Now()
				broker := &closedOnce{Broker: live.NewMemoryBroker(live.MemoryOptions{})}
				server := serve(live.Options{
					ShutdownDelay: delay, PingInterval: -1, Broker: broker,
					OnClose: func(*live.Session, error) {
						mu.Lock()
						defer mu.Unlock()
						ends = append(ends, time.Since(began))
					},
				})
				for range n {
					go closing(dial())
				}
				synctest.Wait()
				began = time.Now()
				var calls sync.WaitGroup
				for _, c := range test.calls {
					calls.Go(func() {
						time.Sleep(c.at)
						ctx := context.Background()
						if c.timeout != 0 {
							limited, cancel := context.WithTimeout(ctx, c.timeout)
							defer cancel()
							ctx = limited
						}
						if err := server.Shutdown(ctx); err != c.want {
							t.Errorf("the call after %v returned %v", c.at, err)
						}
						if broker.closed() != 1 {
							t.Errorf("when the call after %v returned, the broker was closed %d times", c.at, broker.closed())
						}
					})
				}
				calls.Wait()
				mu.Lock()
				defer mu.Unlock()
				if len(ends) != n {
					t.Fatalf("%d sessions have ended, want %d", len(ends), n)
				}
				slices.Sort(ends)
				const slack = 10 * time.Millisecond // the pauses between two closes are as long
				if ends[0] < test.first || ends[0] > test.first+slack || ends[n-1] < test.last-slack || ends[n-1] > test.last+slack {
					t.Errorf("sessions ended after %v to %v, want %v to %v", ends[0], ends[n-1], test.first, test.last)
				}
			})
		})
	}
}

// Shutdown in a callback would wait for that callback. It is refused at once, and the server goes on. In a
// goroutine of its own it works.
func TestShutdownInACallbackIsRefused(t *testing.T) {
	t.Parallel()
	livetest.AtOnce(t, func(g *livetest.Together) {
		for name, set := range callbacks {
			g.Run(name, func(t *testing.T) {
				refused := make(chan error, 1)
				over := make(chan error, 1)
				var begun atomic.Bool
				var server *live.Server
				opts := livetest.Open(live.Options{
					Logger: livetest.Quiet, Topics: presentAndKept,
					OnPresence: func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil },
				})
				set(&opts, func(*live.Session) {
					if !begun.Swap(true) {
						deep := func() error { return server.Shutdown(context.Background()) }
						refused <- deep()
					}
				})
				server = live.New(opts)
				at := livetest.Serve(t, server.Handler())
				c := livetest.DialV1(t, at)
				c.Say(
					`{"topic":"t","data":1}`,
					livetest.SubscribeTo(1, "t"), livetest.SubscribeTo(5, "s"),
					livetest.Operation("present", 2, "t", "info", "here"),
					livetest.Operation("publish", 3, "t", "data", 1),
					livetest.Operation("request", 4, "t", "data", 1),
					livetest.UnsubscribeFrom(6, "t"),
				)
				c.Reply(6)
				c.Leave()
				if err := livetest.Receive(t, refused); err != live.ErrInCallback {
					t.Errorf("in %s: %v", name, err)
				}
				if err := server.Ready(t.Context()); err != nil {
					t.Error(err)
				}
				go func() { over <- server.Shutdown(context.Background()) }()
				if err := livetest.Receive(t, over); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// OnAuth that waits for its context does not outlast Shutdown, whose ctx has ended. Its client is refused as
// any other then.
func TestOnAuthEndsWithTheTimeOfShutdown(t *testing.T) {
	t.Parallel()
	called := make(chan struct{})
	h := livetest.Hosting{}.Start(t, live.Options{AuthTimeout: time.Hour, OnAuth: func(ctx context.Context, _ *http.Request) (any, error) {
		close(called)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	status := make(chan int, 1)
	go func() { status <- livetest.Refusal(t, h.Endpoint, nil) }() // ends with the answer
	livetest.Receive(t, called)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.Shutdown(ctx); err != context.DeadlineExceeded {
		t.Error(err)
	}
	if got := livetest.Receive(t, status); got != http.StatusServiceUnavailable {
		t.Errorf("the client got %d", got)
	}
	shut(t, h.Server) // nothing is left to wait for
	if got, want := h.Stats().RefusedFor, (live.Refusals{Draining: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
