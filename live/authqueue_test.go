package live_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// slowAuth is an OnAuth that takes its time, as one that asks a database does.
type slowAuth struct {
	takes   time.Duration
	running atomic.Int64
	most    atomic.Int64 // that ran at once
	calls   atomic.Int64
}

func (a *slowAuth) OnAuth(context.Context, *http.Request) (any, error) {
	n := a.running.Add(1)
	defer a.running.Add(-1)
	for most := a.most.Load(); n > most && !a.most.CompareAndSwap(most, n); most = a.most.Load() {
	}
	a.calls.Add(1)
	time.Sleep(a.takes)
	return "user", nil
}

// A storm of handshakes is worked off: each client is served at once, or refused with 503 and served when
// it comes back.
func TestStormOfHandshakesIsWorkedOff(t *testing.T) {
	stormOfHandshakes(t, storm{clients: 400, atOnce: 400, auth: 2 * time.Millisecond, opts: live.Options{MaxAuthsAtOnce: 8, MaxAuthsWaiting: 100}})
}

type storm struct {
	clients int
	atOnce  int           // how many may have a connection
	auth    time.Duration // for which OnAuth runs
	opts    live.Options
}

func stormOfHandshakes(t *testing.T, s storm) {
	auth := &slowAuth{takes: s.auth}
	var ended livetest.Ends
	s.opts.OnAuth, s.opts.OnClose, s.opts.Logger = auth.OnAuth, ended.OnClose, livetest.Quiet
	server := livetest.NewServer(t, s.opts)
	at := livetest.Serve(t, server.Handler())
	goroutines := runtime.NumGoroutine()
	begun := time.Now()
	var refused atomic.Int64
	connections := make(chan struct{}, s.atOnce)
	livetest.Each(s.clients, func(int) {
		for {
			connections <- struct{}{}
			again, err := oneOfAStorm(t, at)
			<-connections
			switch {
			case err != nil:
				t.Error(err)
				return
			case again == 0:
				return
			}
			refused.Add(1)
			time.Sleep(again / 20) // the test has less patience than clients
		}
	})
	took := time.Since(begun)
	if n := refused.Load(); n == 0 {
		t.Error("the storm was too weak: no client was refused")
	}
	if t.Failed() {
		return
	}
	livetest.Eventually(t, "the sessions' end", func() bool { return ended.Count() == s.clients })
	st := server.Stats()
	if st.Accepted != uint64(s.clients) || st.Refused != uint64(refused.Load()) || st.Sessions != 0 {
		t.Errorf("accepted %d, refused %d (%+v); want %d, %d", st.Accepted, st.Refused, st.RefusedFor, s.clients, refused.Load())
	}
	if by := st.RefusedFor; by.QueueFull+by.QueueTimeout != st.Refused {
		t.Errorf("refused for other reasons: %+v", by)
	}
	if n := auth.calls.Load(); n != int64(s.clients) {
		t.Errorf("OnAuth ran %d times for %d clients", n, s.clients)
	}
	if n := auth.most.Load(); n > int64(s.opts.MaxAuthsAtOnce) {
		t.Errorf("OnAuth ran %d times at once", n)
	}
	livetest.Eventually(t, "the goroutines' end", func() bool { return runtime.NumGoroutine() <= goroutines+5 })
	t.Logf("%d clients, %d connections at once: served in %v, %d refused with 503 before", s.clients, s.atOnce, took.Round(time.Millisecond), refused.Load())
}

// oneOfAStorm connects, waits for hello, and leaves. If the client is refused, it returns after how long
// it may come back.
func oneOfAStorm(t *testing.T, at livetest.Endpoint) (again time.Duration, err error) {
	c, err := livetest.Try(t, at, livetest.Dialing{V1: true})
	if err == nil {
		defer c.Line.Close()
		if f, err := c.ReadFrame(); err != nil || f.Op != "hello" {
			return 0, fmt.Errorf("hello: %v, %v", f, err)
		}
		c.Close(1000, "")
		return 0, nil
	}
	if c == nil || c.Response == nil || c.Response.StatusCode != http.StatusServiceUnavailable {
		return 0, err
	}
	seconds, bad := strconv.Atoi(c.Response.Header.Get("Retry-After"))
	if bad != nil || seconds < 1 || seconds > 30 {
		return 0, fmt.Errorf("Retry-After: %v", c.Response.Header)
	}
	return time.Duration(seconds) * time.Second, nil
}

// A client that has given up while it waited costs no OnAuth and leaves nothing.
func TestClientThatGivesUpInTheQueueCostsNoOnAuth(t *testing.T) {
	const clients = 100
	var calls atomic.Int64
	first, hold := make(chan struct{}, 1), make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	server := livetest.NewServer(t, live.Options{
		Logger: livetest.Quiet, MaxAuthsAtOnce: 1,
		OnAuth: func(context.Context, *http.Request) (any, error) {
			if calls.Add(1) == 1 {
				first <- struct{}{}
				<-hold
			}
			return "user", nil
		},
	})
	at := livetest.Serve(t, server.Handler())
	t.Cleanup(release)
	c := livetest.DialTransport(t, at)
	io.WriteString(c, livetest.Dialing{}.Request(at))
	livetest.Receive(t, first)
	before := runtime.NumGoroutine()
	var waiting []net.Conn
	for range clients {
		conn := livetest.DialTransport(t, at)
		io.WriteString(conn, livetest.Dialing{}.Request(at))
		waiting = append(waiting, conn)
	}
	livetest.Eventually(t, "the queue", func() bool { return server.Stats().AuthsWaiting == clients })
	for _, conn := range waiting {
		conn.Close()
	}
	livetest.Eventually(t, "that they have left", func() bool { return server.Stats().RefusedFor.Gone == clients })
	livetest.Eventually(t, "the goroutines' end", func() bool { return runtime.NumGoroutine() <= before })
	release()
	livetest.Eventually(t, "the first client", func() bool { return server.Stats().Accepted == 1 })
	livetest.Dial(t, at)
	if n := calls.Load(); n != 2 {
		t.Errorf("OnAuth ran %d times for two clients", n)
	}
}

// Handshakes that wait take no place of MaxSessions.
func TestHandshakesThatWaitTakeNoPlace(t *testing.T) {
	const clients, most = 8, 2
	hold := make(chan struct{})
	h := livetest.Hosting{}.Start(t, live.Options{MaxAuthsAtOnce: 1, MaxSessions: most, OnAuth: func(context.Context, *http.Request) (any, error) {
		<-hold
		return "user", nil
	}})
	request := livetest.Dialing{}.Request(h.Endpoint)
	for range clients {
		io.WriteString(livetest.DialTransport(t, h.Endpoint), request)
	}
	livetest.Eventually(t, "the queue", func() bool { return h.Stats().AuthsWaiting == clients-1 })
	close(hold)
	livetest.Eventually(t, "an answer to each", func() bool {
		st := h.Stats()
		return st.Accepted == most && st.RefusedFor.TooManySessions == clients-most
	})
}

// Who waits too long is told to come back, also when the server shuts down.
func TestWaitForOnAuthIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		server := live.New(live.Options{
			Logger: livetest.Quiet, MaxAuthsAtOnce: 1, AuthTimeout: time.Minute,
			OnAuth: func(ctx context.Context, _ *http.Request) (any, error) {
				time.Sleep(70 * time.Second) // it ignores ctx
				return "user", nil
			},
		})
		hs := &http.Server{Handler: server.Handler()}
		go hs.Serve(p) // ends with hs
		defer hs.Close()
		begun := time.Now()
		answer := func() (status int, after string) {
			conn := p.dial()
			go io.WriteString(conn, livetest.Dialing{}.Request(livetest.Endpoint{URL: "ws://pipe"}))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Error(err)
				return 0, ""
			}
			conn.Close()
			return resp.StatusCode, resp.Header.Get("Retry-After")
		}
		go answer() // ends when OnAuth has returned
		synctest.Wait()
		status, after := answer()
		if took := time.Since(begun); status != http.StatusServiceUnavailable || after == "" || took != time.Minute {
			t.Errorf("answered %d, Retry-After %q, after %v", status, after, took)
		}
		var waited sync.WaitGroup
		waited.Go(func() {
			if status, _ := answer(); status != http.StatusServiceUnavailable {
				t.Errorf("answered %d after Shutdown", status)
			}
		})
		synctest.Wait()
		shut(t, server)
		waited.Wait()
		if by := server.Stats().RefusedFor; by.QueueTimeout != 1 || by.Draining != 1 {
			t.Errorf("%+v", by)
		}
	})
}

// OnAuth that panics gives its place back.
func TestOnAuthThatPanicsKeepsNoPlace(t *testing.T) {
	var calls atomic.Int64
	_, url := serve(t, live.Options{MaxAuthsAtOnce: 1, OnAuth: func(context.Context, *http.Request) (any, error) {
		switch calls.Add(1) % 3 {
		case 0:
			panic("boom")
		case 1:
			return nil, errors.New("no")
		}
		runtime.Goexit()
		return nil, nil
	}})
	for range 6 {
		resp, err := http.DefaultClient.Do(handshakeRequest(t, url))
		if err == nil {
			resp.Body.Close()
		}
	}
	if n := calls.Load(); n < 6 {
		t.Errorf("OnAuth ran %d times", n)
	}
}

func handshakeRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(livetest.Dialing{}.Request(livetest.Endpoint{URL: "ws" + strings.TrimPrefix(url, "http")}))))
	if err != nil {
		t.Fatal(err)
	}
	r.RequestURI = ""
	r.URL.Scheme, r.URL.Host = "http", r.Host
	return r
}

// Shutdown refuses the handshakes that wait at once. It does not let them wait for OnAuth first.
func TestShutdownRefusesHandshakesThatWait(t *testing.T) {
	t.Parallel()
	asked, goOn := make(chan struct{}), make(chan struct{})
	server := live.New(live.Options{
		Logger: livetest.Quiet, MaxAuthsAtOnce: 1, AuthTimeout: 2 * livetest.Patience, // longer than the test waits

		OnAuth: func(context.Context, *http.Request) (any, error) {
			close(asked)
			<-goOn
			return nil, nil
		},
	})
	at := livetest.Serve(t, server.Handler())
	served := make(chan struct{})
	go func() {
		defer close(served)
		livetest.Dial(t, at).Rest()
	}()
	livetest.Receive(t, asked)
	statuses := make(chan int, 1)
	go func() { statuses <- livetest.Refusal(t, at, nil) }()
	livetest.Eventually(t, "a handshake that waits", func() bool { return server.Stats().AuthsWaiting == 1 })
	over := make(chan error, 1)
	go func() { over <- server.Shutdown(context.Background()) }()
	if status := livetest.Receive(t, statuses); status != http.StatusServiceUnavailable {
		t.Errorf("got %d", status)
	}
	close(goOn)
	livetest.Receive(t, served)
	if err := livetest.Receive(t, over); err != nil {
		t.Error(err)
	}
}
