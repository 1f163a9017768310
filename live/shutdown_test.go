package live_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
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
