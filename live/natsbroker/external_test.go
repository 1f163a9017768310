package natsbroker

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/livetopic/livetopic/live"
)

// A NATS that is down when the program starts, and comes later.
func TestExternalServerMayComeLater(t *testing.T) {
	address := freeAddresses(t, 1)[0]
	before := time.Now()
	b, err := New(Options{
		Servers:        []string{"nats://" + address},
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

	host, number, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := server.NewServer(&server.Options{Host: host, Port: port, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.Start()
	t.Cleanup(func() {
		elsewhere.Shutdown()
		elsewhere.WaitForShutdown()
	})
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
