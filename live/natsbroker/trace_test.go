package natsbroker

import (
	"context"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// A trace goes through NATS, with a stream and without one.
func TestTraceGoesThroughNATS(t *testing.T) {
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	b := open(t, Options{})
	host := livetest.Hosting{}.Start(t, live.Options{
		Broker:      b,
		TraceParent: func(context.Context) string { return trace },
		Topics: func(topic string) live.TopicOptions {
			if topic == "kept" {
				return live.TopicOptions{History: 10}
			}
			return live.TopicOptions{}
		},
	})
	for _, topic := range []string{"kept", "passing"} {
		heard := make(chan live.Message, 1)
		if _, err := host.Listen(topic, func(m live.Message) { heard <- m }); err != nil {
			t.Fatal(err)
		}
		if _, err := host.PublishContext(t.Context(), topic, []byte("1")); err != nil {
			t.Fatal(err)
		}
		if m := livetest.Receive(t, heard); m.TraceParent != trace {
			t.Errorf("on %q the trace is %q", topic, m.TraceParent)
		}
	}
	messages, err := host.History(t.Context(), "kept", 10)
	if err != nil || len(messages) != 1 || messages[0].TraceParent != trace {
		t.Errorf("the history has %v, %v", messages, err)
	}
}
