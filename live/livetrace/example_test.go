package livetrace_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

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
	plain := func(code string) string {
		return regexp.MustCompile(`\s+`).ReplaceAllString(strings.TrimSpace(code), " ")
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Traces\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(section, -1)
	if len(blocks) == 0 {
		t.Fatal("no snippets found")
	}
	for _, block := range blocks {
		if !strings.Contains(plain(string(source)), plain(block[1])) {
			t.Errorf("not compiled anywhere:\n%s", block[1])
		}
	}
}
