package livetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

// Serve serves a handler over plain TCP until the test ends.
func Serve(t testing.TB, h http.Handler) Endpoint {
	return serving(t, h, 0, (*httptest.Server).Start)
}

// ServeTLS is Serve over TLS.
func ServeTLS(t testing.TB, h http.Handler) Endpoint {
	return serving(t, h, 0, (*httptest.Server).StartTLS)
}

// ServeSmall is Serve with SmallBuffer for the connections to clients.
func ServeSmall(t testing.TB, h http.Handler) Endpoint {
	return serving(t, h, SmallBuffer, (*httptest.Server).Start)
}

// ServeSmallTLS is ServeSmall over TLS.
func ServeSmallTLS(t testing.TB, h http.Handler) Endpoint {
	return serving(t, h, SmallBuffer, (*httptest.Server).StartTLS)
}

func serving(t testing.TB, h http.Handler, buffer int, start func(*httptest.Server)) Endpoint {
	t.Helper()
	s := unstarted(h, buffer)
	start(s)
	t.Cleanup(s.Close)
	return EndpointOf(s)
}

// unstarted returns a server. buffer is how many bytes the kernel is asked to hold for each
// client; 0: the kernel decides.
func unstarted(h http.Handler, buffer int) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	if buffer > 0 {
		s.Listener = BufferedListener{s.Listener, buffer}
	}
	return s
}

// BufferedListener is a listener whose connections have a send buffer of a given size. They are
// still of type *net.TCPConn.
type BufferedListener struct {
	net.Listener
	Buffer int
}

func (l BufferedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		conn.(*net.TCPConn).SetWriteBuffer(l.Buffer)
	}
	return conn, err
}

// EndpointOf returns the endpoint of a server that was started.
func EndpointOf(s *httptest.Server) Endpoint {
	at := Endpoint{URL: "ws" + strings.TrimPrefix(s.URL, "http")}
	if s.TLS != nil {
		at.TLS = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		at.TLS.NextProtos = nil
	}
	return at
}

// opaque is a listener whose connections are only a net.Conn. Such connections come from listeners
// that limit the number of connections, speak the PROXY protocol, or count bytes.
type opaque struct{ net.Listener }

type opaqueConn struct{ net.Conn }

func (l opaque) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return opaqueConn{conn}, nil
}

// ServeOpaque is Serve with an opaque listener.
func ServeOpaque(t testing.TB, h http.Handler) Endpoint {
	s := httptest.NewUnstartedServer(h)
	s.Listener = opaque{s.Listener}
	s.Start()
	t.Cleanup(s.Close)
	return EndpointOf(s)
}

// Serving is the type of Serve and of the functions that are like it.
type Serving = func(testing.TB, http.Handler) Endpoint

// OverEach runs a test over plain TCP and over TLS at the same time.
func OverEach(t *testing.T, test func(t *testing.T, serve Serving)) {
	t.Helper()
	AtOnce(t, func(g *Together) {
		g.Run("plain", func(t *testing.T) { test(t, Serve) })
		g.Run("TLS", func(t *testing.T) { test(t, ServeTLS) })
	})
}

// OverEachSmall is OverEach with small buffers.
func OverEachSmall(t *testing.T, test func(t *testing.T, serve Serving)) {
	t.Helper()
	AtOnce(t, func(g *Together) {
		g.Run("plain", func(t *testing.T) { test(t, ServeSmall) })
		g.Run("TLS", func(t *testing.T) { test(t, ServeSmallTLS) })
	})
}

// NewServer returns a server. At the end of the test it is shut down. It must be empty then.
func NewServer(t testing.TB, opts live.Options) *live.Server {
	s := live.New(opts)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
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

// Subscriber returns options for a server. When a client sends a message, the server subscribes it
// to the topic of the message, and sends the message back.
func Subscriber(server **live.Server) live.Options {
	return live.Options{
		OnMessage: func(_ context.Context, s *live.Session, topic string, data []byte) {
			(*server).Subscribe(s, topic)
			s.Send(live.Message{Topic: topic, Data: data})
		},
	}
}

// NewSubscriberServer returns a server with the options of Subscriber.
func NewSubscriberServer(t testing.TB) *live.Server {
	var server *live.Server
	server = NewServer(t, Subscriber(&server))
	return server
}

// NewHistoryServer returns a permissive server. All its topics have the options o.
func NewHistoryServer(t testing.TB, o live.TopicOptions, broker live.Broker) *live.Server {
	opts := Permissive()
	opts.QueueSize = PatientQueue
	opts.Topics = Keeping("", o)
	opts.Broker = broker
	return NewServer(t, opts)
}

// PatientQueue is a QueueSize for tests that may publish faster than a busy machine reads.
const PatientQueue = 10_000

// Quiet is a logger that drops all lines. It is for servers whose clients cause lines in the log.
var Quiet = slog.New(slog.DiscardHandler)

// Permissive returns options under which a client may do everything. Topics whose names begin
// with "chat" keep 100 publications.
func Permissive() live.Options {
	opts := Open(live.Options{Logger: Quiet, Topics: Keeping("chat", live.TopicOptions{History: 100})})
	opts.OnRequest = func(_ context.Context, _ *live.Session, _ string, data []byte) (any, error) {
		return json.RawMessage(data), nil
	}
	return opts
}

// Open returns options with which clients of live.v1 may subscribe and publish.
func Open(opts live.Options) live.Options {
	opts.OnSubscribe = func(context.Context, *live.Session, string) error { return nil }
	opts.OnPublish = func(_ context.Context, _ *live.Session, _ string, data []byte) ([]byte, error) { return data, nil }
	return opts
}

// Keeping returns a function for Options.Topics. Topics whose name has the prefix get these
// options.
func Keeping(prefix string, o live.TopicOptions) func(string) live.TopicOptions {
	return func(topic string) live.TopicOptions {
		if strings.HasPrefix(topic, prefix) {
			return o
		}
		return live.TopicOptions{}
	}
}

// Echo is an OnMessage that sends each message back to its client.
func Echo(_ context.Context, s *live.Session, topic string, data []byte) {
	s.Send(live.Message{Topic: topic, Data: data})
}

// Connected returns options whose OnConnect hands every session to the channel.
func Connected(opts live.Options) (live.Options, chan *live.Session) {
	sessions := make(chan *live.Session, 10_000)
	opts.OnConnect = func(_ context.Context, s *live.Session) error {
		sessions <- s
		return nil
	}
	return opts, sessions
}

// Ends records how sessions end. Its OnClose is for Options.OnClose.
type Ends struct {
	mu   sync.Mutex
	errs map[string][]error // of each session ID
}

// OnClose records an end.
func (e *Ends) OnClose(s *live.Session, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.errs == nil {
		e.errs = make(map[string][]error)
	}
	e.errs[s.ID()] = append(e.errs[s.ID()], err)
}

// Count returns how many sessions have ended.
func (e *Ends) Count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.errs)
}

// Once returns the error of each session that has ended, by its ID. The test fails if a session
// has ended twice.
func (e *Ends) Once(t testing.TB) map[string]error {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make(map[string]error)
	for id, errs := range e.errs {
		if len(errs) != 1 {
			t.Errorf("OnClose of %s ran %d times", id, len(errs))
		}
		all[id] = errs[0]
	}
	return all
}

// Only waits for the end of the only session, and returns its error.
func (e *Ends) Only(t testing.TB) error {
	t.Helper()
	Eventually(t, "OnClose", func() bool { return e.Count() > 0 })
	all := e.Once(t)
	if len(all) != 1 {
		t.Fatalf("%d sessions ended, want one", len(all))
	}
	for _, err := range all {
		return err
	}
	return nil
}

// PublishNumbers publishes the numbers from one to another.
func PublishNumbers(t testing.TB, server *live.Server, topic string, from, to int) {
	t.Helper()
	for _, n := range Numbers(from, to) {
		if err := server.Publish(topic, []byte(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// Hammer publishes numbers to a topic until stop is called.
func Hammer(server *live.Server, topic string) (stop func()) {
	var ended atomic.Bool
	var running sync.WaitGroup
	running.Go(func() {
		for i := 0; !ended.Load(); i++ {
			server.Publish(topic, fmt.Appendf(nil, `%d`, i))
			if i%10 == 9 {
				time.Sleep(time.Millisecond)
			}
		}
	})
	return func() {
		ended.Store(true)
		running.Wait()
	}
}

// Host is a server under test, with its endpoint.
type Host struct {
	*live.Server
	Endpoint
}

// Hosting says how a Host is started.
type Hosting struct {
	Secure bool // over TLS
	Buffer int  // bytes that the kernel may hold for a client; 0: the kernel decides
}

// Start starts a server on loopback. It runs until the test ends, and need not be empty then.
func (o Hosting) Start(t testing.TB, opts live.Options) *Host {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = Quiet
	}
	srv := live.New(opts)
	hs := unstarted(srv.Handler(), o.Buffer)
	if o.Secure {
		hs.StartTLS()
	} else {
		hs.Start()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		srv.Shutdown(ctx)
		hs.Close()
	})
	return &Host{srv, EndpointOf(hs)}
}

// Connect connects a client that does nothing by itself.
func (h *Host) Connect(t testing.TB, o Dialing) *Client {
	t.Helper()
	return Connect(t, h.Endpoint, o)
}

// PublishNumbers publishes the numbers from one to another, as Padded makes them.
func (h *Host) PublishNumbers(t testing.TB, topic string, from, to, size int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := h.Publish(topic, []byte(Padded(i, size))); err != nil {
			t.Error(err)
			return
		}
	}
}

// PublishSlowly is PublishNumbers at a rate of perSecond publications in a second.
func (h *Host) PublishSlowly(t testing.TB, topic string, from, to, size, perSecond int) {
	t.Helper()
	begun := time.Now()
	for i := from; i <= to; i++ {
		time.Sleep(time.Until(begun.Add(time.Duration(i-from) * time.Second / time.Duration(perSecond))))
		h.PublishNumbers(t, topic, i, i, size)
	}
}

// WorksThrough connects through a handler that stands in front of the server. It checks that a
// publication and a close frame pass, and returns the answer to the handshake.
func WorksThrough(t testing.TB, server *live.Server, at Endpoint) *http.Response {
	t.Helper()
	c := Dial(t, at)
	c.Subscribe("t")
	server.Publish("t", []byte(`"through"`))
	Check(t, "the client", c.Read(), `{"topic":"t","data":"through"}`)
	c.Leave()
	Eventually(t, "the session's end", func() bool { return server.Stats().Sessions == 0 })
	return c.Response
}

// RefusesThrough connects through a handler with which the connection cannot be taken over. It
// expects the status 500, with a text that says so.
func RefusesThrough(t testing.TB, server *live.Server, at Endpoint) {
	t.Helper()
	c, err := Try(t, at, Dialing{})
	if err == nil {
		t.Fatal("connected, want 500")
	}
	if c.Response == nil {
		t.Fatalf("no answer: %v", err)
	}
	body, _ := io.ReadAll(c.Response.Body)
	if c.Response.StatusCode != http.StatusInternalServerError {
		t.Errorf("answered %s, want 500", c.Response.Status)
	}
	if text := string(body); !strings.Contains(text, "cannot be taken over") || !strings.Contains(text, "Unwrap or Hijack") {
		t.Errorf("the answer does not say why: %q", text)
	}
	if st := server.Stats(); st.Accepted != 0 || st.Sessions != 0 || st.Refused != 1 {
		t.Errorf("accepted %d, sessions %d, refused %d; want 0, 0, 1", st.Accepted, st.Sessions, st.Refused)
	}
}
