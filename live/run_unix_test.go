//go:build unix

package live_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// TestRunProcess is no test: it is a program with Run. LIVE_PROCESS says which.
func TestRunProcess(t *testing.T) {
	way, ok := strings.CutPrefix(os.Getenv("LIVE_PROCESS"), "run ")
	if !ok {
		t.Skip("started by other tests")
	}
	server := live.New(livetest.Open(live.Options{
		Logger:          livetest.Quiet,
		ShutdownTimeout: map[string]time.Duration{"hangs": time.Minute, "forgets": 500 * time.Millisecond}[way],
		OnClose: func(_ *live.Session, err error) {
			if way == "hangs" {
				select {}
			}
			fmt.Println("closed", err)
		},
	}))
	web := &http.Server{Handler: server.Handler()}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve := func() error {
		fmt.Println("listens", listener.Addr()) // now that signals are awaited
		return web.Serve(listener)
	}
	switch way {
	case "stops", "hangs":
		err = server.Run(t.Context(), serve, web.Shutdown)
	case "forgets": // to give Run what stops serve
		err = server.Run(t.Context(), serve)
	case "ignores Ctrl-C", "ignores both":
		signal.Ignore(os.Interrupt)
		if way == "ignores both" {
			signal.Ignore(syscall.SIGTERM)
		}
		err = server.Run(t.Context(), func() error {
			fmt.Println("ignored", signal.Ignored(os.Interrupt), signal.Ignored(syscall.SIGTERM))
			return nil
		})
	}
	fmt.Println("ended", err)
}

func TestRunEndsInOrder(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := start(t, "TestRunProcess", "run stops")
		c := livetest.DialV1(t, livetest.Endpoint{URL: "ws://" + p.says(t, "listens")})
		p.signal(t, sig)
		if code, _, _ := c.Closed(); code != live.CloseRestart {
			t.Errorf("closed with %d", code)
		}
		if err := p.says(t, "closed"); err != live.ErrServerClosed.Error() {
			t.Errorf("OnClose got %s", err)
		}
		if err := p.says(t, "ended"); err != "<nil>" {
			t.Errorf("Run returned %s", err)
		}
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// A second signal ends a program that hangs.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := start(t, "TestRunProcess", "run hangs")
	c := livetest.DialV1(t, livetest.Endpoint{URL: "ws://" + p.says(t, "listens")})
	p.signal(t, syscall.SIGTERM)
	c.Closed()
	p.signal(t, syscall.SIGTERM)
	p.Wait()
	if status := p.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v", p.ProcessState)
	}
}

func TestRunWithoutAStopSaysSo(t *testing.T) {
	t.Parallel()
	p := start(t, "TestRunProcess", "run forgets")
	p.says(t, "listens")
	p.signal(t, syscall.SIGTERM)
	if err := p.says(t, "ended"); !strings.Contains(err, "give Run a function that stops it") {
		t.Errorf("Run returned %s", err)
	}
}

// A signal that the process ignores is no reason for Run to end.
func TestRunLeavesIgnoredSignalsAlone(t *testing.T) {
	t.Parallel()
	for way, want := range map[string]string{"ignores Ctrl-C": "true false", "ignores both": "true true"} {
		p := start(t, "TestRunProcess", "run "+way)
		if ignored := p.says(t, "ignored"); ignored != want {
			t.Errorf("%s: in Run they are ignored: %s, want %s", way, ignored, want)
		}
		if err := p.says(t, "ended"); err != "<nil>" {
			t.Errorf("%s: Run returned %s", way, err)
		}
	}
}

// runInMemory calls Run in a bubble of synctest. Its ctx ends as soon as it serves, and serve returns when
// stop has returned.
func runInMemory(t *testing.T, opts live.Options, stop func(context.Context)) (err error) {
	t.Helper()
	signals := make(chan os.Signal, 1) // package signal starts a goroutine, which must not be in the bubble
	signal.Notify(signals, syscall.SIGHUP)
	signal.Stop(signals)
	inMemory(t, func(t *testing.T, start func(live.Options) *live.Server, dial func() net.Conn) {
		server := start(opts)
		go closing(dial())
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		err = server.Run(ctx, func() error { cancel(); <-stopped; return nil }, func(ctx context.Context) error {
			defer close(stopped)
			stop(ctx)
			return nil
		})
	})
	return err
}

// Sessions that use up their time leave some for HTTP requests: a fifth of ShutdownTimeout.
func TestRunLeavesTimeForTheStopFunctions(t *testing.T) {
	const timeout = 10 * time.Second
	hanging := make(map[string]live.Options)
	hanging["OnClose"] = live.Options{OnClose: func(*live.Session, error) { time.Sleep(timeout) }}
	hanging["the delay"] = live.Options{ShutdownDelay: time.Hour}
	for name, opts := range hanging {
		opts.ShutdownTimeout, opts.PingInterval = timeout, -1
		err := runInMemory(t, opts, func(ctx context.Context) {
			deadline, _ := ctx.Deadline()
			if left := time.Until(deadline); ctx.Err() != nil || left != timeout/5 {
				t.Errorf("%s: the stop function was called with %v left of %v", name, left, timeout)
			}
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: Run returned %v", name, err)
		}
	}
}

// If serve returns at the last moment, it has returned in time.
func TestServeMayReturnAtTheLastMoment(t *testing.T) {
	for range 20 {
		if err := runInMemory(t, live.Options{PingInterval: -1}, func(ctx context.Context) { <-ctx.Done() }); err != nil {
			t.Fatalf("Run returned %v", err)
		}
	}
}

// A server that cannot serve ends at once, and says why.
func TestRunReturnsWhatServeSays(t *testing.T) {
	t.Parallel()
	for _, failed := range []error{errors.New("the port is taken"), http.ErrServerClosed, nil} {
		server := live.New(live.Options{Logger: livetest.Quiet})
		stopped := false
		err := server.Run(t.Context(), func() error { return failed }, func(context.Context) error { stopped = true; return nil })
		if failed == http.ErrServerClosed {
			failed = nil
		}
		if !errors.Is(err, failed) || (err == nil) != (failed == nil) || !stopped {
			t.Errorf("Run returned %v, stopped %v", err, stopped)
		}
		if err := server.Ready(t.Context()); !errors.Is(err, live.ErrServerClosed) {
			t.Errorf("afterwards Ready says %v", err)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	server := live.New(live.Options{Logger: livetest.Quiet})
	stopped := make(chan struct{})
	err := server.Run(ctx, func() error { cancel(); <-stopped; return http.ErrServerClosed }, func(ctx context.Context) error {
		close(stopped)
		return ctx.Err()
	})
	if err != nil {
		t.Error(err)
	}
}
