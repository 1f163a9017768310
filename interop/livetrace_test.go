package interop

import (
	"context"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetrace"
	"github.com/livetopic/livetopic/live/natsbroker"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// A client publishes at one server. The span of a listener at another server, with NATS between them, is a child of
// the span in which the first server let the client publish. Each server has its own SDK.
func TestTraceGoesThroughNATSToAnotherServer(t *testing.T) {
	first, err := natsbroker.New(natsbroker.Options{
		Streams: []natsbroker.StreamConfig{{Name: "KEPT", Subjects: []string{"kept"}}},
		Logger:  livetest.Quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	second, err := natsbroker.New(natsbroker.Options{Conn: first.NATSConn(), Logger: livetest.Quiet})
	if err != nil {
		t.Fatal(err)
	}
	recording := func() (*tracetest.SpanRecorder, livetrace.Options) {
		spans := tracetest.NewSpanRecorder()
		return spans, livetrace.Options{TracerProvider: sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))}
	}
	asked, publishing := recording()
	processed, listening := recording()

	opts := livetest.Open(live.Options{Broker: first, Logger: livetest.Quiet})
	publisher := livetest.NewServer(t, livetrace.Wrap(opts, publishing))
	hearer := livetest.NewServer(t, live.Options{Broker: second, Logger: livetest.Quiet})
	c := livetest.DialV1(t, livetest.Serve(t, publisher.Handler()))
	for i, topic := range []string{"kept", "passing"} {
		heard := make(chan live.Message, 1)
		subscription, err := hearer.Listen(topic, livetrace.Listener(listening, func(_ context.Context, m live.Message) { heard <- m }))
		if err != nil {
			t.Fatal(err)
		}
		defer subscription.Unsubscribe()
		c.Must(livetest.Operation("publish", i+1, topic, "data", 1))
		livetest.Receive(t, heard)
		livetest.Eventually(t, "the spans end", func() bool { return len(asked.Ended()) == i+1 && len(processed.Ended()) == i+1 })
		parent, child := asked.Ended()[i].SpanContext(), processed.Ended()[i]
		if child.Parent().SpanID() != parent.SpanID() || child.SpanContext().TraceID() != parent.TraceID() {
			t.Errorf("on %q the listener's span is the child of %v, want %v", topic, child.Parent().SpanID(), parent.SpanID())
		}
		if !child.Parent().IsRemote() {
			t.Errorf("on %q the parent is not remote", topic)
		}
	}
}
