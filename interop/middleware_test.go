package interop

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/alexedwards/scs/v2"
	"github.com/go-mizu/mizu"
	"github.com/go-mizu/mizu/middlewares/audit"
	"github.com/go-mizu/mizu/middlewares/bodydump"
	"github.com/go-mizu/mizu/middlewares/compress"
	"github.com/go-mizu/mizu/middlewares/conditional"
	"github.com/go-mizu/mizu/middlewares/cors"
	"github.com/go-mizu/mizu/middlewares/errorpage"
	"github.com/go-mizu/mizu/middlewares/etag"
	"github.com/go-mizu/mizu/middlewares/logger"
	"github.com/go-mizu/mizu/middlewares/metrics"
	"github.com/go-mizu/mizu/middlewares/otel"
	"github.com/go-mizu/mizu/middlewares/prometheus"
	"github.com/go-mizu/mizu/middlewares/realip"
	"github.com/go-mizu/mizu/middlewares/recover"
	"github.com/go-mizu/mizu/middlewares/requestid"
	"github.com/go-mizu/mizu/middlewares/responselog"
	"github.com/go-mizu/mizu/middlewares/responsesize"
	"github.com/go-mizu/mizu/middlewares/timeout"
	"github.com/go-mizu/mizu/middlewares/timing"

	"github.com/livetopic/livetopic/live"
)

// These of mizu's middlewares leave the ResponseWriter as it is, or wrap it so
// that it can be unwrapped.
func TestBehindMizusMiddlewares(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for name, mw := range map[string]mizu.Middleware{
		"Logger":    mizu.Logger(mizu.LoggerOptions{Logger: quiet}),
		"cors":      cors.New(cors.Options{AllowOrigins: []string{"*"}}),
		"realip":    realip.New(),
		"recover":   recover.WithOptions(recover.Options{Logger: quiet}),
		"requestid": requestid.New(),
		"timing":    timing.New(),
		"compress":  compress.New(compress.Options{}), // the client accepts no encoding
	} {
		t.Run(name, func(t *testing.T) {
			server := livetest.NewSubscriberServer(t)
			app := quietApp()
			app.Use(mw)
			app.Compat.Handle("/ws", server.Handler())
			app.With(mw).Get("/twice", func(c *mizu.Ctx) error {
				server.Handler().ServeHTTP(c.Writer(), c.Request())
				return nil
			})
			for _, path := range []string{"/ws", "/twice"} {
				at := livetest.Serve(t, app)
				at.URL += path
				livetest.WorksThrough(t, server, at)
			}
		})
	}
}

// These wrap it for good: nothing below can be reached, and a client must not
// be told 101.
func TestBehindMizusMiddlewaresThatHideTheConnection(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	_, measure := metrics.New()
	for name, mw := range map[string]mizu.Middleware{
		"audit":        audit.New(func(*audit.Entry) {}),
		"bodydump":     bodydump.New(func(*mizu.Ctx, []byte, []byte) {}),
		"conditional":  conditional.New(),
		"etag":         etag.New(),
		"logger":       logger.WithOptions(logger.Options{Output: io.Discard}),
		"metrics":      measure,
		"otel":         otel.New(),
		"prometheus":   prometheus.New(),
		"responselog":  responselog.WithLogger(quiet),
		"responsesize": responsesize.New(),
		"timeout":      timeout.New(livetest.Patience),
	} {
		t.Run(name, func(t *testing.T) {
			server := livetest.NewSubscriberServer(t)
			app := quietApp()
			app.Use(mw)
			app.Compat.Handle("/ws", server.Handler())
			at := livetest.Serve(t, app)
			at.URL += "/ws"
			livetest.RefusesThrough(t, server, at)
		})
	}
}

// Mizu's errorpage holds the status back and lets the text pass, so that the
// client gets 200; what counts is that it gets no 101, and is told why.
func TestBehindMizusErrorPages(t *testing.T) {
	server := livetest.NewSubscriberServer(t)
	app := quietApp()
	app.Use(errorpage.New())
	app.Compat.Handle("/ws", server.Handler())
	at := livetest.Serve(t, app)
	at.URL += "/ws"
	c, err := livetest.Try(t, at, livetest.Dialing{})
	if err == nil || c.Response == nil {
		t.Fatalf("got %v, want an answer that is no 101", err)
	}
	body, _ := io.ReadAll(c.Response.Body)
	if !strings.Contains(string(body), "cannot be taken over") {
		t.Errorf("the answer does not say why: %q", body)
	}
}

func TestCookieSessionSurvivesTheUpgrade(t *testing.T) {
	livetest.OverEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
		sessions := scs.New()
		var server *live.Server
		opts := livetest.Subscriber(&server)
		opts.OnAuth = func(ctx context.Context, r *http.Request) (any, error) {
			visits := sessions.GetInt(ctx, "visits") + 1
			sessions.Put(ctx, "visits", visits)
			return visits, nil
		}
		onMessage := opts.OnMessage
		opts.OnMessage = func(ctx context.Context, s *live.Session, topic string, data []byte) {
			// The callbacks' context carries the session's data too.
			if sessions.GetInt(ctx, "visits") != s.Value() {
				s.Close()
			}
			onMessage(ctx, s, topic, data)
		}
		server = livetest.NewServer(t, opts)

		mux := http.NewServeMux()
		mux.Handle("/ws", server.Handler())
		mux.HandleFunc("/visits", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, string(rune('0'+sessions.GetInt(r.Context(), "visits"))))
		})
		at := serve(t, sessions.LoadAndSave(mux))
		ws := at
		ws.URL += "/ws"

		response := livetest.WorksThrough(t, server, ws)
		cookies := response.Cookies()
		if len(cookies) != 1 || cookies[0].Name != "session" || cookies[0].Value == "" {
			t.Fatalf("the 101 set the cookies %v, want the session's", cookies)
		}
		if got := response.Header.Get("Vary"); got != "Cookie" {
			t.Errorf("Vary is %q", got)
		}
		header := http.Header{"Cookie": {cookies[0].Name + "=" + cookies[0].Value}}
		livetest.Check(t, "a page with that cookie", get(t, at, "/visits", header), "1")

		// The second connection is the same visitor's.
		livetest.Connect(t, ws, livetest.Dialing{Header: header}).Attend().Subscribe("t")
		livetest.Check(t, "a page with that cookie", get(t, at, "/visits", header), "2")
	})
}

// get returns the body at a path of the endpoint.
func get(t *testing.T, e livetest.Endpoint, path string, header http.Header) string {
	t.Helper()
	req, err := http.NewRequest("GET", e.HTTP()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	transport := &http.Transport{TLSClientConfig: e.TLS}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestBehindTimeoutHandler(t *testing.T) {
	server := livetest.NewSubscriberServer(t)
	livetest.RefusesThrough(t, server, livetest.Serve(t, http.TimeoutHandler(server.Handler(), livetest.Patience, "too slow")))
}

// The wrappers that are found in programs, by what they let through.
type (
	plainWrapper  struct{ http.ResponseWriter }
	unwrapWrapper struct{ plainWrapper }
	hijackWrapper struct{ plainWrapper }
	failWrapper   struct{ plainWrapper }
	bothWrapper   struct{ unwrapWrapper } // Unwrap, and a Hijack that fails
)

var errNoHijack = errors.New("no hijacking here")

func (w unwrapWrapper) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w hijackWrapper) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

func (failWrapper) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errNoHijack }

func (bothWrapper) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errNoHijack }

func wrapped(h http.Handler, wrap func(plainWrapper) http.ResponseWriter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Wrapped", "yes")
		h.ServeHTTP(wrap(plainWrapper{w}), r)
	})
}

func TestBehindWrappersOfTheResponseWriter(t *testing.T) {
	for _, test := range []struct {
		name  string
		wrap  func(w plainWrapper) http.ResponseWriter
		works bool
	}{
		{"with Unwrap", func(w plainWrapper) http.ResponseWriter { return unwrapWrapper{w} }, true},
		{"with Hijack only", func(w plainWrapper) http.ResponseWriter { return hijackWrapper{w} }, true},
		{"with Unwrap, around one with Hijack only", func(w plainWrapper) http.ResponseWriter {
			return unwrapWrapper{plainWrapper{hijackWrapper{w}}}
		}, true},
		{"with Hijack only, around one with Unwrap", func(w plainWrapper) http.ResponseWriter {
			return hijackWrapper{plainWrapper{unwrapWrapper{w}}}
		}, true},
		{"with neither", func(w plainWrapper) http.ResponseWriter { return w }, false},
		{"with neither, under one with Unwrap", func(w plainWrapper) http.ResponseWriter {
			return unwrapWrapper{plainWrapper{w}}
		}, false},
		{"with a Hijack that fails", func(w plainWrapper) http.ResponseWriter { return failWrapper{w} }, false},
		{"with Unwrap, around a Hijack that fails", func(w plainWrapper) http.ResponseWriter {
			return unwrapWrapper{plainWrapper{failWrapper{w}}}
		}, false},
		{"with Unwrap and a Hijack that fails", func(w plainWrapper) http.ResponseWriter { return bothWrapper{unwrapWrapper{w}} }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			livetest.OverEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
				server := livetest.NewSubscriberServer(t)
				at := serve(t, wrapped(server.Handler(), test.wrap))
				if !test.works {
					livetest.RefusesThrough(t, server, at)
					return
				}
				// What a middleware put into the header is on the 101.
				if got := livetest.WorksThrough(t, server, at).Header.Get("X-Wrapped"); got != "yes" {
					t.Errorf("X-Wrapped is %q on the 101", got)
				}
			})
		})
	}
}

// handshake returns a valid request of a WebSocket client.
func handshake() *http.Request {
	r := httptest.NewRequest("GET", "/ws", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	return r
}

func TestResponseRecorderGets500(t *testing.T) {
	server := livetest.NewSubscriberServer(t)
	w := httptest.NewRecorder()
	server.Handler().ServeHTTP(w, handshake())
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "cannot be taken over") {
		t.Errorf("answered %d %q, want 500 and why", w.Code, w.Body)
	}
}

func TestHTTP2ClientGets426OnAConnectionThatStaysGood(t *testing.T) {
	server := livetest.NewSubscriberServer(t)
	mux := http.NewServeMux()
	mux.Handle("/ws", server.Handler())
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })
	hs := httptest.NewUnstartedServer(mux)
	hs.EnableHTTP2 = true
	hs.StartTLS()
	t.Cleanup(hs.Close)

	var reused []bool
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = append(reused, info.Reused) },
	})
	get := func(path string) (int, string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(ctx, "GET", hs.URL+path, nil)
		resp, err := hs.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 2 {
			t.Fatalf("the test speaks %s", resp.Proto)
		}
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	for range 3 {
		if status, body := get("/ws"); status != http.StatusUpgradeRequired || !strings.Contains(body, "HTTP/1.1") {
			t.Errorf("answered %d %q, want 426 and what is needed", status, body)
		}
		if status, body := get("/page"); status != http.StatusOK || body != "HTTP/2.0" {
			t.Errorf("then the page was %d %q", status, body)
		}
	}
	if len(reused) != 6 || reused[0] {
		t.Fatalf("connections reused: %v", reused)
	}
	for _, r := range reused[1:] {
		if !r {
			t.Errorf("a new connection was needed: %v", reused)
			break
		}
	}

	// The same server speaks HTTP/1.1 to who asks for it.
	at := livetest.EndpointOf(hs)
	at.TLS = &tls.Config{RootCAs: at.TLS.RootCAs, NextProtos: []string{"http/1.1"}}
	at.URL += "/ws"
	livetest.WorksThrough(t, server, at)
}

// An http.Server's timeouts are for requests; a session outlives them.
func TestSessionOutlivesTheTimeoutsOfTheHTTPServer(t *testing.T) {
	livetest.OverEach(t, func(t *testing.T, _ func(testing.TB, http.Handler) livetest.Endpoint) {
		const short = 50 * time.Millisecond
		server := livetest.NewSubscriberServer(t)
		hs := httptest.NewUnstartedServer(server.Handler())
		hs.Config.ReadTimeout, hs.Config.WriteTimeout, hs.Config.IdleTimeout = 4*short, 4*short, short
		if strings.HasSuffix(t.Name(), "TLS") {
			hs.StartTLS()
		} else {
			hs.Start()
		}
		t.Cleanup(hs.Close)
		start := time.Now()
		c := livetest.Dial(t, livetest.EndpointOf(hs))
		c.Subscribe("t")
		for time.Since(start) < 8*short {
			server.Publish("t", []byte(`1`))
			livetest.Check(t, "the client", c.Read(), `{"topic":"t","data":1}`)
			if err := c.Ping("still here"); err != nil {
				t.Fatal(err)
			}
		}
	})
}
