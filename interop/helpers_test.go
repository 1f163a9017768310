package interop

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

// patience is how long a test waits for what must happen. It bounds a test that
// fails, and is far above what a busy machine needs.
const patience = 20 * time.Second

// await waits until cond holds.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// endpoint is where clients connect.
type endpoint struct {
	url string      // ws://… or wss://…
	tls *tls.Config // for clients; nil: plain
}

func (e endpoint) with(query string) endpoint {
	e.url += "?" + query
	return e
}

func (e endpoint) httpURL() string { return "http" + strings.TrimPrefix(e.url, "ws") }

// serve serves a handler over plain TCP until the test ends.
func serve(t testing.TB, h http.Handler) endpoint {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return endpointOf(s)
}

// serveTLS is serve over TLS.
func serveTLS(t testing.TB, h http.Handler) endpoint {
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	return endpointOf(s)
}

func endpointOf(s *httptest.Server) endpoint {
	e := endpoint{url: "ws" + strings.TrimPrefix(s.URL, "http")}
	if s.TLS != nil {
		e.tls = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		e.tls.NextProtos = nil
	}
	return e
}

// overEach runs a test over plain TCP and over TLS.
func overEach(t *testing.T, test func(t *testing.T, serve func(testing.TB, http.Handler) endpoint)) {
	t.Run("plain", func(t *testing.T) { t.Parallel(); test(t, serve) })
	t.Run("TLS", func(t *testing.T) { t.Parallel(); test(t, serveTLS) })
}

// newServer returns a server that has to be empty after its Shutdown at the
// test's end.
func newServer(t testing.TB, opts live.Options) *live.Server {
	s := live.New(opts)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if st := s.Stats(); st.Sessions != 0 || st.Topics != 0 || st.Subscriptions != 0 || st.CatchingUp != 0 {
			t.Errorf("after Shutdown: %d sessions, %d topics, %d subscriptions of which %d catch up",
				st.Sessions, st.Topics, st.Subscriptions, st.CatchingUp)
		}
	})
	return s
}

// subscriber returns options with which a client that sends a message is
// subscribed to its topic, and has the message back as acknowledgement.
func subscriber(server **live.Server) live.Options {
	return live.Options{
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			(*server).Subscribe(s, topic)
			s.Send(live.Message{Topic: topic, Data: data})
		},
	}
}

// newSubscriberServer returns a server with these options.
func newSubscriberServer(t testing.TB) *live.Server {
	var server *live.Server
	server = newServer(t, subscriber(&server))
	return server
}

// ends records how sessions end. Its onClose is for Options.OnClose.
type ends struct {
	mu   sync.Mutex
	errs map[string][]error // of each session ID
}

func (e *ends) onClose(s *live.Session, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.errs == nil {
		e.errs = make(map[string][]error)
	}
	e.errs[s.ID()] = append(e.errs[s.ID()], err)
}

func (e *ends) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.errs)
}

// only waits for the end of the one session there was, and returns its error.
func (e *ends) only(t testing.TB) error {
	t.Helper()
	await(t, "OnClose", func() bool { return e.count() > 0 })
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, errs := range e.errs {
		if len(e.errs) > 1 || len(errs) > 1 {
			t.Fatalf("%d sessions ended, %s %d times; want one, once", len(e.errs), id, len(errs))
		}
		return errs[0]
	}
	return nil
}
