package interop

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// reverseProxy serves a proxy in front of target, and closes its connections
// to it at the test's end.
func reverseProxy(t testing.TB, target livetest.Endpoint, serve livetest.Serving, rewrite func(*httputil.ProxyRequest)) livetest.Endpoint {
	to, err := url.Parse(target.HTTP())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: target.TLS}
	t.Cleanup(transport.CloseIdleConnections)
	return serve(t, &httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			rewrite(r)
		},
	})
}

func keepHost(r *httputil.ProxyRequest) {
	r.SetXForwarded()
	r.Out.Host = r.In.Host
}

func TestBehindReverseProxy(t *testing.T) {
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		var ended livetest.Ends
		var server *live.Server
		opts := livetest.Subscriber(&server)
		opts.OnClose = ended.OnClose
		server = livetest.NewServer(t, opts)
		c := l.connect(t, reverseProxy(t, serve(t, server.Handler()), serve, keepHost), nil)
		c.Subscribe("t")
		long := strings.Repeat("x", 100_000)
		server.Publish("t", []byte(`"`+long+`"`))
		livetest.Check(t, "the client", c.Read(), `{"topic":"t","data":"`+long+`"}`)
		if err := c.ping("end to end"); err != nil {
			t.Error(err)
		}
		if err := c.close(1000); err != nil {
			t.Error(err)
		}
		if err := ended.Only(t); err != nil {
			t.Errorf("OnClose got %v, want nil", err)
		}
	})
}

func TestServerClosesThroughReverseProxy(t *testing.T) {
	livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
		server := livetest.NewServer(t, live.Options{OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			s.Send(live.Message{Topic: "last words"})
			s.Close()
		}})
		c := livetest.Dial(t, reverseProxy(t, serve(t, server.Handler()), serve, keepHost))
		c.Send(`{"topic":"close"}`)
		if got, code := c.Rest(); len(got) != 1 || code != live.CloseNormal {
			t.Errorf("got %v and code %d (%v), want one message and 1000", got, code, c.Err())
		}
	})
}

func TestClientThatVanishesBehindReverseProxyEndsItsSession(t *testing.T) {
	livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
		server := livetest.NewSubscriberServer(t)
		c := livetest.Dial(t, reverseProxy(t, serve(t, server.Handler()), serve, keepHost))
		c.Subscribe("t")
		c.Drop()
		livetest.Eventually(t, "the session's end", func() bool { return server.Stats().Sessions == 0 })
	})
}

// A proxy that puts its target's name into Host makes every page a stranger;
// then the page's origin has to be listed.
func TestOriginBehindReverseProxy(t *testing.T) {
	newHost := func(*httputil.ProxyRequest) {} // as SetURL leaves it
	for _, test := range []struct {
		name    string
		rewrite func(*httputil.ProxyRequest)
		listed  bool
		foreign bool
		status  int
	}{
		{"host kept", keepHost, false, false, http.StatusSwitchingProtocols},
		{"host kept, foreign page", keepHost, false, true, http.StatusForbidden},
		{"host replaced", newHost, false, false, http.StatusForbidden},
		{"host replaced, origin listed", newHost, true, false, http.StatusSwitchingProtocols},
		{"host replaced, origin listed, foreign page", newHost, true, true, http.StatusForbidden},
	} {
		t.Run(test.name, func(t *testing.T) {
			var handler http.Handler // made when the proxy's address is known
			at := reverseProxy(t, livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handler.ServeHTTP(w, r)
			})), livetest.Serve, test.rewrite)
			var opts live.Options
			if test.listed {
				opts.Origins = []string{at.HTTP()}
			}
			handler = livetest.NewServer(t, opts).Handler()

			page := at.HTTP() // the origin of the page that connects
			if test.foreign {
				page = "http://elsewhere.example"
			}
			c, _ := livetest.Try(t, at, livetest.Dialing{Header: http.Header{"Origin": {page}}})
			if c.Response == nil || c.Response.StatusCode != test.status {
				t.Errorf("answered %v, want %d", c.Response, test.status)
			}
		})
	}
}
