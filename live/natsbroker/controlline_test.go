package natsbroker

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// NATS closes a connection for good after a line that is too long. The broker measures the
// limit first, and refuses longer topics.
func TestTopicsLongerThanALineOfNATS(t *testing.T) {
	s := runServer(t, func(o *server.Options) { o.MaxControlLine = 512 })
	book := &logBook{least: slog.LevelWarn}
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{}), Logger: slog.New(book)})
	b.Start(devNull{})
	waitFor(t, "a line in the log", func() bool { return len(book.find("max_control_line")) > 0 })
	for _, topic := range []string{strings.Repeat("x", 600), "chat." + strings.Repeat("x", 600), strings.Repeat("*", 250)} {
		if _, err := b.Publish(t.Context(), topic, []byte("1"), broker.PublishOptions{Except: "x"}); !errors.Is(err, live.ErrInvalidTopic) {
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
		if _, err := b.Publish(t.Context(), topic, []byte("1"), broker.PublishOptions{Except: "x"}); err != nil {
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

// The longest topic with the longest prefix fits in a line of NATS's default length.
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
		if _, err := b.Publish(t.Context(), topic, []byte("1"), broker.PublishOptions{Except: "x", History: 1}); err != nil {
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

// NATS takes connections and then says nothing. Close does not wait until the measurement of
// the longest line gives up.
func TestCloseDoesNotWaitForAMeasurement(t *testing.T) {
	s := startServer(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	accepted := make(chan struct{}, 1)
	go func() { // ends with silent
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			select {
			case accepted <- struct{}{}:
			default:
			}
		}
	}()
	dials := &detour{first: s.Addr().String(), then: silent.Addr().String()}
	b, err := New(Options{Servers: []string{s.ClientURL()}, Connect: []nats.Option{nats.SetCustomDialer(dials)}, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	<-accepted
	before := time.Now()
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(before); took > probeTimeout/2 {
		t.Errorf("Close took %v", took)
	}
}

// detour makes the first connection to one address and all others to another.
type detour struct {
	first, then string
	dialed      atomic.Bool
}

func (d *detour) Dial(network, _ string) (net.Conn, error) {
	if d.dialed.Swap(true) {
		return net.Dial(network, d.then)
	}
	return net.Dial(network, d.first)
}
