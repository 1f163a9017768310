package live_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// pipes is a listener whose connections are in memory, so that time can be
// false.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial() net.Conn {
	near, far := net.Pipe()
	p.conns <- far
	return near
}

// inMemory runs f with false time. start starts a server; dial connects to it.
func inMemory(t *testing.T, f func(t *testing.T, start func(live.Options) *live.Server, dial func() net.Conn)) {
	clientsInMemory(t, func(t *testing.T, start func(live.Options) *live.Server, dial func(livetest.Dialing) *livetest.Client) {
		f(t, start, func() net.Conn { return dial(livetest.Dialing{}).Conn })
	})
}

// clientsInMemory is inMemory for tests that need clients of package livetest.
func clientsInMemory(t *testing.T, f func(t *testing.T, start func(live.Options) *live.Server, dial func(livetest.Dialing) *livetest.Client)) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		start := func(opts live.Options) *live.Server {
			opts.Logger = slog.New(slog.DiscardHandler)
			srv := live.New(opts)
			hs := &http.Server{Handler: srv.Handler()}
			go hs.Serve(p) // ends with the test
			t.Cleanup(func() {
				shut(t, srv)
				hs.Close()
			})
			return srv
		}
		f(t, start, func(o livetest.Dialing) *livetest.Client { return livetest.Over(t, p.dial(), o) })
	})
}

// swallow takes what is sent and never answers.
func swallow(conn net.Conn) {
	for b := make([]byte, 100); ; {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

// Dead clients are found within PingInterval + PingTimeout, and not before an answer is overdue. A client that is as
// silent, but answers pings, stays.
func TestDeadClientIsFoundInTime(t *testing.T) {
	const interval, timeout = 25 * time.Second, 10 * time.Second
	const early = interval/2 + timeout - 2*timeout/4 // a client counts as silent for up to interval/2 when it comes; a check may be a quarter of timeout early
	type end struct {
		err error
		at  time.Time
	}
	clientsInMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func(livetest.Dialing) *livetest.Client) {
		const n = 20
		ends := make(chan end, n+1)
		srv := serve(live.Options{
			OnClose: func(_ *live.Session, err error) { ends <- end{err, time.Now()} },
		})
		start := time.Now()
		dial(livetest.Dialing{}).Attend()
		for range n {
			go swallow(dial(livetest.Dialing{}).Conn) // ends with the connection
		}
		for range n {
			e := <-ends
			if took := e.at.Sub(start); took > interval+timeout || took < early {
				t.Errorf("found after %v, want %v to %v", took, early, interval+timeout)
			}
			if e.err != live.ErrPingTimeout {
				t.Error(e.err)
			}
		}
		time.Sleep(2 * (interval + timeout))
		if st := srv.Stats(); st.Sessions != 1 || st.PingTimeouts != n {
			t.Errorf("%+v", st)
		}
	})
}

// A client that answers pings, and does nothing else, stays; it is pinged often
// enough to keep a proxy from cutting the line, and no more often.
func TestLivingClientStays(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		srv := serve(live.Options{})
		conn := dial()
		var pings []time.Time
		go func() {
			for b := make([]byte, 100); ; {
				n, err := conn.Read(b)
				if err != nil {
					return
				}
				if n != 2 || b[0] != 0x89 || b[1] != 0 {
					continue
				}
				pings = append(pings, time.Now())
				conn.Write([]byte{0x8a, 0x80, 0, 0, 0, 0}) // a masked, empty pong
			}
		}()
		start := time.Now()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if st := srv.Stats(); st.Sessions != 1 {
			t.Fatalf("%+v", st)
		}
		last := start
		for _, at := range pings {
			if gap := at.Sub(last); gap > 25*time.Second {
				t.Errorf("%v without a ping", gap)
			}
			last = at
		}
		if len(pings) < 24 || len(pings) > 30 {
			t.Errorf("%d pings in ten minutes", len(pings))
		}
	})
}

func TestPingsCanBeTurnedOff(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		srv := serve(live.Options{PingInterval: -1})
		conn := dial()
		heard := make(chan int, 1)
		go func() {
			n, _ := conn.Read(make([]byte, 100))
			heard <- n
		}()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if len(heard) != 0 || srv.Stats().Sessions != 1 {
			t.Fatal("something was sent, or the session ended")
		}
	})
}

// A client that sends is not pinged.
func TestClientThatSpeaksIsNotPinged(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		got := 0
		serve(live.Options{
			OnMessage: func(context.Context, *live.Session, string, []byte) { got++ },
		})
		conn := dial()
		heard := make(chan int, 1)
		go func() {
			n, _ := conn.Read(make([]byte, 100))
			heard <- n
		}()
		for range 100 {
			conn.Write([]byte{0x81, 0x82, 0, 0, 0, 0, '{', '}'})
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		if got != 100 || len(heard) != 0 {
			t.Fatalf("%d messages; heard %d", got, len(heard))
		}
	})
}

// After the server's close frame a client has five seconds to answer.
func TestUnansweredCloseIsBounded(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		srv := serve(live.Options{})
		go swallow(dial())
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Fatalf("took %v", took)
		}
	})
}

func TestServerThatDoesNotPingSaysSo(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.PingInterval = -1
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	livetest.Same(t, "hello", c.Hello.Raw, `{"op":"hello","version":1,"session":"`+c.Hello.Session+`","ping":0,"largest":4194304}`)
}

// The server pings in text, which a page can see, and finds out who does not
// answer, though WebSocket's own pings are answered, as a browser's network thread
// does for a page that hangs.
func TestClientThatAnswersNoPingIsClosed(t *testing.T) {
	const interval, timeout = 300 * time.Millisecond, 300 * time.Millisecond
	clientsInMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func(livetest.Dialing) *livetest.Client) {
		var ended livetest.Ends
		opts := livetest.Permissive()
		opts.PingInterval, opts.PingTimeout, opts.OnClose = interval, timeout, ended.OnClose
		server := serve(opts)
		mute := livetest.Dialing{V1: true, Mute: true}
		alive := dial(mute).Attend().Greeted()
		start := time.Now()
		silent := dial(mute).Attend().Greeted()
		if silent.Hello.Ping != 300 {
			t.Errorf("hello is %s, want 300 ms", silent.Hello.Raw)
		}
		survived := make(chan struct{})
		go func() { // ends with the loop
			defer close(survived)
			for range 6 {
				if got := alive.Read(); got != `{"op":"ping"}` {
					t.Errorf("got %s, want a ping", got)
					return
				}
				alive.Say(`{"op":"pong"}`)
			}
		}()
		got, code := silent.Rest()
		if took := time.Since(start); code != live.ClosePingTimeout || took > interval+timeout {
			t.Errorf("closed with %d (%v) after %v, want 4101 within %v", code, silent.Err(), took, interval+timeout)
		}
		if len(got) == 0 {
			t.Error("it was not pinged before")
		}
		for _, text := range got {
			livetest.Check(t, "the silent client", text.Raw, `{"op":"ping"}`)
		}
		if err := ended.Only(t); err != live.ErrPingTimeout {
			t.Errorf("OnClose got %v, want ErrPingTimeout", err)
		}
		<-survived
		if st := server.Stats(); st.Sessions != 1 {
			t.Errorf("%d sessions, want 1: the one that answers", st.Sessions)
		}
	})
}

// The client waits for pings to know that the server lives, so that it gets them
// also while it talks itself.
func TestClientThatTalksIsPingedToo(t *testing.T) {
	const interval = 200 * time.Millisecond
	clientsInMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func(livetest.Dialing) *livetest.Client) {
		opts := livetest.Permissive()
		opts.PingInterval = interval
		serve(opts)
		c := dial(livetest.Dialing{V1: true, Mute: true}).Attend().Greeted()
		stop := make(chan struct{})
		var talking sync.WaitGroup
		talking.Go(func() { // ends with stop
			for {
				select {
				case <-stop:
					return
				case <-time.After(interval / 20):
					c.Say(`{"op":"publish","topic":"t","data":1}`)
				}
			}
		})
		for last, pings := time.Now(), 0; pings < 5; pings++ {
			livetest.Check(t, "the client", c.Read(), `{"op":"ping"}`)
			if took := time.Since(last); took > interval {
				t.Errorf("nothing for %v", took)
			}
			last = time.Now()
		}
		close(stop)
		talking.Wait()
	})
}

// A peer that vanishes without closing its connection is found. TestDeadClientIsFoundInTime holds how soon.
func TestPeerThatVanishesIsFound(t *testing.T) {
	t.Parallel()
	livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
		var ended livetest.Ends
		server := livetest.NewServer(t, live.Options{PingInterval: time.Second, PingTimeout: time.Second, OnClose: ended.OnClose})
		line := livetest.Through(t, serve(t, server.Handler()))
		livetest.Dial(t, line.Endpoint)
		line.Vanish()
		if err := ended.Only(t); err != live.ErrPingTimeout {
			t.Errorf("OnClose got %v, want ErrPingTimeout", err)
		}
		if st := server.Stats(); st.Sessions != 0 || st.PingTimeouts != 1 {
			t.Errorf("%d sessions, %d ping timeouts; want 0, 1", st.Sessions, st.PingTimeouts)
		}
	})
}

// A client that answers pings, or takes what lies before them, is not taken for dead, whatever
// the application, the broker, the line or its own rate make it wait for.
func TestClientThatLivesIsNotClosed(t *testing.T) {
	t.Parallel()
	t.Run("slow callback", hasASlowCallback)
	t.Run("over its rate", isOverItsRate)
	t.Run("slow broker", hasASlowBroker)
	livetest.AtOnce(t, func(g *livetest.Together) {
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
			return live.Options{OnPublish: func(ctx context.Context, _ *live.Session, _ string, data []byte) ([]byte, error) {
				f(ctx)
				return data, nil
			}}
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
	for _, b := range busyCallbacks() {
		for _, v1 := range []bool{false, true} {
			if !v1 && strings.Contains(b.say, `"op"`) {
				continue
			}
			t.Run(fmt.Sprintf("%s/v1=%v", b.name, v1), func(t *testing.T) { isBusy(t, b, v1) })
		}
	}
}

func isBusy(t *testing.T, b busy, v1 bool) {
	clientsInMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func(livetest.Dialing) *livetest.Client) {
		result := make(chan error, 1)
		opts, ends := shortPings(b.opts(func(ctx context.Context) {
			time.Sleep(longTime)
			result <- ctx.Err()
		}))
		srv := serve(opts)
		p := dial(livetest.Dialing{V1: v1}).Attend()
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
		stillOpen(t, srv, ends)
	})
}

// A client over InboundRate waits, and is not closed for it.
func isOverItsRate(t *testing.T) {
	t.Run("operations in one frame", func(t *testing.T) {
		clientsInMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func(livetest.Dialing) *livetest.Client) {
			opts, ends := shortPings(livetest.Open(live.Options{InboundRate: 10}))
			opts.PingInterval = time.Second // pongs count as well
			srv := serve(opts)
			p := dial(livetest.Dialing{V1: true}).Attend()
			p.Next() // hello
			subscribesToAll(p, t, 70)
			stillOpen(t, srv, ends)
		})
	})
	t.Run("messages", func(t *testing.T) {
		clientsInMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func(livetest.Dialing) *livetest.Client) {
			heard := make(chan string, 100)
			opts, ends := shortPings(live.Options{
				InboundRate: 10,
				OnMessage:   func(_ context.Context, _ *live.Session, topic string, _ []byte) { heard <- topic },
			})
			opts.PingInterval = time.Second
			srv := serve(opts)
			p := dial(livetest.Dialing{}).Attend()
			const messages = 60
			for i := range messages {
				p.Say(fmt.Sprintf(`{"topic":"%d"}`, i))
			}
			for i := range messages {
				if topic := livetest.Receive(t, heard); topic != fmt.Sprint(i) {
					t.Fatalf("heard %s as number %d", topic, i)
				}
			}
			stillOpen(t, srv, ends)
		})
	})
}

// subscribesToAll subscribes to topics in one frame, and reads the answers.
func subscribesToAll(p *livetest.Client, t *testing.T, topics int) {
	t.Helper()
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
	clientsInMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func(livetest.Dialing) *livetest.Client) {
		opts, ends := shortPings(livetest.Open(live.Options{Broker: slowBroker{live.NewMemoryBroker(live.MemoryOptions{})}}))
		srv := serve(opts)
		p := dial(livetest.Dialing{V1: true}).Attend()
		p.Next() // hello
		subscribesToAll(p, t, 40)
		stillOpen(t, srv, ends)
	})
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
				for i := 0; h.Stats().Dropped == 0; i++ {
					h.Publish("t", []byte(livetest.Padded(i, 1000)))
				}
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() { // ends with stop
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
				stillOpen(t, h.Server, ends)
				p.Say(livetest.Operation("unsubscribe", 2, "t"))
				p.Reply(2)
				p.Say(livetest.Operation("unsubscribe", 3, "t"))
				if f := p.Next(); f.ID != 3 {
					t.Errorf("got %s after the unsubscribe", &f)
				}
				close(stop)
				livetest.Receive(t, stopped)
				stillOpen(t, h.Server, ends)
			})
		}
	})
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
		stillOpen(t, h.Server, ends)
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
					stillOpen(t, h.Server, ends)
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
