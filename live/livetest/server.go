package livetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

// Server is a server under test. New and Serve make it. It serves connections in memory, until the
// test ends.
type Server struct {
	// Live is the server that New has made. It is nil after Serve.
	Live *live.Server

	// URL is the root of the server for the clients of Client.
	URL string

	// Patience is how long a test waits for what must happen, before it fails. It is 10 s at
	// first, which is far more than a busy machine needs. In a bubble of testing/synctest this
	// time is false, as all time is there, so that a test fails at once.
	Patience time.Duration

	t        testing.TB
	listener *listener
	web      *http.Server
	log      *testLog

	mu      sync.Mutex // guards clients
	clients []*Client  // all that were ever connected
}

// defaultPatience is the first value of Server.Patience.
const defaultPatience = 10 * time.Second

// New serves a live.Server with these options. t is the test whose failures the server and its clients report. So a test with
// subtests makes a server in each of them. At the end of the test its clients are
// disconnected, and it is shut down.
//
// The callbacks are called as always, with one exception: OnAuth is not called for a client with
// a Value. If there is no Logger, the server's log is part of the test's log.
func New(t testing.TB, opts live.Options) *Server {
	t.Helper()
	s := newServer(t)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewTextHandler(s.log, nil))
	}
	s.Live = live.New(watched(opts))
	s.start(s.Live.Handler())
	return s
}

// Serve serves a handler. It may be the whole application, with its middlewares. Clients find its
// live.Server at the Path "/live", or at another one. At the end of the test its clients are
// disconnected. The caller ends the application itself, in a t.Cleanup before Serve is called: cleanups
// run in reverse order, so the clients have left by then.
//
// Serve does not see the callbacks of the application's live.Server. So some methods need New, and say
// so.
func Serve(t testing.TB, handler http.Handler) *Server {
	t.Helper()
	s := newServer(t)
	s.start(handler)
	return s
}

func newServer(t testing.TB) *Server {
	return &Server{
		URL:      "http://localhost",
		Patience: defaultPatience,
		t:        t,
		listener: newListener(),
		log:      &testLog{to: t.Output()},
	}
}

func (s *Server) start(handler http.Handler) {
	s.web = &http.Server{
		Handler:     handler,
		ConnContext: withVisit,
		ErrorLog:    slog.NewLogLogger(slog.NewTextHandler(s.log, nil), slog.LevelError),
	}
	var running sync.WaitGroup
	running.Go(func() { s.web.Serve(s.listener) }) // ends with web.Close
	s.t.Cleanup(func() {
		s.t.Helper()
		s.end()
		running.Wait()
		s.log.end()
	})
}

// end disconnects the clients and ends the server.
func (s *Server) end() {
	s.t.Helper()
	for _, c := range s.all() {
		c.Cut()
	}
	if s.Live != nil {
		ctx, cancel := context.WithTimeout(context.Background(), s.Patience)
		defer cancel()
		if err := s.Live.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
			s.t.Errorf("livetest: the server has not ended within %v: a callback is still running", s.Patience)
		} else if err != nil {
			s.t.Errorf("livetest: the server has not ended well: %v", err)
		}
	}
	s.web.Close()
}

func (s *Server) all() []*Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Client(nil), s.clients...)
}

// Publish publishes a value, which is marshalled to JSON. The test fails if that fails. Publish needs
// New; with Serve publish with the application's live.Server.
func (s *Server) Publish(topic string, data any, opts ...live.PublishOption) {
	s.t.Helper()
	if s.Live == nil {
		s.t.Fatalf("livetest: Publish needs New: publish with the application's live.Server")
	}
	if err := s.Live.Publish(topic, marshal(s.t, data), opts...); err != nil {
		s.t.Fatalf("livetest: cannot publish to %q: %v", topic, err)
	}
}

// Sync waits until the server has handled what all clients have sent before, as Client.Sync does.
// After New it also waits for the OnClose of each client whose connection has ended. It does not wait
// for clients that read slowly or not at all, nor for plain clients of Serve. After Sync a test may
// look at the application's own state.
func (s *Server) Sync() {
	s.t.Helper()
	s.syncAll(nil)
}

// syncAll is Sync without one client.
func (s *Server) syncAll(except *Client) {
	s.t.Helper()
	for _, c := range s.all() {
		if c != except {
			c.syncIfNeeded()
		}
	}
}

// Client returns a client for other requests to the server, with a cookie jar of its own. The URLs
// begin with Server.URL. After a sign-in Server.Dial takes it with As.
func (s *Server) Client() *http.Client {
	jar, _ := cookiejar.New(nil) // cannot fail
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return s.listener.dial(ctx, nil)
	}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Jar: jar, Timeout: s.Patience}
}

// testLog writes to the log of a test until the test has ended. Later writes would be a panic.
type testLog struct {
	mu    sync.Mutex // guards the fields below
	to    io.Writer
	ended bool
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return len(b), nil
	}
	return l.to.Write(b)
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// JSON is JSON text, where a method takes any value: livetest.JSON(`{"text":"hi"}`). A string is
// a JSON string instead.
type JSON string

// MarshalJSON returns the text itself.
func (j JSON) MarshalJSON() ([]byte, error) { return []byte(j), nil }

// marshal returns a value as JSON. A []byte is JSON already.
func marshal(t testing.TB, v any) json.RawMessage {
	t.Helper()
	if raw, ok := v.([]byte); ok {
		v = json.RawMessage(raw)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // as JSON.stringify of a page
	if err := e.Encode(v); err != nil {
		t.Fatalf("livetest: the value cannot be marshalled to JSON: %v", err)
	}
	return bytes.TrimSpace(b.Bytes())
}
