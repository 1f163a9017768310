package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// runServer starts a NATS server elsewhere, with its own options.
func runServer(t testing.TB, change func(o *server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()}
	change(o)
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return s
}

// limited returns options for a server with that many bytes for streams.
func limited(storage int64) func(o *server.Options) {
	return func(o *server.Options) {
		o.JetStreamMaxStore = storage
		o.JetStreamMaxMemory = storage
	}
}

func chatStream(c StreamConfig) []StreamConfig {
	c.Name, c.Subjects = "CHAT", []string{"chat.>"}
	return []StreamConfig{c}
}

// paragraph is a publication of about 4 KB.
func paragraph(n int) []byte { return fmt.Appendf(nil, `"%d %s"`, n, strings.Repeat("x", 4000)) }

// publishUntilFull publishes until there is no space, and returns how many publications were
// stored.
func publishUntilFull(t testing.TB, b *Broker, from int) (stored int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; stored++ {
		before := time.Now()
		_, err := b.Publish(t.Context(), "chat.room", paragraph(from+stored), broker.PublishOptions{})
		if took := time.Since(before); took > 3*time.Second {
			t.Fatalf("Publish took %v with the error %v", took, err)
		}
		if errors.Is(err, ErrFull) && errors.Is(err, live.ErrUnavailable) {
			return stored
		}
		if err != nil {
			t.Fatalf("Publish on a full disk: %v", err)
		}
		if time.Now().After(deadline) {
			t.Fatal("the disk is never full")
		}
	}
}

// notReady returns why a node is not ready.
func notReady(b *Broker) error {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	return b.Ready(ctx)
}

// alter changes a stream without the broker.
func alter(t testing.TB, js jetstream.JetStream, change func(c *jetstream.StreamConfig)) {
	t.Helper()
	there, err := js.Stream(t.Context(), "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	c := there.CachedInfo().Config
	change(&c)
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func purge(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	there, err := js.Stream(t.Context(), "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	if err := there.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A stream is sealed while the broker uses it. Publish fails at once, and Ready says why, until somebody has
// deleted the stream.
func TestSealedStreamIsNotReady(t *testing.T) {
	s := runServer(t, func(*server.Options) {})
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: []StreamConfig{chat}})
	publish := func() error {
		_, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{})
		return err
	}
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	alter(t, b.js, func(c *jetstream.StreamConfig) { c.Sealed = true })
	if err := publish(); !errors.Is(err, errNotAccepted) {
		t.Errorf("a publication to a sealed stream: %v", err)
	}
	if err := notReady(b); !errors.Is(err, errNotAccepted) {
		t.Errorf("Ready says %v", err)
	}
	if err := b.js.DeleteStream(t.Context(), "CHAT"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "publications to be stored again", func() bool { return publish() == nil })
	if err := notReady(b); err != nil {
		t.Errorf("Ready says %v", err)
	}
}

// When any limit of JetStream is reached, Publish fails at once, Ready gives advice, and the
// log has one line at the beginning and one at the end. Publishing works again by itself.
func TestLimitsOfJetStream(t *testing.T) {
	discardNew := func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew }
	for name, test := range map[string]struct {
		server func(o *server.Options)
		stream StreamConfig
		alter  func(c *jetstream.StreamConfig)
		advice string
	}{
		"of the server's disk":   {server: limited(100 << 10), advice: "limit of the NATS server"},
		"of the server's memory": {server: limited(100 << 10), stream: StreamConfig{Storage: jetstream.MemoryStorage}, advice: "limit of the NATS server"},
		"of messages":            {stream: StreamConfig{MaxMsgs: 10}, alter: discardNew, advice: "discard policy"},
		"of bytes":               {stream: StreamConfig{MaxBytes: 50 << 10}, alter: discardNew, advice: "discard policy"},
		"of a topic's messages": {stream: StreamConfig{MaxMsgsPerTopic: 10}, alter: func(c *jetstream.StreamConfig) {
			c.Discard, c.DiscardNewPerSubject = jetstream.DiscardNew, true
		}, advice: "discard policy"},
		"of bytes in memory": {stream: StreamConfig{MaxBytes: 50 << 10, Storage: jetstream.MemoryStorage}, alter: discardNew, advice: "discard policy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.server == nil {
				test.server = func(*server.Options) {}
			}
			s := runServer(t, test.server)
			book := &logBook{least: slog.LevelInfo}
			b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(test.stream), Logger: slog.New(book)})
			b.Start(devNull{})
			if test.alter != nil {
				alter(t, b.JetStream(), test.alter)
			}
			for range 3 {
				publishUntilFull(t, b, 0)
				if err := notReady(b); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), test.advice) {
					t.Errorf("Ready says %v", err)
				}
				purge(t, b.JetStream())
				waitFor(t, "a publication to be stored", func() bool {
					_, err := b.Publish(t.Context(), "chat.room", paragraph(0), broker.PublishOptions{})
					return err == nil
				})
				if err := notReady(b); err != nil {
					t.Errorf("with space again Ready says %v", err)
				}
			}
			if lines := book.find("WARN"); len(lines) != 1 {
				t.Errorf("warned %d times: %q", len(lines), lines)
			}
			if lines := book.find("stored again"); len(lines) != 1 {
				t.Errorf("the end was logged %d times: %q", len(lines), lines)
			}
		})
	}
}

func TestLimitOfTheAccount(t *testing.T) {
	s := runServer(t, func(o *server.Options) {})
	err := s.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{
		"": {MaxMemory: 1 << 20, MaxStore: 100 << 10, MaxStreams: 1, MaxConsumers: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{})})
	b.Start(devNull{})
	publishUntilFull(t, b, 0)
	if err := notReady(b); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "limit of the account") {
		t.Errorf("Ready says %v", err)
	}
	purge(t, b.JetStream())
	if _, err := b.Publish(t.Context(), "chat.room", paragraph(0), broker.PublishOptions{}); err != nil {
		t.Errorf("with space again: %v", err)
	}
	err = b.EnsureStream(t.Context(), StreamConfig{Name: "SECOND", Subjects: []string{"second.>"}})
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "no more streams") {
		t.Errorf("one stream too many: %v", err)
	}
}

// rules is a sink that also has options for topics.
type rules struct {
	devNull
	of func(topic string) live.TopicOptions
}

func (rules) Keyed(string) bool { return false }

func (r rules) History(topic string) (size int, age time.Duration) {
	o := r.of(topic)
	return o.History, o.HistoryAge
}

// Without JetStream, topics without a stream work. Everything else fails at once with the
// reason.
func TestNATSWithoutJetStream(t *testing.T) {
	withAccount := func(o *server.Options) {
		o.Accounts = []*server.Account{server.NewAccount("APP"), server.NewAccount("SYS")}
		o.SystemAccount = "SYS"
		o.Users = []*server.User{{Username: "app", Password: "app", Account: o.Accounts[0]}}
	}
	for name, change := range map[string]func(o *server.Options){
		"the server":  func(o *server.Options) { o.JetStream = false },
		"the account": withAccount,
	} {
		t.Run(name, func(t *testing.T) {
			s := runServer(t, change)
			book := &logBook{least: slog.LevelInfo}
			url := strings.Replace(s.ClientURL(), "nats://", "nats://app:app@", 1)
			b, err := New(Options{Servers: []string{url}, Streams: chatStream(StreamConfig{}), Logger: slog.New(book)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close(context.Background()) })
			b.Start(devNull{})
			if _, err := b.Publish(t.Context(), "plain", []byte("1"), broker.PublishOptions{}); err != nil {
				t.Errorf("a plain topic: %v", err)
			}
			for range 3 {
				before := time.Now()
				_, err = b.Publish(t.Context(), "chat.room", []byte("1"), broker.PublishOptions{})
				if took := time.Since(before); !errors.Is(err, live.ErrUnavailable) || !strings.Contains(err.Error(), "JetStream") || took > 3*time.Second {
					t.Errorf("a topic of a stream: after %v %v", took, err)
				}
			}
			if err := notReady(b); err == nil || !strings.Contains(err.Error(), "enable JetStream") {
				t.Errorf("Ready says %v", err)
			}
			waitFor(t, "a line in the log", func() bool { return len(book.find("WARN")) > 0 })
			if lines := book.find("WARN"); len(lines) > 1 {
				t.Errorf("warned %d times: %q", len(lines), lines)
			}
		})
	}
}

// A publication that is too large for NATS gets an error of its own.
func TestPublicationsTooLargeForNATS(t *testing.T) {
	s := runServer(t, func(o *server.Options) { o.MaxPayload = 8 << 10 })
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: append(chatStream(StreamConfig{}),
		StreamConfig{Name: "SMALL", Subjects: []string{"small.>"}, MaxBytes: 4 << 10})})
	b.Start(devNull{})
	alter(t, b.JetStream(), func(c *jetstream.StreamConfig) { c.MaxMsgSize = 2 << 10 })
	big := func(n int) []byte { return []byte(`"` + strings.Repeat("x", n) + `"`) }
	for name, test := range map[string]struct {
		topic  string
		data   []byte
		except string
	}{
		"max_payload":              {"plain", big(9 << 10), ""},
		"max_payload with headers": {"plain", big(8<<10 - 10), "some session"},
		"max_payload of a stream":  {"chat.room", big(9 << 10), ""},
		"max_msg_size":             {"chat.room", big(3 << 10), ""},
		"MaxBytes of the stream":   {"small.room", big(5 << 10), ""},
	} {
		before := time.Now()
		_, err := b.Publish(t.Context(), test.topic, test.data, broker.PublishOptions{Except: test.except})
		if took := time.Since(before); !errors.Is(err, live.ErrTooLarge) || errors.Is(err, live.ErrUnavailable) || took > time.Second {
			t.Errorf("%s: after %v %v", name, took, err)
		}
	}
	if err := b.Broadcast(t.Context(), big(9<<10)); !errors.Is(err, live.ErrTooLarge) {
		t.Errorf("a broadcast: %v", err)
	}
	if err := notReady(b); err != nil {
		t.Errorf("Ready says %v", err)
	}
}

// NATS has less storage than the default stream should have, so the stream is smaller. NATS
// acknowledges a publication that is larger than the stream, and drops it. The publisher gets
// an error.
func TestPublicationLargerThanALoweredStream(t *testing.T) {
	s := runServer(t, func(o *server.Options) {
		limited(3 << 19)(o)
		o.MaxPayload = 4 << 20
	})
	b := open(t, Options{Servers: []string{s.ClientURL()}})
	b.Start(rules{devNull{}, func(string) live.TopicOptions { return live.TopicOptions{History: 10} }})
	large := []byte(`"` + strings.Repeat("x", 5<<18) + `"`)
	for range 2 { // the stream is made with the first of them
		if _, err := b.Publish(t.Context(), "room", large, broker.PublishOptions{History: 10}); !errors.Is(err, live.ErrTooLarge) {
			t.Errorf("the error is %v", err)
		}
	}
	// An operator makes the stream larger.
	js := b.JetStream()
	c := configOf(t, js, "LIVE")
	c.MaxBytes = 3 << 19
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the publication to be stored", func() bool {
		_, err := b.Publish(t.Context(), "room", large, broker.PublishOptions{History: 10})
		return err == nil
	})
}

func TestTopicsThatNATSCannotHave(t *testing.T) {
	b := open(t, Options{})
	b.Start(devNull{})
	for _, topic := range []string{"", strings.Repeat("x", maxTopic+1), "a\xff"} {
		if _, err := b.Publish(t.Context(), topic, []byte("1"), broker.PublishOptions{}); !errors.Is(err, live.ErrInvalidTopic) {
			t.Errorf("Publish to %.10q…: %v", topic, err)
		}
		if err := b.Subscribe(t.Context(), topic); !errors.Is(err, live.ErrInvalidTopic) {
			t.Errorf("Subscribe to %.10q…: %v", topic, err)
		}
	}
}
