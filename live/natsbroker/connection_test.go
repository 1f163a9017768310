package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

func TestConnectionsThatCannotBeUsed(t *testing.T) {
	s := startServer(t)
	conn := func(options ...nats.Option) *nats.Conn {
		nc, err := nats.Connect(s.ClientURL(), options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	closed := conn()
	closed.Close()
	servers := []string{s.ClientURL()}
	for want, o := range map[string]Options{
		"Options.Conn was made with nats.NoEcho": {Conn: conn(nats.NoEcho())},
		"Options.Conn is closed":                 {Conn: closed},
		"Options.Connect has nats.NoEcho":        {Servers: servers, Connect: []nats.Option{nats.NoEcho()}},
		"nats.NoReconnect":                       {Servers: servers, Connect: []nats.Option{nats.NoReconnect()}},
		"nats.MaxReconnects(3)":                  {Servers: servers, Connect: []nats.Option{nats.MaxReconnects(3)}},
	} {
		wantRefused(t, o, want)
	}
}

// The broker calls the application's handler in addition to its own.
func TestErrorHandlerOfConnectIsCalledToo(t *testing.T) {
	s := runServer(t, permitting(&server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"live.d.secret"}}}))
	var heard atomic.Bool
	b := open(t, Options{Servers: []string{userURL(s)},
		Connect: []nats.Option{nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { heard.Store(true) })}})
	b.Start(devNull{})
	b.Publish(t.Context(), "secret", []byte("1"), broker.PublishOptions{})
	waitFor(t, "the application's handler and the broker's", func() bool { return heard.Load() && notReady(b) != nil })
}

// While NATS is down Publish returns an error, even on a connection that would keep
// publications until NATS is back.
func TestPublishIsHonestWhileNATSIsAway(t *testing.T) {
	for name, open := range map[string]func(url string) (Options, error){
		"Conn with a buffer": func(url string) (Options, error) {
			nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
			return Options{Conn: nc}, err
		},
		"Connect with a buffer": func(url string) (Options, error) {
			return Options{Servers: []string{url}, Connect: []nats.Option{nats.ReconnectBufSize(1 << 20)}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			proxy := newLink(t, strings.TrimPrefix(s.ClientURL(), "nats://"))
			o, err := open("nats://" + proxy.addr())
			if err != nil {
				t.Fatal(err)
			}
			if o.Conn != nil {
				t.Cleanup(o.Conn.Close)
			}
			o.Logger, o.Streams, o.PublishTimeout = quiet(), chatStream(StreamConfig{}), time.Second
			b, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close(context.Background()) })
			b.Start(devNull{})
			var got atomic.Int64
			spy := jetStreamOf(t, s.ClientURL()).Conn()
			if _, err := spy.Subscribe("live.d.>", func(*nats.Msg) { got.Add(1) }); err != nil {
				t.Fatal(err)
			}
			if err := spy.Flush(); err != nil {
				t.Fatal(err)
			}
			proxy.set(linkCut)
			waitFor(t, "the connection to break", func() bool { return !b.nc.IsConnected() })
			for _, topic := range []string{"plain", "chat.room"} {
				if _, err := b.Publish(t.Context(), topic, []byte("1"), broker.PublishOptions{}); !errors.Is(err, live.ErrUnavailable) {
					t.Errorf("Publish to %s while NATS is away: %v", topic, err)
				}
			}
			if err := b.Broadcast(t.Context(), []byte("1")); !errors.Is(err, live.ErrUnavailable) {
				t.Errorf("Broadcast while NATS is away: %v", err)
			}
			if err := notReady(b); !errors.Is(err, live.ErrUnavailable) {
				t.Errorf("Ready says %v", err)
			}
			proxy.set(linkOK)
			waitFor(t, "a publication", func() bool {
				_, err := b.Publish(t.Context(), "plain", []byte("2"), broker.PublishOptions{})
				return err == nil
			})
			waitFor(t, "what was published since", func() bool { return got.Load() > 0 })
			if n := got.Load(); n > 1 {
				t.Errorf("%d messages came; those that Publish had refused were sent late", n)
			}
		})
	}
}

// What is said of a NATS that is away names its servers, without the passwords, and a reason.
func TestAbsentNATSIsNamed(t *testing.T) {
	s := startServer(t)
	proxy := newLink(t, strings.TrimPrefix(s.ClientURL(), "nats://"))
	var log textLog
	b := open(t, Options{Servers: []string{"nats://ana:secret@" + proxy.addr()}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b.Start(devNull{})
	waitFor(t, "a line in the log", func() bool { // the broker may not watch its connection yet when it is cut first
		proxy.set(linkOK)
		waitFor(t, "the connection", b.nc.IsConnected)
		proxy.set(linkCut)
		waitFor(t, "its end", func() bool { return !b.nc.IsConnected() })
		return strings.Contains(log.String(), "not connected")
	})
	if strings.Contains(log.String(), "<nil>") {
		t.Errorf("logged: %s", log.String())
	}
	_, err := b.Publish(t.Context(), "plain", []byte("1"), broker.PublishOptions{})
	wantNamed(t, err, proxy.addr())

	down, err := New(Options{Servers: []string{"nats://ana:secret@127.0.0.1:1"}, Streams: []StreamConfig{chat}, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { down.Close(context.Background()) })
	wantNamed(t, notReady(down), "127.0.0.1:1")
	wantNamed(t, down.Broadcast(t.Context(), nil), "127.0.0.1:1")
}

// wantNamed checks that an error names a server without its password.
func wantNamed(t *testing.T, err error, addr string) {
	t.Helper()
	if !errors.Is(err, live.ErrUnavailable) || !strings.Contains(err.Error(), "nats://"+addr) || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error is %v; want one that names %s and no password", err, addr)
	}
}

// textLog keeps what a slog.TextHandler writes.
type textLog struct {
	mu    sync.Mutex
	lines strings.Builder
}

func (l *textLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(b)
}

func (l *textLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.String()
}

// The password is wrong at first. After it is corrected at the server, the broker works without
// a restart.
func TestCredentialsThatArePutRight(t *testing.T) {
	var o *server.Options
	s := runServer(t, func(all *server.Options) {
		all.Username, all.Password = "app", "another"
		o = all
	})
	b, err := New(Options{Servers: []string{userURL(s)}, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close(context.Background()) })
	b.Start(devNull{})
	waitFor(t, "Ready to say why", func() bool {
		err := notReady(b)
		return err != nil && strings.Contains(err.Error(), "Authorization")
	})
	time.Sleep(500 * time.Millisecond) // several attempts to connect
	right := o.Clone()
	right.Password = "app"
	if err := s.ReloadOptions(right); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the connection", func() bool { return notReady(b) == nil })
}

// NATS is down when the program starts, and starts later.
func TestExternalServerMayComeLater(t *testing.T) {
	port := livetest.FreePort(t)
	before := time.Now()
	b, err := New(Options{
		Servers:        []string{fmt.Sprint("nats://127.0.0.1:", port)},
		Streams:        suiteStreams(),
		PublishTimeout: 200 * time.Millisecond,
		Logger:         quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(before); took > patience/2 {
		t.Errorf("New has waited %v for a server that is not there", took)
	}
	s := serve(t, b, nil)
	heard := make(chan string, 10)
	if _, err := s.Listen("plain", func(m live.Message) { heard <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"plain", "short.t"} {
		if err := s.Publish(topic, []byte("1")); !errors.Is(err, live.ErrUnavailable) {
			t.Errorf("Publish to %s while NATS is away: %v", topic, err)
		}
	}
	if _, err := s.Listen("short.t", func(live.Message) {}); !errors.Is(err, live.ErrUnavailable) {
		t.Errorf("a topic of a stream can be subscribed to while NATS is away: %v", err)
	}

	runServer(t, func(o *server.Options) { o.Port = port })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a publication of a stream", func() bool { return s.Publish("short.t", []byte("2")) == nil })
	waitFor(t, "what was subscribed to before", func() bool {
		s.Publish("plain", []byte(`"late"`))
		select {
		case data := <-heard:
			return data == `"late"`
		case <-time.After(10 * time.Millisecond):
			return false
		}
	})
}

// The application uses its connection for other subjects too. Errors of these are not logged by
// the broker, but go to the application's own handler. Errors of the broker's subjects are
// logged, once in a while.
func TestErrorsOfTheConnectionAreLoggedOnce(t *testing.T) {
	s := startServer(t)
	told := 0
	conn, err := nats.Connect(s.ClientURL(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { told++ }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	book := &logBook{least: slog.LevelInfo}
	b := open(t, Options{Conn: conn, Logger: slog.New(book)})
	b.Start(devNull{})
	for i := range 5 {
		for _, subject := range []string{"orders", "live.d.room"} {
			sub := &nats.Subscription{Subject: fmt.Sprint(subject, i)}
			b.connectionError(conn, sub, nats.ErrBadSubscription)
		}
		b.connectionError(conn, nil, fmt.Errorf(`%w: Permissions Violation for Publish to "orders%d"`, nats.ErrPermissionViolation, i))
	}
	if lines := book.find("WARN"); len(lines) != 1 || told != 15 {
		t.Errorf("the application was told of %d errors, and logged are %q", told, lines)
	}
}

// Broadcasts had no space. One may have said that a stream has another epoch, so the streams
// are asked again, also when there is space.
func TestLostBroadcastsMakeStreamsBeCompared(t *testing.T) {
	b := open(t, Options{Streams: []StreamConfig{chat}})
	lost := make(chan error, 10)
	b.Start(lostSink{lost})
	st := (*b.streams.list.Load())[0]
	if _, err := st.stateSince(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	b.connectionError(b.nc, b.bus.subs[0], nats.ErrSlowConsumer)
	if _, ok := st.knownSince(time.Time{}); ok {
		t.Error("the state of the stream is still used")
	}
	b.bus.messages <- nats.NewMsg("live.b.x") // the next broadcast finds space
	for _, want := range []error{nats.ErrSlowConsumer, errBusOverflow} {
		select {
		case err := <-lost:
			if !errors.Is(err, want) {
				t.Errorf("told of %v, not of %v", err, want)
			}
		case <-time.After(patience):
			t.Fatal("the server is not told of: ", want)
		}
	}
}
