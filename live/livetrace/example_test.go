package livetrace_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetrace"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

var (
	signIn func(ctx context.Context, r *http.Request) (any, error)
	store  func(ctx context.Context, order []byte) error
	pack   = func(ctx context.Context, order []byte) {}
)

// An order goes from the handler that takes it to the function that packs it, in one trace.
func Example() {
	spans := livetrace.Options{TracerProvider: sdk.NewTracerProvider()} // and an exporter

	server := live.New(livetrace.Wrap(live.Options{}, spans))
	defer server.Shutdown(context.Background())
	packed := make(chan trace.TraceID)
	_, err := server.Listen("orders", livetrace.Listener(spans, func(ctx context.Context, m live.Message) {
		pack(ctx, m.Data)
		packed <- trace.SpanContextFromContext(ctx).TraceID()
	}))
	if err != nil {
		log.Fatal(err)
	}

	ctx, span := spans.TracerProvider.Tracer("shop").Start(context.Background(), "POST /orders") // otelhttp does this
	defer span.End()
	if _, err := server.PublishContext(ctx, "orders", []byte(`{"item":7}`)); err != nil {
		log.Fatal(err)
	}
	fmt.Println("the same trace:", <-packed == span.SpanContext().TraceID())
	// Output: the same trace: true
}

var _ = func() (err error) {
	var server *live.Server
	server = live.New(livetrace.Wrap(live.Options{
		OnAuth: signIn,
		OnRequest: func(ctx context.Context, s *live.Session, topic string, order []byte) (any, error) {
			if err := store(ctx, order); err != nil {
				return nil, err
			}
			return server.PublishContext(ctx, "orders", order)
		},
	}, livetrace.Options{}))

	_, err = server.Listen("orders", livetrace.Listener(livetrace.Options{}, func(ctx context.Context, m live.Message) {
		pack(ctx, m.Data)
	}))
	return err
}

// A span of the application's own that has a link to the publication, and a trace of its own.
func ExampleExtract() {
	tracer := sdk.NewTracerProvider().Tracer("shop")
	m := live.Message{TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"} // Listen hands it over

	link := trace.LinkFromContext(livetrace.Extract(context.Background(), m))
	_, span := tracer.Start(context.Background(), "night shift", trace.WithLinks(link))
	defer span.End()
	fmt.Println(link.SpanContext.TraceID())
	// Output: 4bf92f3577b34da6a3ce929d0e0e4736
}

// Every Go snippet under "Traces" in docs/operations.md is also in this file, where it is compiled.
func TestSnippetsAboutTracesCompile(t *testing.T) {
	traces := livetest.Section(t, livetest.ReadFile(t, "../../docs/operations.md"), "Traces")
	livetest.InFiles(t, livetest.Snippets(t, traces, 1, "go"), "example_test.go")
}
