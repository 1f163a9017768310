package live_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestPanicInACallbackEndsItsSessionOnly(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]string{
		"OnSubscribe": operationsOnT["subscribe"],
		"OnPublish":   operationsOnT["publish"],
		"OnRequest":   operationsOnT["request"],
	} {
		t.Run(name, func(t *testing.T) {
			var ended livetest.Ends
			var calls atomic.Int32
			boom := func() { calls.Add(1); panic("boom of the application") }
			opts := livetest.Permissive()
			opts.OnClose = ended.OnClose
			logger, log := livetest.Logged()
			opts.Logger = logger
			opts.OnSubscribe = func(_ context.Context, _ *live.Session, topic string) error {
				if topic == "chat" {
					boom()
				}
				return nil
			}
			opts.OnPublish = func(context.Context, *live.Session, string, []byte) ([]byte, error) { boom(); return nil, nil }
			opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { boom(); return nil, nil }
			server := livetest.NewServer(t, opts)
			at := livetest.Serve(t, server.Handler())
			other := livetest.DialV1(t, at)
			other.Must(livetest.SubscribeTo(1, "t"))
			c := livetest.DialV1(t, at)
			c.Send("[" + livetest.SubscribeTo(1, "t") + "," + op + `,"id":2},` + op + `,"id":3}]`)
			got, code := c.Rest()
			if code != live.ClosePanic || len(got) != 1 {
				t.Errorf("got %v and code %d (%v), want one reply and 1011", got, code, c.Err())
			}
			if strings.Contains(fmt.Sprint(c.Err()), "boom") {
				t.Errorf("the client is told %v", c.Err())
			}
			if err := ended.Only(t); !errors.Is(err, live.ErrPanic) || !strings.Contains(err.Error(), name) {
				t.Errorf("OnClose got %v, want ErrPanic in %s", err, name)
			}
			if n := calls.Load(); n != 1 {
				t.Errorf("the callback ran %d times, want once: the session was over", n)
			}
			if text := log(); !strings.Contains(text, "boom of the application") || !strings.Contains(text, "callback="+name) {
				t.Errorf("logged %.300s, want the panic in %s", text, name)
			}
			server.Publish("t", []byte(`"still here"`))
			other.Hears("t", `"still here"`)
		})
	}
}

// A broker that panics ends no process, and is asked again.
func TestBrokerThatPanicsWhenAsked(t *testing.T) {
	b := &renewed{onRead: func(n int) {
		if n%3 != 0 {
			panic("boom")
		}
	}}
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{Broker: b, Topics: keepingMuch}))
	h.PublishNumbers(t, "t", 1, 3000, 100)
	for i, more := range [][]any{{"since", "e1.5"}, {"last", 1000}} {
		p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
		last := 0
		for id := 1; last < 3000; id++ {
			p.Say(livetest.Operation("subscribe", id, "t", more...))
			f, _ := p.Reply(id)
			if f.Op == "error" {
				if f.Code != "internal" {
					t.Fatal(&f)
				}
				continue
			}
			for _, m := range f.Messages {
				last = livetest.NumberOf(m.Data)
			}
			for last < 3000 {
				f := p.Next()
				last = livetest.NumberOf(f.Data)
			}
		}
		if h.Stats().Panics == 0 {
			t.Errorf("in round %d nothing panicked", i)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// A callback that ends its goroutine, as a test's t.Fatal does, costs its own session only.
func TestGoexitInACallbackEndsItsSession(t *testing.T) {
	t.Parallel()
	quit := func() error { runtime.Goexit(); return nil }
	tests := []struct {
		name string
		say  string
		opts live.Options
	}{
		{"OnConnect", "", live.Options{OnConnect: func(context.Context, *live.Session) error { return quit() }}},
		{"OnMessage", `{}`, live.Options{OnMessage: func(context.Context, *live.Session, string, []byte) { quit() }}},
		{"OnSubscribe", livetest.Operation("subscribe", 1, "t"), live.Options{OnSubscribe: func(context.Context, *live.Session, string) error { return quit() }}},
		{"OnSubscribe for history", livetest.Operation("history", 1, "t", "limit", 1), live.Options{OnSubscribe: func(context.Context, *live.Session, string) error { return quit() }}},
		{"OnPublish", livetest.Operation("publish", 1, "t"), live.Options{OnPublish: func(context.Context, *live.Session, string, []byte) ([]byte, error) { return nil, quit() }}},
		{"OnRequest", livetest.Operation("request", 1, "t"), live.Options{OnRequest: func(context.Context, *live.Session, string, []byte) (any, error) { return nil, quit() }}},
		{"Topics", livetest.Operation("subscribe", 1, "t"), livetest.Open(live.Options{Topics: func(string) live.TopicOptions { quit(); return live.TopicOptions{} }})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ends := make(chan error, 1)
			tt.opts.OnClose = func(_ *live.Session, err error) { ends <- err }
			h := livetest.Hosting{}.Start(t, tt.opts)
			p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
			if tt.say != "" {
				p.Say(tt.say)
			}
			if _, code := p.Rest(); code != live.ClosePanic {
				t.Errorf("closed with %d", code)
			}
			if err := livetest.Receive(t, ends); !errors.Is(err, live.ErrPanic) {
				t.Errorf("OnClose got %v", err)
			}
			shut(t, h.Server)
		})
	}
}

// In OnClose, and where no session is yet, nothing stays behind either: clients that come
// later are served, and Shutdown ends.
func TestGoexitOutsideOfASessionLeavesNothing(t *testing.T) {
	t.Parallel()
	tests := map[string]func(o *live.Options, quit func()){
		"OnAuth": func(o *live.Options, quit func()) {
			o.OnAuth = func(context.Context, *http.Request) (any, error) { quit(); return nil, nil }
		},
		"UserID":      func(o *live.Options, quit func()) { o.UserID = func(any) string { quit(); return "u" } },
		"IDGenerator": func(o *live.Options, quit func()) { o.IDGenerator = func() string { quit(); return "id" } },
		"CheckOrigin": func(o *live.Options, quit func()) { o.CheckOrigin = func(*http.Request) bool { quit(); return true } },
		"OnClose":     func(o *live.Options, quit func()) { o.OnClose = func(*live.Session, error) { quit() } },
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			var good atomic.Bool
			opts := live.Options{MaxSessions: 1, MaxSessionsPerUser: 1}
			set(&opts, func() {
				if !good.Load() {
					runtime.Goexit()
				}
			})
			logger, lines := livetest.Logged()
			opts.Logger = logger
			h := livetest.Hosting{}.Start(t, opts)
			if p, err := livetest.Try(t, h.Endpoint, livetest.Dialing{}); err == nil {
				p.Reset()
			}
			livetest.Eventually(t, "the end", func() bool { return h.Stats().Sessions == 0 })
			if name != "OnClose" {
				livetest.Eventually(t, "a line of the refusal", func() bool {
					return strings.Count(lines(), `msg="live: client refused: a callback panicked"`) == 1
				})
				if n := h.Stats().RefusedFor.Panic; n != 1 {
					t.Errorf("%d refusals are counted, want 1", n)
				}
			}
			good.Store(true)
			livetest.Eventually(t, "a client that is served", func() bool {
				p, err := livetest.Try(t, h.Endpoint, livetest.Dialing{})
				if err == nil {
					p.Line.Close()
				}
				return err == nil
			})
			shut(t, h.Server)
		})
	}
}

// OnUnsubscribe that ends its goroutine keeps no topic from its own OnUnsubscribe, and no session from OnClose.
func TestGoexitInOnUnsubscribeSkipsNoCallback(t *testing.T) {
	t.Parallel()
	const topics = 5
	var calls atomic.Int32
	var ended livetest.Ends
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		OnUnsubscribe: func(*live.Session, string) { calls.Add(1); runtime.Goexit() },
		OnClose: func(s *live.Session, err error) {
			if n := calls.Load(); n != topics {
				t.Errorf("OnUnsubscribe was called %d times before OnClose, want %d", n, topics)
			}
			ended.OnClose(s, err)
			runtime.Goexit()
		},
	}))
	c := livetest.DialV1(t, h.Endpoint)
	for i := range topics {
		c.Must(livetest.SubscribeTo(i+1, fmt.Sprint("t", i)))
	}
	c.Leave()
	ended.Only(t)
	shut(t, h.Server)
	ended.Only(t) // once
	if st := h.Stats(); st.Panics != topics+1 {
		t.Errorf("%d panics are counted, want %d", st.Panics, topics+1)
	}
}

// A callback that runs in a goroutine that others need cannot end it.
func TestGoexitDoesNotEndWhatOthersNeed(t *testing.T) {
	t.Parallel()
	t.Run("OnBroadcast", func(t *testing.T) {
		h := livetest.Hosting{}.Start(t, live.Options{})
		heard := make(chan string, 10)
		h.OnBroadcast("kind", func([]byte) { runtime.Goexit() })
		h.OnBroadcast("kind", func(data []byte) { heard <- string(data) })
		returned := make(chan error, 1)
		for _, text := range []string{"first", "second"} {
			go func() { returned <- h.Broadcast(t.Context(), "kind", []byte(text)) }() // ends when Broadcast returns
			livetest.Check(t, "the other handler", livetest.Receive(t, heard), text)
			if err := livetest.Receive(t, returned); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("Topics, for SubscribeUser", func(t *testing.T) {
		h := livetest.Hosting{}.Start(t, live.Options{
			UserID: func(any) string { return "ann" },
			Topics: func(topic string) live.TopicOptions {
				if topic == "bad" {
					runtime.Goexit()
				}
				return live.TopicOptions{}
			},
		})
		livetest.DialV1(t, h.Endpoint)
		for _, topic := range []string{"bad", "good"} {
			if err := h.SubscribeUser("ann", topic); err != nil {
				t.Error(err)
			}
		}
		livetest.Eventually(t, "the good topic", func() bool { return h.Subscribers("good") == 1 })
	})
}

// rude is a broker that panics when the last subscriber of a topic has gone.
type rude struct{ *live.MemoryBroker }

func (rude) Unsubscribe(string) error { panic("boom of the broker") }

// A session may end in a goroutine that has no caller. So a broker that panics then would end the process.
func TestBrokerThatPanicsWhenASessionEnds(t *testing.T) {
	t.Parallel()
	logger, log := livetest.Logged()
	var ended livetest.Ends
	opts := livetest.Open(live.Options{Broker: rude{live.NewMemoryBroker(live.MemoryOptions{})}, Logger: logger, OnClose: ended.OnClose})
	h := livetest.Hosting{}.Start(t, opts)
	c := livetest.DialV1(t, h.Endpoint)
	c.Must(livetest.SubscribeTo(1, "t"))
	c.Leave()
	ended.Only(t)
	if st := h.Stats(); st.Panics != 1 || st.Topics != 0 || st.Subscriptions != 0 {
		t.Errorf("%+v", st)
	}
	if text := log(); !strings.Contains(text, "did not unsubscribe") || !strings.Contains(text, "boom of the broker") {
		t.Errorf("logged %q", text)
	}
	c = livetest.DialV1(t, h.Endpoint)
	c.Must(livetest.SubscribeTo(1, "t"))
	h.Publish("t", []byte("1"))
	c.Hears("t", "1")
}

// A broker that panics over one subscription does not take the topic along.
func TestBrokerThatPanicsDoesNotPoisonItsTopic(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){"panic": func() { panic("boom") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			broker := &failing{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{}), fail: fail}
			h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{Broker: broker}))
			first := h.Connect(t, livetest.Dialing{V1: true}).Attend()
			first.Say(livetest.Operation("subscribe", 1, "t"))
			if _, code := first.Rest(); code != live.ClosePanic {
				t.Errorf("closed with %d", code)
			}
			second := h.Connect(t, livetest.Dialing{V1: true}).Attend()
			second.Say(livetest.Operation("subscribe", 1, "t"))
			if f, _ := second.Reply(1); f.Op != "reply" {
				t.Errorf("got %s", &f)
			}
			h.PublishNumbers(t, "t", 1, 1, 10)
			second.ExpectNumbers("t", 1, 1)
		})
	}
}

// failing is a broker whose first Subscribe fails in a way of its own.
type failing struct {
	*live.MemoryBroker
	fail   func()
	failed atomic.Bool
}

func (*failing) InProcess() bool { return false }

func (b *failing) Subscribe(ctx context.Context, topic string) error {
	if !b.failed.Swap(true) {
		b.fail()
	}
	return b.MemoryBroker.Subscribe(ctx, topic)
}

func TestPanicCostsOneSessionOnly(t *testing.T) {
	for _, name := range []string{"OnConnect", "OnMessage", "OnClose"} {
		t.Run(name, func(t *testing.T) {
			var bad atomic.Pointer[live.Session]
			boom := func(where string, s *live.Session) {
				if where == name && bad.CompareAndSwap(nil, s) {
					panic("boom")
				}
			}
			var srv *live.Server
			srv, url := serve(t, live.Options{
				OnConnect: func(_ context.Context, s *live.Session) error {
					boom("OnConnect", s)
					return srv.Subscribe(s, "t")
				},
				OnMessage: func(_ context.Context, s *live.Session, _ string, data []byte) {
					boom("OnMessage", s)
					srv.Publish("t", data)
				},
				OnClose: func(s *live.Session, _ error) { boom("OnClose", s) },
			})
			first := dial(t, url)
			switch name {
			case "OnMessage":
				first.SendMessage("t", 1)
				fallthrough
			case "OnConnect":
				if code, reason, _ := first.Closed(); code != live.ClosePanic || strings.Contains(reason, "boom") {
					t.Errorf("closed with %d %q", code, reason)
				}
			case "OnClose":
				first.Close(1000, "")
				first.Rest()
			}
			second := dial(t, url)
			second.SendMessage("t", 2)
			second.Hears("t", "2")
			livetest.Eventually(t, "one panic", func() bool { return srv.Stats().Panics == 1 })
		})
	}
}

func TestPanicIsLoggedWithItsStack(t *testing.T) {
	var log livetest.LockedBuffer
	srv, url := serve(t, live.Options{
		Logger:    slog.New(slog.NewTextHandler(&log, nil)),
		OnMessage: func(context.Context, *live.Session, string, []byte) { panic("the cause") },
	})
	dial(t, url).SendMessage("t", "private payload")
	livetest.Eventually(t, "the panic", func() bool { return srv.Stats().Panics == 1 })
	livetest.Eventually(t, "the log", func() bool { return strings.Contains(log.String(), "the cause") })
	for _, want := range []string{"callback=OnMessage", "session=", "TestPanicIsLoggedWithItsStack"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "private") {
		t.Error("a payload in the log")
	}
}
