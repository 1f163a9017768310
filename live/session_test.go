package live_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestMessagesReachOnMessageInOrder(t *testing.T) {
	type got struct{ topic, data string }
	messages := make(chan got, 100)
	_, url := serve(t, live.Options{
		OnMessage: func(_ context.Context, _ *live.Session, topic string, data []byte) {
			messages <- got{topic, string(data)}
		},
	})
	c := dial(t, url)
	for i := range 50 {
		c.SendMessage(fmt.Sprint("t", i), i)
	}
	for i := range 50 {
		if m := livetest.Receive(t, messages); m != (got{fmt.Sprint("t", i), fmt.Sprint(i)}) {
			t.Fatalf("message %d: %+v", i, m)
		}
	}
}

func TestCallbacksOfOneSessionRunOneAfterAnother(t *testing.T) {
	var inside atomic.Int32
	var order []string // guarded by the promise that is tested; -race sees a breach
	done := make(chan struct{})
	enter := func(name string) {
		if inside.Add(1) != 1 {
			t.Error("two callbacks at once")
		}
		order = append(order, name)
		runtime.Gosched()
		inside.Add(-1)
	}
	_, url := serve(t, live.Options{
		OnConnect: func(context.Context, *live.Session) error { enter("connect"); return nil },
		OnMessage: func(_ context.Context, s *live.Session, topic string, _ []byte) {
			enter(topic)
			if topic == "last" {
				s.Close()
				runtime.Gosched()
				enter("last, closed")
			}
		},
		OnClose: func(*live.Session, error) { enter("close"); close(done) },
	})
	c := dial(t, url)
	for _, topic := range []string{"a", "b", "last", "never", "never"} {
		c.SendMessage(topic, nil)
	}
	livetest.Receive(t, done)
	if got := strings.Join(order, " "); got != "connect a b last last, closed close" {
		t.Fatal(got)
	}
}

func TestContextCarriesTheRequestsValuesAndEndsWithTheSession(t *testing.T) {
	type key struct{}
	contexts := make(chan context.Context, 1)
	srv := live.New(live.Options{
		OnMessage: func(ctx context.Context, _ *live.Session, _ string, _ []byte) { contexts <- ctx },
	})
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		srv.Handler().ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "value")))
	}))
	defer hs.Close()
	c := dial(t, hs.URL)
	c.SendMessage("t", nil)
	ctx := livetest.Receive(t, contexts)
	if ctx.Value(key{}) != "value" {
		t.Error("no value")
	}
	if ctx.Err() != nil {
		t.Error("ended though the session is open:", ctx.Err())
	}
	c.Close(1000, "")
	c.Rest()
	livetest.Receive(t, ctx.Done())
}

// The end of each session is noted by OnClose with what it sees.
func TestEnds(t *testing.T) {
	tests := []struct {
		name string
		opts live.Options
		end  func(c *livetest.Client, s *live.Session)
		err  func(error) bool
		code int // of the server's close frame; 0: not looked at
	}{
		{"client closes", live.Options{}, func(c *livetest.Client, s *live.Session) {
			c.Close(1000, "bye")
			c.Rest()
		}, isNil, 0},
		{"client goes away", live.Options{}, func(c *livetest.Client, s *live.Session) {
			c.Close(1001, "")
			c.Rest()
		}, isNil, 0},
		{"client closes with a complaint", live.Options{}, func(c *livetest.Client, s *live.Session) {
			c.Close(1011, "complaint")
			c.Rest()
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "1011 \"complaint\"") }, 0},
		{"client closes with a code of its page", live.Options{}, func(c *livetest.Client, s *live.Session) {
			c.Close(4000, "signed out")
			c.Rest()
		}, isNil, 0},
		{"client closes with a code of its library", live.Options{}, func(c *livetest.Client, s *live.Session) {
			c.Close(3000, "")
			c.Rest()
		}, isNil, 0},
		{"client vanishes", live.Options{}, func(c *livetest.Client, s *live.Session) {
			c.Drop()
		}, func(err error) bool { return err != nil && !errors.Is(err, live.ErrWriteFailed) }, 0},
		{"server closes", live.Options{}, func(c *livetest.Client, s *live.Session) {
			s.Close()
		}, isNil, live.CloseNormal},
		{"message too big", live.Options{ReadLimit: 100}, func(c *livetest.Client, s *live.Session) {
			c.SendMessage("t", strings.Repeat("x", 10_000))
		}, is(live.ErrMessageTooBig), live.CloseTooBig},
		{"OnMessage panics", live.Options{
			OnMessage: func(context.Context, *live.Session, string, []byte) { panic("boom") },
		}, func(c *livetest.Client, s *live.Session) {
			c.SendMessage("t", nil)
		}, is(live.ErrPanic), live.ClosePanic},
		{"protocol is broken", live.Options{}, func(c *livetest.Client, s *live.Session) {
			c.Write(livetest.Masked(0x83, "reserved opcode"))
		}, func(err error) bool { return err != nil }, 1002},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noGoroutinesLeft(t)
			type end struct {
				s   *live.Session
				err error
			}
			var srv *live.Server
			ends := make(chan end, 2)
			tt.opts.OnClose = func(s *live.Session, err error) {
				if st := srv.Stats(); st.Sessions != 0 || st.Topics != 0 || st.Subscriptions != 0 {
					t.Errorf("in OnClose: %+v", st)
				}
				if !s.IsClosed() || s.CloseError() != err {
					t.Errorf("in OnClose: closed %v, %v", s.IsClosed(), s.CloseError())
				}
				if err := srv.Subscribe(s, "t"); err != live.ErrSessionClosed {
					t.Errorf("Subscribe in OnClose: %v", err)
				}
				if err := s.Send(live.Message{Topic: "t"}); err != live.ErrSessionClosed {
					t.Errorf("Send in OnClose: %v", err)
				}
				ends <- end{s, err}
			}
			opts, sessions := livetest.Connected(tt.opts)
			srv, url := serve(t, opts)
			c, s := pair(t, url, sessions)
			for i := range 20 {
				srv.Subscribe(s, fmt.Sprint("t", i))
			}
			go tt.end(c, s)
			if tt.code != 0 {
				if code, _, _ := c.Closed(); code != tt.code {
					t.Errorf("closed with %d, want %d", code, tt.code)
				}
			}
			e := livetest.Receive(t, ends)
			if e.s != s || !tt.err(e.err) {
				t.Errorf("OnClose: %v", e.err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			shut(t, srv)
			if len(ends) != 0 {
				t.Error("OnClose ran twice")
			}
			if st := srv.Stats(); st.Sessions != 0 || st.Topics != 0 || st.Subscriptions != 0 {
				t.Errorf("at the end: %+v", st)
			}
		})
	}
}

func isNil(err error) bool { return err == nil }

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// shut ends a server and everything of it.
func shut(t *testing.T, srv *live.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Error("Shutdown:", err)
	}
}

func TestManyEndsAtOnceRunOnCloseOnce(t *testing.T) {
	for range 50 {
		var closes atomic.Int32
		opts, sessions := livetest.Connected(live.Options{
			OnClose: func(*live.Session, error) { closes.Add(1) },
		})
		srv, url := serve(t, opts)
		c, s := pair(t, url, sessions)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { s.Close() })
			wg.Go(func() { srv.Subscribe(s, fmt.Sprint(i)) })
			wg.Go(func() { srv.Publish(fmt.Sprint(i), []byte(`1`)) })
		}
		wg.Go(func() { c.Drop() })
		wg.Go(func() { shut(t, srv) })
		wg.Wait()
		if n := closes.Load(); n != 1 {
			t.Fatalf("OnClose ran %d times", n)
		}
		if st := srv.Stats(); st.Sessions != 0 || st.Topics != 0 || st.Subscriptions != 0 {
			t.Fatalf("left behind: %+v", st)
		}
	}
}

func TestCloseFirstSendsWhatIsQueued(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{QueueSize: 10_000, QueueBytes: 100 << 20})
	srv, url := serve(t, opts)
	c, s := pair(t, url, sessions)
	srv.Subscribe(s, "t")
	// More than the sockets' buffers hold.
	big := `"` + strings.Repeat("x", 100_000) + `"`
	const n = 200
	for range n {
		srv.Publish("t", []byte(big))
	}
	s.Close()
	if !s.IsClosed() {
		t.Error("not closed")
	}
	code, _, before := c.Closed()
	if code != live.CloseNormal || len(before) != n {
		t.Fatalf("code %d after %d messages", code, len(before))
	}
}

func TestOnConnectMayRefuse(t *testing.T) {
	refusal := errors.New("not today")
	ends := make(chan error, 1)
	_, url := serve(t, live.Options{
		OnConnect: func(context.Context, *live.Session) error { return refusal },
		OnMessage: func(context.Context, *live.Session, string, []byte) { t.Error("OnMessage after a refusal") },
		OnClose:   func(_ *live.Session, err error) { ends <- err },
	})
	c := dial(t, url)
	c.Send(`{"topic":"t"}`)
	if code, _, _ := c.Closed(); code != live.CloseRefused {
		t.Errorf("closed with %d", code)
	}
	if err := livetest.Receive(t, ends); err != refusal {
		t.Error(err)
	}
}

// A client that stops reading is closed when its queue is full, within its
// bounds, and the others get everything.
func TestSlowClientHurtsOnlyItself(t *testing.T) {
	for name, limits := range map[string]live.Options{
		"by messages": {QueueSize: 50, QueueBytes: 1 << 30},
		"by bytes":    {QueueSize: 1 << 20, QueueBytes: 500_000},
	} {
		t.Run(name, func(t *testing.T) {
			ends := make(chan error, 10)
			limits.OnClose = func(_ *live.Session, err error) { ends <- err }
			opts, sessions := livetest.Connected(limits)
			srv, url := serve(t, opts)
			slow := dial(t, url).Line.Conn
			slow.(*net.TCPConn).SetReadBuffer(4096)
			slowSession := livetest.Receive(t, sessions)
			srv.Subscribe(slowSession, "t")
			fast, s := pair(t, url, sessions)
			srv.Subscribe(s, "t")

			data := []byte(`"` + strings.Repeat("x", 10_000) + `"`)
			published := 0
			for ; !slowSession.IsClosed(); published++ {
				if published > 10_000 {
					t.Fatal("never full")
				}
				if err := srv.Publish("t", data); err != nil {
					t.Fatal(err)
				}
				fast.Hears("t", string(data))
			}
			if err := livetest.Receive(t, ends); err != live.ErrQueueFull {
				t.Errorf("OnClose: %v", err)
			}
			if err := slowSession.Send(live.Message{Topic: "t"}); err != live.ErrSessionClosed {
				t.Errorf("Send: %v", err)
			}
			srv.Publish("t", []byte(`1`))
			fast.Hears("t", "1")
			if st := srv.Stats(); st.QueueFull != 1 || st.Sessions != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestSendReportsAFullQueue(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{QueueSize: 10})
	_, url := serve(t, opts)
	conn := dial(t, url).Line.Conn
	conn.(*net.TCPConn).SetReadBuffer(4096)
	s := livetest.Receive(t, sessions)
	m := live.Message{Topic: "t", Data: []byte(`"` + strings.Repeat("x", 50_000) + `"`)}
	for {
		if err := s.Send(m); err != nil {
			if err != live.ErrQueueFull {
				t.Fatal(err)
			}
			break
		}
	}
	if s.CloseError() != live.ErrQueueFull || !s.IsClosed() {
		t.Fatal(s.CloseError())
	}
	if err := s.Send(m); err != live.ErrSessionClosed {
		t.Fatal(err)
	}
}

// A client told by code 4100 that it was too slow can act on it, if it reads at
// last.
func TestSlowClientLearnsWhy(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{QueueSize: 5})
	srv, url := serve(t, opts)
	c, s := pair(t, url, sessions)
	srv.Subscribe(s, "t")
	data := []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	for !s.IsClosed() {
		srv.Publish("t", data)
	}
	code, _, before := c.Closed()
	if code != live.CloseQueueFull {
		t.Fatalf("closed with %d", code)
	}
	for _, m := range before {
		if len(m.Data) != len(data) {
			t.Fatal("a broken message")
		}
	}
}

func TestIdleSessionsHaveOneGoroutine(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{})
	srv, url := serve(t, opts)
	pair(t, url, sessions) // whatever starts with the first
	before := runtime.NumGoroutine()
	const n = 50
	for range n {
		dial(t, url)
		srv.Subscribe(livetest.Receive(t, sessions), "t")
	}
	srv.Publish("t", []byte(`1`))
	livetest.Eventually(t, "one goroutine for each session", func() bool { return runtime.NumGoroutine() <= before+n })
}

func TestWriteTimeoutEndsAClientThatTakesNothing(t *testing.T) {
	ends := make(chan error, 1)
	opts, sessions := livetest.Connected(live.Options{
		WriteTimeout: 50 * time.Millisecond,
		QueueSize:    1 << 20, QueueBytes: 1 << 30,
		OnClose: func(_ *live.Session, err error) { ends <- err },
	})
	srv, url := serve(t, opts)
	dial(t, url)
	s := livetest.Receive(t, sessions)
	srv.Subscribe(s, "t")
	data := []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	for range 20 {
		srv.Publish("t", data)
	}
	if err := livetest.Receive(t, ends); !errors.Is(err, live.ErrWriteFailed) {
		t.Fatal(err)
	}
	if st := srv.Stats(); st.WriteFailed != 1 {
		t.Fatalf("%+v", st)
	}
}

// Whatever the application does when a session begins, hello comes first.
func TestHelloIsTheFirstFrame(t *testing.T) {
	var server *live.Server
	opts := livetest.Permissive()
	opts.PingInterval = 7 * time.Second
	opts.QueueSize = livetest.PatientQueue
	opts.OnConnect = func(_ context.Context, s *live.Session) error {
		server.Subscribe(s, "busy")
		return s.Send(live.Message{Topic: "me", Data: fmt.Appendf(nil, `%q`, s.ID())})
	}
	server = livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	defer livetest.Hammer(server, "busy")()
	for range 20 {
		c := livetest.DialV1(t, at)
		if h := c.Hello; h.Version != 1 || h.Ping != 7000 || h.Session == "" {
			t.Errorf("hello is %s", h.Raw)
		}
		for f := c.Next(); f.Topic == "busy" || string(f.Data) != fmt.Sprintf(`%q`, c.Hello.Session); f = c.Next() {
			if f.Topic != "busy" {
				t.Fatalf("got %s, want the ID %s that the session has", f.Raw, c.Hello.Session)
			}
		}
		c.Drop()
	}
}

// hello is the first frame, whatever a client sends with its handshake.
func TestHelloIsFirst(t *testing.T) {
	for _, secure := range []bool{false, true} {
		h := livetest.Hosting{Secure: secure}.Start(t, live.Options{})
		for range 100 {
			p := h.Connect(t, livetest.Dialing{V1: true, Early: string(livetest.Masked(livetest.PingFrame, "x")) + string(livetest.Masked(livetest.TextFrame, `{"op":"ping"}`))})
			f, err := p.ReadFrame()
			if err != nil || f.Op != "hello" {
				t.Fatalf("first came %v, %v", f, err)
			}
			heard := map[byte]int{}
			for range 2 {
				f, err := p.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				heard[f.First]++
			}
			if heard[0x8a] != 1 || heard[0x81] != 1 {
				t.Fatal(heard)
			}
			p.Reset()
		}
	}
}

// A session knows its user, has a context that ends with it, and subscribes itself.
func TestSessionSubscribesItself(t *testing.T) {
	t.Parallel()
	opts, sessions := livetest.Connected(live.Options{OnAuth: byHeader})
	server := livetest.NewServer(t, opts)
	c := livetest.Connect(t, livetest.Serve(t, server.Handler()), livetest.Dialing{Header: http.Header{"User": {"ana"}}}).Attend()
	s := livetest.Receive(t, sessions)
	if s.UserID() != "ana" || s.Context().Err() != nil {
		t.Errorf("it is %q's, and its context says %v", s.UserID(), s.Context().Err())
	}
	if err := s.Subscribe("t"); err != nil {
		t.Fatal(err)
	}
	if n := server.Subscribers("t"); n != 1 {
		t.Errorf("%d subscribers", n)
	}
	server.Publish("t", []byte("1"))
	c.Hears("t", "1")
	s.Unsubscribe("t")
	if n := server.Subscribers("t"); n != 0 {
		t.Errorf("%d subscribers", n)
	}
	s.Close()
	<-s.Context().Done()
	if err := s.Subscribe("t"); !errors.Is(err, live.ErrSessionClosed) {
		t.Error(err)
	}
}
