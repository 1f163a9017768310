package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

func permitting(p *server.Permissions) func(o *server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{{Username: "app", Password: "app", Permissions: p}}
	}
}

func userURL(s *server.Server) string {
	return strings.Replace(s.ClientURL(), "nats://", "nats://app:app@", 1)
}

// A denied subject is logged once, with the permission that is needed, and Ready reports it.
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
					_, err := b.Publish(t.Context(), "plain", []byte("1"), broker.PublishOptions{})
					return errors.Is(err, errDenied)
				})
			},
			advice: "permit this user to publish to live.d.>",
		},
		"publish to streams": {
			permissions: server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"live.s.>"}}},
			use: func(t *testing.T, b *Broker) {
				before := time.Now()
				_, err := b.Publish(t.Context(), "chat.room", []byte("1"), broker.PublishOptions{})
				if took := time.Since(before); !errors.Is(err, errDenied) || took > 5*time.Second {
					t.Errorf("Publish: after %v %v", took, err)
				}
				before = time.Now()
				_, err = b.Publish(t.Context(), "chat.room", []byte("1"), broker.PublishOptions{})
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

// Broadcasts are subscribed at the start.
func TestBroadcastsThatNATSDoesNotPermit(t *testing.T) {
	s := runServer(t, permitting(&server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"live.b.>"}}}))
	b := open(t, Options{Servers: []string{userURL(s)}})
	live.New(live.Options{Broker: b, Logger: quiet()})
	waitFor(t, "Ready to say what is not permitted", func() bool {
		err := notReady(b)
		return err != nil && strings.Contains(err.Error(), "permit this user to subscribe to live.b.>")
	})
}

// A connection of the application reports errors while New makes the broker. The race detector
// checks this.
func TestErrorsWhileTheBrokerIsMade(t *testing.T) {
	s := startServer(t)
	conn, err := nats.Connect(s.ClientURL(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sub, err := conn.SubscribeSync("theirs")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var reporting sync.WaitGroup
	defer reporting.Wait()
	defer stop()
	reporting.Go(func() { // ends with stop
		for ctx.Err() == nil {
			conn.ErrorHandler()(conn, sub, nats.ErrSlowConsumer)
			conn.ErrorHandler()(conn, nil, fmt.Errorf(`%w: Permissions Violation for Publish to "theirs"`, nats.ErrPermissionViolation))
		}
	})
	for range 20 {
		b, err := New(Options{Conn: conn, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		b.Close(t.Context())
	}
}
