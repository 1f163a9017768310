// Package livetrace makes spans of OpenTelemetry where a live.Server asks the application.
//
//	server := live.New(livetrace.Wrap(live.Options{…}, livetrace.Options{}))
//
// Each call of OnAuth, OnPublish and OnRequest has a span. A delivery has none, because one publication
// may have a hundred thousand of them. OnSubscribe has none either: after a restart all clients subscribe
// to all their topics at once. Payloads and tokens are never recorded.
package livetrace

import (
	"cmp"
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
)

// Options says what makes the spans.
type Options struct {
	TracerProvider trace.TracerProvider // nil: otel.GetTracerProvider()
}

// Wrap returns opts with spans around OnAuth, OnPublish and OnRequest. A callback that is nil stays nil. If
// opts.TraceParent is nil, each publication takes the span in its context along, to Listener and Extract.
//
// The span of OnAuth is a child of the span in the request's context, or else of the span that the header
// traceparent names. A span of OnPublish or OnRequest begins a trace, because a session may last for days. It
// has a link to the span in the request's context. What a client publishes is in the trace of OnPublish.
//
// If a callback fails, its span has the status Error, and the attribute error.type: "internal" or
// "unavailable", as the client is told, or "panic". If it refuses the client, the status stays unset, the
// attribute live.refused has the code of the refusal, and the error's text is not recorded.
func Wrap(opts live.Options, o Options) live.Options {
	tracer := o.tracer()
	if opts.TraceParent == nil {
		opts.TraceParent = traceParent
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
			ctx, span := start(ctx, tracer, "publish", trace.SpanKindProducer, semconv.MessagingOperationTypeSend, topic, s)
			live.SetTraceParent(ctx, traceParent(ctx))
			return run(ctx, span, "forbidden", func() ([]byte, error) { return call(ctx, s, topic, data) })
		}
	}
	if call := opts.OnRequest; call != nil {
		opts.OnRequest = func(ctx context.Context, s *live.Session, topic string, data []byte) (any, error) {
			ctx, span := start(ctx, tracer, "request", trace.SpanKindServer, semconv.MessagingOperationTypeProcess, topic, s)
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
		ctx, span := start(Extract(context.Background(), m), tracer, "process", trace.SpanKindConsumer, semconv.MessagingOperationTypeProcess, m.Topic, nil)
		run(ctx, span, "", func() (any, error) { fn(ctx, m); return nil, nil })
	}
}

// Extract returns ctx with the span in which the message was published, for spans that the application
// starts itself: as children, or with trace.LinkFromContext. If the message has no trace, it returns ctx.
func Extract(ctx context.Context, m live.Message) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": m.TraceParent})
}

// traceParent returns the span in ctx in the form of live.Options.TraceParent. "": there is no span.
func traceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return "" // allocates nothing
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

func (o Options) tracer() trace.Tracer {
	return cmp.Or(o.TracerProvider, otel.GetTracerProvider()).Tracer("github.com/livetopic/livetopic/live/livetrace", trace.WithSchemaURL(semconv.SchemaURL))
}

// start starts the span of an operation on a topic. The topic is an attribute, and not part of the name, because
// there may be millions of topics. s is the session of the client that asked; nil: no client did.
func start(ctx context.Context, tracer trace.Tracer, name string, kind trace.SpanKind, operation attribute.KeyValue, topic string, s *live.Session) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{trace.WithSpanKind(kind), trace.WithAttributes(operation,
		semconv.MessagingSystemKey.String("livetopic"), semconv.MessagingOperationName(name), semconv.MessagingDestinationName(text(topic)))}
	if s != nil {
		opts = append(opts, trace.WithAttributes(semconv.MessagingClientID(s.ID())),
			trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(ctx))) // a link to no span is left out
	}
	return tracer.Start(ctx, name, opts...)
}

// run calls a callback in its span. The span also ends if the callback panics or calls runtime.Goexit: live
// recovers. refusal is the code for an error that has no other; see codeOf.
func run[T any](ctx context.Context, span trace.Span, refusal string, call func() (T, error)) (result T, err error) {
	code, status := "panic", "the callback panicked, or called runtime.Goexit"
	defer func() {
		if code == "internal" || code == "unavailable" || code == "panic" {
			span.SetStatus(codes.Error, status)
			span.SetAttributes(semconv.ErrorTypeKey.String(code))
		} else if code != "" {
			span.SetAttributes(attribute.String("live.refused", text(code)))
		}
		span.End()
	}()
	result, err = call()
	code = ""
	if err != nil {
		code, status = codeOf(ctx, err, refusal), text(err.Error())
	}
	return result, err
}

// codeOf returns the code that the client is told.
func codeOf(ctx context.Context, err error, refusal string) string {
	switch told, ok := errors.AsType[*live.ClientError](err); {
	case ok:
		return told.Code
	case errors.Is(ctx.Err(), context.Canceled):
		return "gone" // the client has left, and nobody failed
	case ctx.Err() != nil, errors.Is(err, live.ErrUnavailable), errors.Is(err, live.ErrServerClosed),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "unavailable"
	}
	return refusal
}

// text cuts a text, and removes what is not UTF-8: an exporter may drop all its spans because of such bytes.
func text(s string) string { return strings.ToValidUTF8(s[:min(len(s), 255)], "") }
