package natsbroker

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// A node is ready again after its stream was full, even if nobody publishes to the stream.
func TestReadyForgetsThatAStreamWasFull(t *testing.T) {
	t.Parallel() // it mostly waits for fullFor
	s := runServer(t, func(*server.Options) {})
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: chatStream(StreamConfig{MaxMsgs: 1})})
	b.Start(devNull{})
	alter(t, b.JetStream(), func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew })
	publishUntilFull(t, b, 0)
	if notReady(b) == nil {
		t.Error("Ready says yes though a publication was refused just now")
	}
	waitFor(t, "Ready to forget", func() bool { return notReady(b) == nil })
}
