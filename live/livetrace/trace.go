// Package livetrace makes spans of OpenTelemetry where a live.Server asks the application.
//
//	server := live.New(livetrace.Wrap(live.Options{…}, livetrace.Options{}))
//
// Each call of OnAuth, OnPublish and OnRequest has a span. A delivery has none, because one publication
// may have a hundred thousand of them. OnSubscribe has none either: after a restart all clients subscribe
// to all their topics at once. Payloads and tokens are never recorded.
//
// The package is a module of its own, so that a program without OpenTelemetry gets nothing of it.
package livetrace

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/livetopic/livetopic/live"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Options says how spans are made.
type Options struct {
	// TracerProvider makes the spans. nil: otel.GetTracerProvider(). With a noop.TracerProvider
	// Wrap changes nothing.
	TracerProvider trace.TracerProvider
}

// Wrap returns opts with spans around OnAuth, OnPublish and OnRequest. A callback that is nil stays nil.
// If opts.TraceParent is nil, it becomes TraceParent of this package.
//
// The span of OnAuth is a child of the span in the request's context, or else of the span that the header
// traceparent names. A span of OnPublish or OnRequest begins a trace, because a session may last for days. It
// has a link to the span in the request's context. What a client publishes is in the trace of OnPublish.
//
// If a callback fails, its span has the status Error, and the attribute error.type: "internal" or
// "unavailable", as the client is told, or "panic". If it refuses the client, the status stays unset, the
// attribute live.refused has the code of the refusal, and the error's text is not recorded.
func Wrap(opts live.Options, o Options) live.Options {
	if _, off := o.TracerProvider.(noop.TracerProvider); off {
		return opts
	}
	tracer := o.tracer()
	if opts.TraceParent == nil {
		opts.TraceParent = TraceParent
	}
	if call := opts.OnAuth; call != nil {
		opts.OnAuth = func(ctx context.Context, r *http.Request) (any, error) {
			if !trace.SpanContextFromContext(ctx).IsValid() {
				ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
			}
			ctx, span := tracer.Start(ctx, "auth")
			return run(ctx, span, "unauthorized", func() (any, error) { return call(ctx, r) })
		}
	}
	if call := opts.OnPublish; call != nil {
		opts.OnPublish = func(ctx context.Context, s *live.Session, topic string, data []byte) ([]byte, error) {
			ctx, span := tracer.start(ctx, s, "publish", topic, trace.SpanKindProducer, semconv.MessagingOperationTypeSend)
			live.SetTraceParent(ctx, TraceParent(ctx))
			return run(ctx, span, "forbidden", func() ([]byte, error) { return call(ctx, s, topic, data) })
		}
	}
	if call := opts.OnRequest; call != nil {
		opts.OnRequest = func(ctx context.Context, s *live.Session, topic string, data []byte) (any, error) {
			ctx, span := tracer.start(ctx, s, "request", topic, trace.SpanKindServer, semconv.MessagingOperationTypeProcess)
			return run(ctx, span, "internal", func() (any, error) { return call(ctx, s, topic, data) })
		}
	}
	return opts
}

// Listener returns a function for Listen of live. It calls fn in a span that is a child of the span in which
// the message was published, perhaps on another server. If the message has no trace, the span begins one.
func Listener(o Options, fn func(ctx context.Context, m live.Message)) func(live.Message) {
	tracer := o.tracer()
	return func(m live.Message) {
		ctx, span := tracer.start(Extract(context.Background(), m), nil, "process", m.Topic, trace.SpanKindConsumer, semconv.MessagingOperationTypeProcess)
		run(ctx, span, "", func() (any, error) { fn(ctx, m); return nil, nil })
	}
}

// Extract returns ctx with the span in which the message was published, for spans that the application
// starts itself: as children, or with trace.LinkFromContext. If the message has no trace, it returns ctx.
func Extract(ctx context.Context, m live.Message) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": m.TraceParent})
}

// TraceParent returns the span in ctx in the form of live.Options.TraceParent. "": there is no span.
func TraceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return "" // costs nothing
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

func (o Options) tracer() tracer {
	provider := o.TracerProvider
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	return tracer{provider.Tracer("github.com/livetopic/livetopic/live/livetrace", trace.WithSchemaURL(semconv.SchemaURL))}
}

type tracer struct{ trace.Tracer }

// start starts the span of an operation on a topic. s is the session whose client asked for it; nil: none did. The
// topic is an attribute, and not part of the name, because there may be millions of topics.
func (t tracer) start(ctx context.Context, s *live.Session, name, topic string, kind trace.SpanKind, operation attribute.KeyValue) (context.Context, trace.Span) {
	attributes := []attribute.KeyValue{semconv.MessagingSystemKey.String("livetopic"), semconv.MessagingOperationName(name), operation, semconv.MessagingDestinationName(text(topic))}
	opts := []trace.SpanStartOption{trace.WithSpanKind(kind)}
	if s != nil {
		attributes = append(attributes, semconv.MessagingClientID(s.ID()))
		opts = append(opts, trace.WithNewRoot())
		if trace.SpanContextFromContext(ctx).IsValid() {
			opts = append(opts, trace.WithLinks(trace.LinkFromContext(ctx)))
		}
	}
	return t.Start(ctx, name, append(opts, trace.WithAttributes(attributes...))...)
}

// run calls a callback in its span. refusal is the code for an error of which codeOf knows no other. The
// span also ends if the callback does not return. live deals with the panic itself.
func run[T any](ctx context.Context, span trace.Span, refusal string, call func() (T, error)) (result T, err error) {
	code, status := "panic", "the callback panicked, or called runtime.Goexit"
	defer func() {
		switch code {
		case "":
		case "internal", "unavailable", "panic":
			span.SetStatus(codes.Error, status)
			span.SetAttributes(semconv.ErrorTypeKey.String(code))
		default:
			span.SetAttributes(attribute.String("live.refused", text(code)))
		}
		span.End()
	}()
	if result, err = call(); err == nil {
		code = ""
	} else {
		code, status = codeOf(ctx, err, refusal), text(err.Error())
	}
	return result, err
}

// codeOf returns the code that the client is told.
func codeOf(ctx context.Context, err error, refusal string) string {
	var told *live.ClientError
	switch {
	case errors.As(err, &told):
		return told.Code
	case errors.Is(ctx.Err(), context.Canceled):
		return "gone" // the client has left, and nobody failed
	case ctx.Err() != nil, errors.Is(err, live.ErrUnavailable), errors.Is(err, live.ErrServerClosed),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "unavailable"
	}
	return refusal
}

// text is short and UTF-8. An exporter may drop all its spans for one text that is not UTF-8.
func text(s string) string { return strings.ToValidUTF8(s[:min(len(s), 255)], "") }
