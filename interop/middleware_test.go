package interop

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

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

	"github.com/livetopic/livetopic/internal/livetest"
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
	livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
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
