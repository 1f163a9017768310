package natsbroker

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
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

// What the application's options are for goes on beside what the broker needs.
func TestErrorHandlerOfConnectIsCalledToo(t *testing.T) {
	s := runServer(t, permitting(&server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"live.d.secret"}}}))
	var heard atomic.Bool
	b := open(t, Options{Servers: []string{userURL(s)},
		Connect: []nats.Option{nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { heard.Store(true) })}})
	b.Start(devNull{})
	b.Publish(t.Context(), "secret", []byte("1"), live.PublishOptions{})
	waitFor(t, "the application's handler and the broker's", func() bool { return heard.Load() && notReady(b) != nil })
}

// While NATS is away Publish says so, also on a connection that would keep what is
// sent until it is back.
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
				if _, err := b.Publish(t.Context(), topic, []byte("1"), live.PublishOptions{}); !errors.Is(err, live.ErrUnavailable) {
					t.Errorf("Publish to %s while NATS is away: %v", topic, err)
				}
			}
			if err := b.Broadcast(t.Context(), "kind", []byte("1")); !errors.Is(err, live.ErrUnavailable) {
				t.Errorf("Broadcast while NATS is away: %v", err)
			}
			if err := notReady(b); !errors.Is(err, live.ErrUnavailable) {
				t.Errorf("Ready says %v", err)
			}
			proxy.set(linkOK)
			waitFor(t, "a publication", func() bool {
				_, err := b.Publish(t.Context(), "plain", []byte("2"), live.PublishOptions{})
				return err == nil
			})
			waitFor(t, "what was published since", func() bool { return got.Load() > 0 })
			if n := got.Load(); n > 1 {
				t.Errorf("%d messages came; those that Publish had refused were sent late", n)
			}
		})
	}
}

func permitting(p *server.Permissions) func(o *server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{{Username: "app", Password: "app", Permissions: p}}
	}
}

func userURL(s *server.Server) string {
	return strings.Replace(s.ClientURL(), "nats://", "nats://app:app@", 1)
}

// A subject that this user may not use is said once, with what to permit, and by Ready.
func TestSubjectsThatNATSDoesNotPermit(t *testing.T) {
	for name, test := range map[string]struct {
		permissions server.Permissions
		use         func(t *testing.T, b *Broker)
		advice      string
	}{
		"publish to plain topics": {
			permissions: server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"live.d.>"}}},
			use: func(t *testing.T, b *Broker) {
				waitFor(t, "Publish to say so", func() bool {
					_, err := b.Publish(t.Context(), "plain", []byte("1"), live.PublishOptions{})
					return errors.Is(err, errDenied)
				})
			},
			advice: "permit this user to publish to live.d.>",
		},
		"publish to streams": {
			permissions: server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"live.s.>"}}},
			use: func(t *testing.T, b *Broker) {
				before := time.Now()
				_, err := b.Publish(t.Context(), "chat.room", []byte("1"), live.PublishOptions{})
				if took := time.Since(before); !errors.Is(err, errDenied) || took > 5*time.Second {
					t.Errorf("Publish: after %v %v", took, err)
				}
				before = time.Now()
				_, err = b.Publish(t.Context(), "chat.room", []byte("1"), live.PublishOptions{})
				if took := time.Since(before); !errors.Is(err, errDenied) || took > 100*time.Millisecond {
					t.Errorf("Publish again: after %v %v", took, err)
				}
			},
			advice: "permit this user to publish to live.s.>",
		},
		"subscribe to topics": {
			permissions: server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"live.d.>"}}},
			use: func(t *testing.T, b *Broker) {
				for range 3 {
					if err := b.Subscribe(t.Context(), "plain"); err != nil {
						t.Fatal(err)
					}
				}
				if err := b.Subscribe(t.Context(), "another"); err != nil {
					t.Fatal(err)
				}
			},
			advice: "permit this user to subscribe to live.d.>",
		},
		"ask JetStream": {
			permissions: server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.>"}}},
			use:         func(*testing.T, *Broker) {},
			advice:      "permit this user to publish to $JS.API.>",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := runServer(t, permitting(&test.permissions))
			book := &logBook{least: slog.LevelWarn}
			b, err := New(Options{Servers: []string{userURL(s)}, Streams: chatStream(StreamConfig{}), Logger: slog.New(book)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close(context.Background()) })
			b.Start(devNull{})
			test.use(t, b)
			waitFor(t, "Ready to say what is not permitted", func() bool {
				err := notReady(b)
				return err != nil && strings.Contains(err.Error(), test.advice)
			})
			waitFor(t, "a line in the log", func() bool { return len(book.find("does not permit")) > 0 })
			if lines := book.find("does not permit"); len(lines) > 1 {
				t.Errorf("logged %d times: %q", len(lines), lines)
			}
			if lines := book.find("violation"); len(lines) > 0 {
				t.Errorf("logged: %q", lines)
			}
		})
	}
}

// Broadcasts are subscribed to before anybody asks.
func TestBroadcastsThatNATSDoesNotPermit(t *testing.T) {
	s := runServer(t, permitting(&server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"live.b.>"}}}))
	b := open(t, Options{Servers: []string{userURL(s)}})
	live.New(live.Options{Broker: b, Logger: quiet()})
	waitFor(t, "Ready to say what is not permitted", func() bool {
		err := notReady(b)
		return err != nil && strings.Contains(err.Error(), "permit this user to subscribe to live.b.>")
	})
}

// A password that is wrong, and then put right at the server: no restart.
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
	time.Sleep(500 * time.Millisecond) // several attempts
	right := o.Clone()
	right.Password = "app"
	if err := s.ReloadOptions(right); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the connection", func() bool { return notReady(b) == nil })
}

// NATS ends a connection with a line that is longer than it takes, for good. The broker finds
// out first, and refuses such topics.
func TestTopicsLongerThanALineOfNATS(t *testing.T) {
	s := runServer(t, func(o *server.Options) { o.MaxControlLine = 512 })
	book := &logBook{least: slog.LevelWarn}
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{}), Logger: slog.New(book)})
	b.Start(devNull{})
	waitFor(t, "a line in the log", func() bool { return len(book.find("max_control_line")) > 0 })
	for _, topic := range []string{strings.Repeat("x", 600), "chat." + strings.Repeat("x", 600), strings.Repeat("*", 250)} {
		if _, err := b.Publish(t.Context(), topic, []byte("1"), live.PublishOptions{Except: "x"}); !errors.Is(err, live.ErrInvalidTopic) {
			t.Errorf("Publish to %.8q…: %v", topic, err)
		}
		if err := b.Subscribe(t.Context(), topic); !errors.Is(err, live.ErrInvalidTopic) {
			t.Errorf("Subscribe to %.8q…: %v", topic, err)
		}
	}
	for _, topic := range []string{strings.Repeat("x", 300), "chat." + strings.Repeat("x", 300)} {
		if err := b.Subscribe(t.Context(), topic); err != nil {
			t.Error(err)
		}
		if _, err := b.Publish(t.Context(), topic, []byte("1"), live.PublishOptions{Except: "x"}); err != nil {
			t.Error(err)
		}
	}
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := notReady(b); err != nil {
		t.Errorf("Ready says %v", err)
	}
	if lines := book.find("max_control_line"); len(lines) != 1 {
		t.Errorf("logged: %q", lines)
	}
}

// The longest topic with the longest prefix fits in NATS's default line.
func TestLongestTopicFitsInALine(t *testing.T) {
	s := startServer(t)
	b := open(t, Options{Servers: []string{s.ClientURL()}, Prefix: strings.Repeat("p", maxPrefix), Default: StreamConfig{Name: "D"}})
	b.Start(rules{devNull{}, func(topic string) live.TopicOptions {
		if strings.HasPrefix(topic, "*") {
			return live.TopicOptions{}
		}
		return live.TopicOptions{History: 1}
	}})
	for _, head := range []string{"*", " "} {
		topic := strings.Repeat(head, maxTopic)
		if err := b.Subscribe(t.Context(), topic); err != nil {
			t.Error(err)
		}
		if _, err := b.Publish(t.Context(), topic, []byte("1"), live.PublishOptions{Except: "x", History: 1}); err != nil {
			t.Error(err)
		}
	}
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if b.maxSubject.Load() != 0 {
		t.Errorf("NATS is taken to have a limit of %d", b.maxSubject.Load())
	}
	if _, err := New(Options{Prefix: strings.Repeat("p", maxPrefix+1), Logger: quiet()}); err == nil {
		t.Error("a longer prefix is accepted")
	}
}
