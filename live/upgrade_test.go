package live_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestListenerThatWrapsItsConnections(t *testing.T) {
	t.Parallel()
	server := livetest.NewSubscriberServer(t)
	livetest.WorksThrough(t, server, livetest.ServeOpaque(t, server.Handler()))
}

func TestServerClosesBehindAListenerThatWrapsItsConnections(t *testing.T) {
	t.Parallel()
	const queued = 200
	server := livetest.NewServer(t, live.Options{OnMessage: func(_ context.Context, s *live.Session, _ string, _ []byte) {
		for i := range queued {
			s.Send(live.Message{Topic: "n", Data: fmt.Appendf(nil, `%d`, i)})
		}
		s.Close()
	}})
	c := livetest.Dial(t, livetest.ServeOpaque(t, server.Handler()))
	c.Send(`{"topic":"go"}`)
	if got, code := c.Rest(); len(got) != queued || code != live.CloseNormal {
		t.Errorf("got %d messages and code %d (%v), want %d and 1000", len(got), code, c.Err(), queued)
	}
}

func TestBehindTimeoutHandler(t *testing.T) {
	t.Parallel()
	server := livetest.NewSubscriberServer(t)
	livetest.RefusesThrough(t, server, livetest.Serve(t, http.TimeoutHandler(server.Handler(), livetest.Patience, "too slow")))
}

func TestBehindWrappersOfTheResponseWriter(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		wrap  func(w http.ResponseWriter) http.ResponseWriter
		works bool
	}{
		{"with Unwrap", livetest.WithUnwrap, true},
		{"with Hijack only", livetest.WithHijack, true},
		{"with Unwrap, around one with Hijack only", func(w http.ResponseWriter) http.ResponseWriter {
			return livetest.WithUnwrap(livetest.WithHijack(w))
		}, true},
		{"with Hijack only, around one with Unwrap", func(w http.ResponseWriter) http.ResponseWriter {
			return livetest.WithHijack(livetest.WithUnwrap(w))
		}, true},
		{"with neither", livetest.WithNeither, false},
		{"with neither, under one with Unwrap", func(w http.ResponseWriter) http.ResponseWriter {
			return livetest.WithUnwrap(livetest.WithNeither(w))
		}, false},
		{"with a Hijack that fails", livetest.WithFailingHijack, false},
		{"with Unwrap, around a Hijack that fails", func(w http.ResponseWriter) http.ResponseWriter {
			return livetest.WithUnwrap(livetest.WithFailingHijack(w))
		}, false},
		{"with Unwrap and a Hijack that fails", livetest.WithFailingHijackAndUnwrap, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
				server := livetest.NewSubscriberServer(t)
				at := serve(t, livetest.Wrapped(server.Handler(), test.wrap))
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

func TestResponseRecorderGets500(t *testing.T) {
	t.Parallel()
	server := livetest.NewSubscriberServer(t)
	w := httptest.NewRecorder()
	server.Handler().ServeHTTP(w, livetest.UpgradeRequest())
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "cannot be taken over") {
		t.Errorf("answered %d %q, want 500 and why", w.Code, w.Body)
	}
}

func TestHTTP2ClientGets426OnAConnectionThatStaysGood(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	livetest.OverEach(t, func(t *testing.T, _ livetest.Serving) {
		const short = 250 * time.Millisecond // a handshake over TLS must fit in four of them
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
