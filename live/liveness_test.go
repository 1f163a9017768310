package live_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// Pings as these tests have them: a client that is taken for dead is so within two
// seconds and a half, which is far more than a busy machine needs to answer.
const (
	shortPing   = 100 * time.Millisecond
	shortAnswer = 2400 * time.Millisecond
	longTime    = 4 * time.Second // for which the application is busy
)

// shortPings returns options with these, whose OnClose tells how the session ended.
func shortPings(opts live.Options) (live.Options, chan error) {
	ends := make(chan error, 10)
	opts.PingInterval, opts.PingTimeout = shortPing, shortAnswer
	opts.OnClose = func(_ *live.Session, err error) { ends <- err }
	return opts, ends
}

// stillOpen checks that no session has ended.
func stillOpen(t *testing.T, h *livetest.Host, ends chan error) {
	t.Helper()
	select {
	case err := <-ends:
		t.Errorf("the session has ended: %v", err)
	default:
		if st := h.Stats(); st.Sessions != 1 || st.PingTimeouts != 0 {
			t.Errorf("%+v", st)
		}
	}
}

// A client that answers pings, or takes what lies before them, is not taken for dead, whatever
// the application, the broker, the line or its own rate make it wait for.
func TestClientThatLivesIsNotClosed(t *testing.T) {
	t.Parallel()
	livetest.AtOnce(t, func(g *livetest.Together) {
		g.Run("slow callback", hasASlowCallback)
		g.Run("over its rate", isOverItsRate)
		g.Run("slow broker", hasASlowBroker)
		g.Run("slow reader of a topic that drops", readsSlowly)
		g.Run("large answer over a slow line", hasALargeAnswer)
		g.Run("large publication over a slow line", hasALargePublication)
	})
}

// busy is a callback that takes its time, and what the client sends to have it called.
type busy struct {
	name string
	say  string
	opts func(callback func(context.Context)) live.Options
}

func busyCallbacks() []busy {
	return []busy{
		{"OnConnect", "", func(f func(context.Context)) live.Options {
			return live.Options{OnConnect: func(ctx context.Context, _ *live.Session) error { f(ctx); return nil }}
		}},
		{"OnMessage", `{"topic":"t"}`, func(f func(context.Context)) live.Options {
			return live.Options{OnMessage: func(ctx context.Context, _ *live.Session, topic string, _ []byte) {
				if topic == "t" {
					f(ctx)
				}
			}}
		}},
		{"OnSubscribe", livetest.Operation("subscribe", 1, "t"), func(f func(context.Context)) live.Options {
			return live.Options{OnSubscribe: func(ctx context.Context, _ *live.Session, _ string) error { f(ctx); return nil }}
		}},
		{"OnPublish", livetest.Operation("publish", 1, "t", "data", 1), func(f func(context.Context)) live.Options {
			return live.Options{OnPublish: func(ctx context.Context, _ *live.Session, _ string, _ []byte) error { f(ctx); return nil }}
		}},
		{"OnRequest", livetest.Operation("request", 1, "t"), func(f func(context.Context)) live.Options {
			return live.Options{OnRequest: func(ctx context.Context, _ *live.Session, _ string, _ []byte) (any, error) {
				f(ctx)
				return "done", nil
			}}
		}},
	}
}

// A callback may take as long as it likes: pings go on, the session stays, and its
// context with it.
func hasASlowCallback(t *testing.T) {
	livetest.AtOnce(t, func(g *livetest.Together) {
		for _, b := range busyCallbacks() {
			for _, v1 := range []bool{false, true} {
				if !v1 && strings.Contains(b.say, `"op"`) {
					continue
				}
				g.Run(fmt.Sprintf("%s/v1=%v", b.name, v1), func(t *testing.T) { isBusy(t, b, v1) })
			}
		}
	})
}

func isBusy(t *testing.T, b busy, v1 bool) {
	result := make(chan error, 1)
	opts, ends := shortPings(b.opts(func(ctx context.Context) {
		time.Sleep(longTime)
		result <- ctx.Err()
	}))
	h := livetest.Hosting{}.Start(t, opts)
	p := h.Connect(t, livetest.Dialing{V1: v1}).Attend()
	if v1 {
		p.Next() // hello
	}
	if b.say != "" {
		p.Say(b.say)
	}
	if err := livetest.Receive(t, result); err != nil {
		t.Errorf("the callback's context: %v", err)
	}
	if n := p.PingsAnswered(); n < 5 {
		t.Errorf("%d pings in %v", n, longTime)
	}
	if strings.Contains(b.say, `"id"`) {
		if f := p.Next(); f.Op != "reply" || f.ID != 1 {
			t.Errorf("answered by %s", &f)
		}
	}
	stillOpen(t, h, ends)
}

// A client that leaves ends the context of a callback that runs for it.
func TestClientThatLeavesEndsTheCallbacksContext(t *testing.T) {
	t.Parallel()
	leave := map[string]func(p *livetest.Client){
		"close frame": func(p *livetest.Client) { p.Write(livetest.Masked(livetest.CloseFrame, "\x03\xe9")) },
		"FIN":         func(p *livetest.Client) { p.Line.Close() },
		"reset":       func(p *livetest.Client) { p.Reset() },
	}
	livetest.AtOnce(t, func(g *livetest.Together) {
		for _, b := range busyCallbacks() {
			for name, leave := range leave {
				g.Run(b.name+"/"+name, func(t *testing.T) {
					began, ended := make(chan struct{}), make(chan bool, 1)
					h := livetest.Hosting{}.Start(t, b.opts(func(ctx context.Context) {
						close(began)
						select {
						case <-ctx.Done():
							ended <- true
						case <-time.After(livetest.Patience / 2):
							ended <- false
						}
					}))
					p := h.Connect(t, livetest.Dialing{V1: true})
					if b.say != "" {
						p.Say(b.say)
					}
					livetest.Receive(t, began)
					leave(p)
					if !livetest.Receive(t, ended) {
						t.Error("the context has not ended")
					}
					livetest.Eventually(t, "the session's end", func() bool { return h.Stats().Sessions == 0 })
				})
			}
		}
	})
}

// What a client has sent before it left is dealt with all the same.
func TestWhatWasSentBeforeLeavingIsHeard(t *testing.T) {
	t.Parallel()
	var heard, ended atomic.Int64
	h := livetest.Hosting{}.Start(t, live.Options{
		OnMessage: func(context.Context, *live.Session, string, []byte) { heard.Add(1) },
		OnClose:   func(*live.Session, error) { ended.Add(1) },
	})
	const clients, each = 20, 30
	for range clients {
		p := h.Connect(t, livetest.Dialing{})
		for range each {
			p.Say(`{"topic":"t"}`)
		}
		p.Write(livetest.Masked(livetest.CloseFrame, "\x03\xe8"))
		p.Line.Close()
	}
	livetest.Eventually(t, "OnClose", func() bool { return ended.Load() == clients })
	if n := heard.Load(); n != clients*each {
		t.Errorf("%d messages were heard, of %d", n, clients*each)
	}
}

// A client over InboundRate waits, and is not closed for it.
func isOverItsRate(t *testing.T) {
	livetest.AtOnce(t, func(g *livetest.Together) {
		g.Run("operations in one frame", func(t *testing.T) {
			opts, ends := shortPings(livetest.Open(live.Options{InboundRate: 10}))
			opts.PingInterval = time.Second // pongs count as well
			h := livetest.Hosting{}.Start(t, opts)
			p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
			p.Next() // hello
			const topics = 70
			var all []string
			for i := range topics {
				all = append(all, livetest.Operation("subscribe", i+1, fmt.Sprint("t", i)))
			}
			p.Say(livetest.InOneFrame(all...))
			for i := range topics {
				if f := p.Next(); f.Op != "reply" || f.ID != i+1 {
					t.Fatalf("got %s as answer %d", &f, i+1)
				}
			}
			stillOpen(t, h, ends)
		})
		g.Run("messages", func(t *testing.T) {
			heard := make(chan string, 100)
			opts, ends := shortPings(live.Options{
				InboundRate: 10,
				OnMessage:   func(_ context.Context, _ *live.Session, topic string, _ []byte) { heard <- topic },
			})
			opts.PingInterval = time.Second
			h := livetest.Hosting{}.Start(t, opts)
			p := h.Connect(t, livetest.Dialing{}).Attend()
			const messages = 60
			for i := range messages {
				p.Say(fmt.Sprintf(`{"topic":"%d"}`, i))
			}
			for i := range messages {
				if topic := livetest.Receive(t, heard); topic != fmt.Sprint(i) {
					t.Fatalf("heard %s as number %d", topic, i)
				}
			}
			stillOpen(t, h, ends)
		})
	})
}

// slowBroker takes its time over each subscription.
type slowBroker struct{ *live.MemoryBroker }

func (slowBroker) InProcess() bool { return false }

func (b slowBroker) Subscribe(ctx context.Context, topic string) error {
	time.Sleep(longTime / 30)
	return b.MemoryBroker.Subscribe(ctx, topic)
}

// A broker that is slow for each of a client's topics does not cost the client either.
func hasASlowBroker(t *testing.T) {
	opts, ends := shortPings(livetest.Open(live.Options{Broker: slowBroker{live.NewMemoryBroker(live.MemoryOptions{})}}))
	h := livetest.Hosting{}.Start(t, opts)
	p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	p.Next() // hello
	var all []string
	const topics = 40
	for i := range topics {
		all = append(all, livetest.Operation("subscribe", i+1, fmt.Sprint("t", i)))
	}
	p.Say(livetest.InOneFrame(all...))
	for i := range topics {
		if f := p.Next(); f.Op != "reply" || f.ID != i+1 {
			t.Fatalf("got %s as answer %d", &f, i+1)
		}
	}
	stillOpen(t, h, ends)
}

// A client that reads a busy topic slowly, answers pings and asks for something is alive
// and heard, also where the topic drops what it cannot take.
func readsSlowly(t *testing.T) {
	livetest.AtOnce(t, func(g *livetest.Together) {
		for name, overflow := range map[string]live.Overflow{"oldest": live.OverflowDropOldest, "latest": live.OverflowLatest} {
			g.Run(name, func(t *testing.T) {
				opts, ends := shortPings(livetest.Open(live.Options{
					QueueSize: 64,
					Topics:    func(string) live.TopicOptions { return live.TopicOptions{Overflow: overflow} },
				}))
				h := livetest.Hosting{Buffer: 8 << 10}.Start(t, opts)
				p := slowPeer(h, t, true, 40_000).Attend()
				p.Next() // hello
				p.Say(livetest.Operation("subscribe", 1, "t"))
				p.Reply(1)
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
							h.Publish("t", []byte(livetest.Padded(i, 1000)))
						}
					}
				}()
				time.Sleep(longTime)
				stillOpen(t, h, ends)
				p.Say(livetest.Operation("unsubscribe", 2, "t"))
				p.Reply(2)
				p.Say(livetest.Operation("unsubscribe", 3, "t"))
				if f := p.Next(); f.ID != 3 {
					t.Errorf("got %s after the unsubscribe", &f)
				}
				close(stop)
				livetest.Receive(t, stopped)
				if st := h.Stats(); st.Dropped == 0 {
					t.Error("nothing was dropped: the test is too easy")
				}
				stillOpen(t, h, ends)
			})
		}
	})
}

// A queue that is full of what may be dropped has space for other topics.
func TestWhatMayBeDroppedMakesSpaceForOtherTopics(t *testing.T) {
	t.Parallel()
	for _, v1 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v1=%v", v1), func(t *testing.T) {
			opts, sessions := livetest.Connected(live.Options{QueueSize: 16})
			opts.Topics = func(topic string) live.TopicOptions {
				if topic == "drops" {
					return live.TopicOptions{Overflow: live.OverflowDropOldest}
				}
				return live.TopicOptions{}
			}
			h := livetest.Hosting{Buffer: 8 << 10}.Start(t, opts)
			p := slowPeer(h, t, v1, 0)
			s := livetest.Receive(t, sessions)
			h.Subscribe(s, "drops")
			h.Subscribe(s, "other")
			p.Line.Stall()
			for i := 0; h.Stats().Dropped < 50; i++ {
				h.Publish("drops", []byte(livetest.Padded(i, 1000)))
			}
			const others = 5
			h.PublishNumbers(t, "other", 1, others, 10)
			p.Line.Resume()
			p.Attend()
			for want := 1; want <= others; {
				if f := p.Next(); f.Topic == "other" && f.Op == "" {
					if livetest.NumberOf(f.Data) != want {
						t.Fatalf("got %s, want number %d", &f, want)
					}
					want++
				}
			}
			if st := h.Stats(); st.QueueFull != 0 || st.Sessions != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A large answer over a slow line takes its time: the client hears something all the
// while, and is not taken for dead.
func hasALargeAnswer(t *testing.T) {
	const size, pace = 750_000, 150_000
	livetest.OverBoth(t, func(t *testing.T, secure bool) {
		opts, ends := shortPings(live.Options{
			OnRequest: func(context.Context, *live.Session, string, []byte) (any, error) {
				return strings.Repeat("x", size), nil
			},
		})
		h := livetest.Hosting{Secure: secure, Buffer: 32 << 10}.Start(t, opts)
		p := h.Connect(t, livetest.Dialing{V1: true, Buffer: 8 << 10, Pace: pace}).Attend()
		p.Next() // hello
		p.Say(livetest.Operation("request", 1, "t"))
		var text strings.Builder
		for {
			f := p.Next()
			if len(f.Raw) > 64<<10 { // half a second of this line
				t.Errorf("a frame of %d bytes", len(f.Raw))
			}
			text.WriteString(*f.Text)
			if f.Op == "reply" {
				break
			}
		}
		if text.String() != `"`+strings.Repeat("x", size)+`"` {
			t.Errorf("the answer has %d bytes, want %d", text.Len(), size+2)
		}
		stillOpen(t, h, ends)
	})
}

// One large publication over a slow line, of which the client sees nothing before all of it is
// there, does not cost it either: what it takes counts.
func hasALargePublication(t *testing.T) {
	const size, pace = 600_000, 150_000
	livetest.AtOnce(t, func(g *livetest.Together) {
		for _, v1 := range []bool{false, true} {
			g.Run(fmt.Sprintf("v1=%v", v1), func(t *testing.T) {
				livetest.OverBoth(t, func(t *testing.T, secure bool) {
					opts, ends := shortPings(live.Options{})
					opts, sessions := livetest.Connected(opts)
					h := livetest.Hosting{Secure: secure, Buffer: 32 << 10}.Start(t, opts)
					p := h.Connect(t, livetest.Dialing{V1: v1, Buffer: 8 << 10, Pace: pace}).Attend()
					if v1 {
						p.Next() // hello
					}
					livetest.Receive(t, sessions).Send(live.Message{Data: []byte(livetest.Padded(1, size))})
					if f := p.Next(); livetest.NumberOf(f.Data) != 1 {
						t.Errorf("got %s", &f)
					}
					stillOpen(t, h, ends)
				})
			})
		}
	})
}

// Each of a client's pings is answered, in order, though many are under way.
func TestEveryPingIsAnswered(t *testing.T) {
	t.Parallel()
	livetest.OverBoth(t, func(t *testing.T, secure bool) {
		h := livetest.Hosting{Secure: secure}.Start(t, live.Options{
			OnMessage: func(ctx context.Context, _ *live.Session, _ string, _ []byte) { <-ctx.Done() },
		})
		p := h.Connect(t, livetest.Dialing{})
		p.Say(`{}`) // during a callback, too
		const rounds, pings = 20, 20
		for round := range rounds {
			var all []byte
			for i := range pings {
				all = append(all, livetest.Masked(livetest.PingFrame, fmt.Sprint(round, i))...)
			}
			p.Write(all)
			p.Conn.SetReadDeadline(time.Now().Add(livetest.Patience))
			for i := range pings {
				f, err := p.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if f.First != livetest.PongFrame || f.Raw != fmt.Sprint(round, i) {
					t.Fatalf("got %s, want pong %d of round %d", f, i, round)
				}
			}
		}
	})
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
		{"OnPublish", livetest.Operation("publish", 1, "t"), live.Options{OnPublish: func(context.Context, *live.Session, string, []byte) error { return quit() }}},
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
			h := livetest.Hosting{}.Start(t, opts)
			if p, err := livetest.Try(t, h.Endpoint, livetest.Dialing{}); err == nil {
				p.Reset()
			}
			livetest.Eventually(t, "the end", func() bool { return h.Stats().Sessions == 0 })
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

// Options may be as large as their types allow.
func TestOptionsAtTheirTypesMaximum(t *testing.T) {
	t.Parallel()
	const most = time.Duration(math.MaxInt64)
	tests := map[string]func(o *live.Options){
		"QueueSize":          func(o *live.Options) { o.QueueSize = math.MaxInt },
		"QueueBytes":         func(o *live.Options) { o.QueueBytes = math.MaxInt },
		"ReadLimit":          func(o *live.Options) { o.ReadLimit = math.MaxInt },
		"MaxSessions":        func(o *live.Options) { o.MaxSessions = math.MaxInt },
		"MaxSessionsPerUser": func(o *live.Options) { o.MaxSessionsPerUser = math.MaxInt },
		"MaxTopics":          func(o *live.Options) { o.MaxTopics = math.MaxInt },
		"MaxTopicLength":     func(o *live.Options) { o.MaxTopicLength = math.MaxInt },
		"InboundRate":        func(o *live.Options) { o.InboundRate = math.MaxInt },
		"InboundBurst":       func(o *live.Options) { o.InboundRate, o.InboundBurst = 5, math.MaxInt },
		"AuthTimeout":        func(o *live.Options) { o.AuthTimeout = most },
		"WriteTimeout":       func(o *live.Options) { o.WriteTimeout = most },
		"PingInterval":       func(o *live.Options) { o.PingInterval = most },
		"PingTimeout":        func(o *live.Options) { o.PingTimeout = most },
		"InboxSize":          func(o *live.Options) { o.InboxSize = math.MaxInt },
		"InboxBytes":         func(o *live.Options) { o.InboxBytes = math.MaxInt },
	}
	all := make([]func(o *live.Options), 0, len(tests))
	for _, set := range tests {
		all = append(all, set)
	}
	tests["all"] = func(o *live.Options) {
		for _, set := range all {
			set(o)
		}
	}
	livetest.AtOnce(t, func(g *livetest.Together) {
		for name, set := range tests {
			g.Run(name, func(t *testing.T) {
				livetest.OverBoth(t, func(t *testing.T, secure bool) {
					opts, ends := shortPings(livetest.Open(live.Options{
						Compression: true,
						OnAuth: func(ctx context.Context, _ *http.Request) (any, error) {
							return "user", ctx.Err()
						},
					}))
					opts.PingInterval, opts.PingTimeout = 50*time.Millisecond, livetest.Patience
					set(&opts)
					h := livetest.Hosting{Secure: secure, Buffer: 8 << 10}.Start(t, opts)
					p := h.Connect(t, livetest.Dialing{V1: true, Deflate: true, Buffer: 8 << 10}).Attend()
					begun := time.Now()
					for i := range 100 { // more than a burst of one would let through at once
						p.Say(livetest.Operation("subscribe", i+1, fmt.Sprint("t", i%10)))
						p.Reply(i + 1)
					}
					if took := time.Since(begun); took > livetest.Patience/2 {
						t.Errorf("a hundred operations took %v", took)
					}
					h.PublishNumbers(t, "t1", 1, 1, 400)
					p.ExpectNumbers("t1", 1, 1)
					time.Sleep(100 * time.Millisecond)
					stillOpen(t, h, ends)
				})
			})
		}
	})
}

// Topics of every kind share a slow line: each has its order, its newest publication at the
// end, and a gap exactly where something is missing.
func TestTopicsOfEveryKindShareASlowLine(t *testing.T) {
	t.Parallel()
	const n, size, pace = 600, 300, 150_000
	rules := map[string]live.TopicOptions{
		"history":                {History: 10 * n},
		"oldest":                 {Overflow: live.OverflowDropOldest},
		"latest":                 {Overflow: live.OverflowLatest},
		"oldest, with history":   {Overflow: live.OverflowDropOldest, History: 50},
		"latest, with history":   {Overflow: live.OverflowLatest, History: 50},
		"history, and much more": {History: 10 * n},
	}
	opts, sessions := livetest.Connected(live.Options{
		QueueSize: 32, QueueBytes: 16 << 10,
		Topics: func(topic string) live.TopicOptions { return rules[topic] },
	})
	h := livetest.Hosting{Buffer: 8 << 10}.Start(t, opts)
	p := slowPeer(h, t, true, pace).Attend()
	p.Next() // hello
	s := livetest.Receive(t, sessions)
	for topic := range rules {
		h.Subscribe(s, topic)
	}
	livetest.AtOnce(t, func(g *livetest.Together) {
		for topic := range rules {
			g.Go(func() { h.PublishSlowly(t, topic, 1, n, size, 1000) })
		}
	})
	last, told := make(map[string]int), make(map[string]bool)
	for complete := 0; complete < len(rules); {
		f := p.Next()
		if f.Op == "gap" {
			told[f.Topic] = true
			continue
		}
		i := livetest.NumberOf(f.Data)
		switch lost := i > last[f.Topic]+1; {
		case i <= last[f.Topic]:
			t.Fatalf("number %d of %s after %d", i, f.Topic, last[f.Topic])
		case lost && rules[f.Topic].Overflow == live.OverflowDefault:
			t.Errorf("number %d of %s after %d", i, f.Topic, last[f.Topic])
		case lost != told[f.Topic]:
			t.Errorf("number %d of %s after %d, gap: %v", i, f.Topic, last[f.Topic], told[f.Topic])
		}
		last[f.Topic], told[f.Topic] = i, false
		if i == n {
			complete++
		}
	}
	if st := h.Stats(); st.Sessions != 1 || st.Dropped == 0 {
		t.Errorf("%+v", st)
	}
}

// A client that leaves ends the callback's context also if so much of it waits for the
// application that the server reads no more.
func TestClientThatLeavesWithAFullInboxEndsTheCallbacksContext(t *testing.T) {
	t.Parallel()
	livetest.AtOnce(t, func(g *livetest.Together) {
		for what, say := range map[string][]string{
			"many messages":  slices.Repeat([]string{`{}`}, 200),
			"large messages": slices.Repeat([]string{`{"data":` + livetest.Padded(1, 300_000) + `}`}, 3),
		} {
			for way, leave := range map[string]func(p *livetest.Client){
				"FIN":   func(p *livetest.Client) { p.Line.Close() },
				"reset": func(p *livetest.Client) { p.Reset() },
			} {
				if what == "large messages" && way == "FIN" {
					continue // it stays behind what the server's kernel does not take
				}
				g.Run(what+"/"+way, func(t *testing.T) { leavesWithAFullInbox(t, say, leave) })
			}
		}
	})
}

func leavesWithAFullInbox(t *testing.T, say []string, leave func(p *livetest.Client)) {
	began, ended := make(chan struct{}, 1000), make(chan bool, 1000)
	h := livetest.Hosting{}.Start(t, live.Options{OnMessage: func(ctx context.Context, _ *live.Session, _ string, _ []byte) {
		began <- struct{}{}
		select {
		case <-ctx.Done():
			ended <- true
		case <-time.After(livetest.Patience / 2):
			ended <- false
		}
	}})
	p := h.Connect(t, livetest.Dialing{})
	p.Say(`{}`)
	livetest.Receive(t, began)
	p.Say(say...)
	leave(p)
	if !livetest.Receive(t, ended) {
		t.Error("the context has not ended")
	}
}

// A client's own ping is answered while a callback runs: an application that takes its time
// is not a dead line.
func TestClientsPingIsAnsweredWhileACallbackRuns(t *testing.T) {
	for _, compressed := range []bool{false, true} {
		t.Run(fmt.Sprintf("compressed=%v", compressed), func(t *testing.T) {
			wait := make(chan struct{})
			h := livetest.Hosting{}.Start(t, live.Options{
				Compression: compressed,
				OnRequest:   func(context.Context, *live.Session, string, []byte) (any, error) { <-wait; return nil, nil },
			})
			p := h.Connect(t, livetest.Dialing{V1: true, Deflate: compressed}).Attend()
			p.Next() // hello
			p.Say(livetest.Operation("request", 1, "t"))
			send := func(text string) {
				if compressed {
					p.Write(deflated(text))
				} else {
					p.Say(text)
				}
			}
			for _, text := range []string{`{"op":"ping"}`, ` {"op":"ping"}` + "\n"} {
				send(text)
				if f := p.Next(); f.Op != "pong" {
					t.Fatalf("%q: %s", text, &f)
				}
			}
			for _, later := range []string{`{"op": "ping"}`, `{"id":7,"op":"ping"}`, `{"op":"ping","more":"` + strings.Repeat("x", 1000) + `"}`} {
				send(later) // answered in its turn
			}
			send(`{"op":"ping"}`)
			if f := p.Next(); f.Op != "pong" {
				t.Fatal(&f)
			}
			close(wait)
			heard := map[string]int{}
			for range 4 { // a pong goes ahead of what waits
				f := p.Next()
				heard[f.Op]++
			}
			if heard["reply"] != 1 || heard["pong"] != 3 {
				t.Error(heard)
			}
			if st := h.Stats(); st.Received != 7 || st.Malformed != 0 {
				t.Errorf("%+v", st)
			}
		})
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
