package live_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// What was refused is counted by its reason. QueueFull, QueueTimeout, Draining and Gone are in
// authqueue_test.go.
func TestRefusalsAreCountedByReason(t *testing.T) {
	t.Parallel()
	header := func(key, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(key, value) }
	}
	for _, tt := range []struct {
		want   live.Refusals
		status int
		opts   live.Options
		change func(*http.Request)
		first  bool // a client is there already
	}{
		{live.Refusals{BadHandshake: 1}, 426, live.Options{}, header("Sec-WebSocket-Version", "8"), false},
		{live.Refusals{Origin: 1}, 403, live.Options{}, header("Origin", "https://evil.example"), false},
		{live.Refusals{TooManySessions: 1}, 503, live.Options{MaxSessions: 1}, nil, true},
		{live.Refusals{TooManyOfUser: 1}, 429, live.Options{MaxSessionsPerUser: 1, OnAuth: func(context.Context, *http.Request) (any, error) { return "ann", nil }}, nil, true},
		{live.Refusals{Auth: 1}, 401, live.Options{OnAuth: refuseWith(errors.New("no"))}, nil, false},
		{live.Refusals{Auth: 1}, 503, live.Options{OnAuth: refuseWith(live.Refuse(503, "later"))}, nil, false},
		{live.Refusals{AuthTimeout: 1}, 503, live.Options{AuthTimeout: time.Millisecond, OnAuth: func(ctx context.Context, _ *http.Request) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}, nil, false},
		{live.Refusals{Panic: 1}, 500, live.Options{UserID: func(any) string { panic("boom") }}, nil, false},
	} {
		tt.opts.Logger = livetest.Quiet
		srv, url := serve(t, tt.opts)
		if tt.first {
			dial(t, url)
		}
		resp := upgrade(t, url, tt.change)
		if resp.StatusCode != tt.status {
			t.Errorf("%+v: status %s", tt.want, resp.Status)
		}
		livetest.Eventually(t, "the count", func() bool { return srv.Stats().Refused == 1 })
		if got := srv.Stats().RefusedFor; got != tt.want {
			t.Errorf("%+v, want %+v", got, tt.want)
		}
	}
}

// Each reason has a figure of its own.
func TestRefusalsAddUp(t *testing.T) {
	t.Parallel()
	srv, url := serve(t, live.Options{Logger: livetest.Quiet, OnAuth: refuseWith(errors.New("no"))})
	for range 3 {
		upgrade(t, url, nil)
		upgrade(t, url, func(r *http.Request) { r.Method = "POST" })
	}
	st := srv.Stats()
	sum := uint64(0)
	for i := range reflect.TypeFor[live.Refusals]().NumField() {
		sum += reflect.ValueOf(st.RefusedFor).Field(i).Uint()
	}
	if sum != 6 || st.Refused != 6 || st.RefusedFor.Auth != 3 || st.RefusedFor.BadHandshake != 3 {
		t.Errorf("%+v", st)
	}
}

// An operator sees in the log that clients are refused, and how many, without a line for each.
func TestRefusalsAreLoggedAtABoundedRate(t *testing.T) {
	t.Parallel()
	logger, all := logging()
	_, url := serve(t, live.Options{Logger: logger, MaxSessions: 1})
	dial(t, url)
	for range 30 {
		upgrade(t, url, nil)
	}
	if n := all.with("level=WARN msg=\"live: client refused: MaxSessions reached\""); n < 10 || n > 20 {
		t.Errorf("%d lines for 30 refusals", n)
	}
	livetest.Eventually(t, "a line that says how many were left out", func() bool {
		upgrade(t, url, nil)
		return all.with("left_out=") > 0
	})
}

// A handshake has no body. The server does not wait for one, whatever net/http's timeouts are.
func TestHandshakeWithABodyIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"announced, and never sent": "Content-Length: 100\r\n\r\n",
		"sent in part":              "Content-Length: 100\r\n\r\nabc",
		"in chunks":                 "Transfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			h := livetest.Hosting{}.Start(t, live.Options{OnAuth: func(_ context.Context, r *http.Request) (any, error) {
				t.Error("OnAuth was called")
				return nil, nil
			}})
			for _, method := range []string{"GET", "POST"} {
				conn := livetest.DialTransport(t, h.Endpoint)
				head := strings.TrimSuffix(livetest.Dialing{}.Request(h.Endpoint), "\r\n")
				conn.Write([]byte(method + strings.TrimPrefix(head, "GET") + body))
				resp, closed := answerAndEnd(t, conn)
				if resp != http.StatusBadRequest || !closed {
					t.Errorf("%s: answered %d, closed: %v", method, resp, closed)
				}
			}
		})
	}
}

// answerAndEnd reads the answer of a server, and whether it then closes the connection.
func answerAndEnd(t *testing.T, conn net.Conn) (status int, closed bool) {
	t.Helper()
	all := new(strings.Builder)
	conn.SetDeadline(time.Now().Add(livetest.Patience / 2))
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			var late net.Error
			closed = !(errors.As(err, &late) && late.Timeout())
			break
		}
	}
	if _, after, ok := strings.Cut(all.String(), "HTTP/1.1 "); ok {
		for _, c := range after[:3] {
			status = status*10 + int(c-'0')
		}
	}
	return status, closed
}

// A client that does not read the answer 101 holds nothing for longer than WriteTimeout.
func TestClientThatDoesNotReadTheAnswerIsGivenUp(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, _ func() net.Conn) {
		server := serve(live.Options{WriteTimeout: 3 * time.Second, MaxSessions: 1})
		hs, p := &http.Server{Handler: server.Handler()}, newPipes()
		go hs.Serve(p) // ends with hs
		defer hs.Close()
		for i := range 2 { // the second has the place of the first
			conn := p.dial() // a pipe holds no bytes
			conn.Write([]byte(livetest.Dialing{}.Request(livetest.Endpoint{URL: "ws://pipe"})))
			for _, wait := range []struct {
				time.Duration
				gone int
			}{{2900 * time.Millisecond, i}, {200 * time.Millisecond, i + 1}} {
				time.Sleep(wait.Duration)
				if st := server.Stats(); st.Refused != uint64(wait.gone) {
					t.Errorf("%d were given up, want %d", st.Refused, wait.gone)
				}
			}
			if n, err := conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("read %d bytes", n)
			}
		}
		if st := server.Stats(); st.RefusedFor.Gone != 2 || st.Accepted != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// The same behind a middleware, through which the answer goes: there is a session, whose greeting is not read.
func TestClientThatDoesNotReadTheAnswerOfAMiddlewareIsGivenUp(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, _ func() net.Conn) {
		server := serve(live.Options{WriteTimeout: 3 * time.Second})
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			server.Handler().ServeHTTP(livetest.WithUnwrap(w), r)
		})
		hs, p := &http.Server{Handler: handler}, newPipes()
		go hs.Serve(p) // ends with hs
		defer hs.Close()
		conn := p.dial()
		conn.Write([]byte(livetest.Dialing{V1: true}.Request(livetest.Endpoint{URL: "ws://pipe"})))
		time.Sleep(7 * time.Second)
		if st := server.Stats(); st.Accepted+st.Refused != 1 || st.Sessions != 0 {
			t.Errorf("%+v", st)
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("read %d bytes", n)
		}
	})
}

// The timeout of the answer ends with it: a session may be quiet for longer.
func TestTimeoutOfTheAnswerEndsWithTheHandshake(t *testing.T) {
	t.Parallel()
	const timeout = 100 * time.Millisecond
	livetest.OverBoth(t, func(t *testing.T, secure bool) {
		opts, sessions := livetest.Connected(live.Options{WriteTimeout: timeout})
		h := livetest.Hosting{Secure: secure}.Start(t, opts)
		c := h.Connect(t, livetest.Dialing{}).Attend()
		s := livetest.Receive(t, sessions)
		time.Sleep(2 * timeout)
		if err := s.Send(live.Message{Topic: "t", Data: []byte("1")}); err != nil {
			t.Error(err)
		}
		livetest.Check(t, "the client", c.Read(), `{"topic":"t","data":1}`)
	})
}

// A client that leaves while OnAuth runs was not refused by OnAuth, whatever OnAuth returns then.
func TestClientThatLeavesDuringOnAuthIsGone(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{"its own error": errors.New("the database was not asked"), "Refuse": live.Refuse(403, "no")} {
		t.Run(name, func(t *testing.T) {
			livetest.OverBoth(t, func(t *testing.T, secure bool) {
				logger, all := logging()
				called := make(chan struct{})
				h := livetest.Hosting{Secure: secure}.Start(t, live.Options{Logger: logger, OnAuth: func(ctx context.Context, _ *http.Request) (any, error) {
					close(called)
					<-ctx.Done()
					return nil, failure
				}})
				conn := livetest.DialTransport(t, h.Endpoint)
				conn.Write([]byte(livetest.Dialing{}.Request(h.Endpoint)))
				livetest.Receive(t, called)
				conn.Close()
				livetest.Eventually(t, "the refusal", func() bool { return h.Stats().Refused == 1 })
				if got, want := h.Stats().RefusedFor, (live.Refusals{Gone: 1}); got != want {
					t.Errorf("%+v, want %+v", got, want)
				}
				if n := all.with("live: client refused"); n != 0 {
					t.Errorf("%d lines above Debug", n)
				}
			})
		})
	}
}
