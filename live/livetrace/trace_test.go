package livetrace_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetrace"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// The header traceparent of a proxy that has begun a trace.
const (
	proxyTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	proxySpan  = "00f067aa0ba902b7"
	proxy      = "00-" + proxyTrace + "-" + proxySpan + "-01"
)

// secret is what no span may have: it stands in the payloads and in the token.
const secret = "s3cret"

// recording returns Options whose spans are in the recorder.
func recording() (*tracetest.SpanRecorder, livetrace.Options) {
	spans := tracetest.NewSpanRecorder()
	return spans, livetrace.Options{TracerProvider: sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))}
}

// ended returns the span of that name when it has ended. There must be only one.
func ended(t *testing.T, spans *tracetest.SpanRecorder, name string) sdk.ReadOnlySpan {
	t.Helper()
	var found []sdk.ReadOnlySpan
	livetest.Eventually(t, "a span "+name, func() bool {
		found = slices.DeleteFunc(spans.Ended(), func(s sdk.ReadOnlySpan) bool { return s.Name() != name })
		return len(found) > 0
	})
	if len(found) != 1 {
		t.Fatalf("there are %d spans %s", len(found), name)
	}
	return found[0]
}

func attributesOf(s sdk.ReadOnlySpan) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes() {
		all[string(a.Key)] = a.Value.String()
	}
	return all
}

func check(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// answering is an application that allows everything.
func answering() live.Options {
	opts := livetest.Open(live.Options{Logger: livetest.Quiet})
	opts.OnAuth = func(context.Context, *http.Request) (any, error) { return "ana", nil }
	opts.OnPublish = func(_ context.Context, _ *live.Session, _ string, data []byte) ([]byte, error) { return data, nil }
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return secret, nil }
	return opts
}

func TestEachQuestionHasASpanAndNoDeliveryHasOne(t *testing.T) {
	spans, o := recording()
	opts := answering()
	asked := make(chan string, 2) // the sessions whose clients publish or request
	opts.OnPublish = func(_ context.Context, s *live.Session, _ string, data []byte) ([]byte, error) {
		asked <- s.ID()
		return data, nil
	}
	opts.OnRequest = func(_ context.Context, s *live.Session, _ string, _ []byte) (any, error) {
		asked <- s.ID()
		return secret, nil
	}
	at := livetest.Serve(t, livetest.NewServer(t, livetrace.Wrap(opts, o)).Handler())
	c := livetest.Connect(t, at, livetest.Dialing{V1: true, Offers: []string{"live.token." + secret}, Header: http.Header{"Traceparent": {proxy}}}).Attend().Greeted()
	auth := ended(t, spans, "auth")
	spans.Reset()
	readers := make([]*livetest.Client, 5)
	for i := range readers {
		readers[i] = livetest.DialV1(t, at)
		readers[i].Must(livetest.SubscribeTo(1, "room:7"))
	}
	if n := len(spans.Ended()); n != len(readers) {
		t.Errorf("%d clients that connect and subscribe have %d spans", len(readers), n)
	}
	spans.Reset()
	c.Must(livetest.Operation("publish", 1, "room:7", "data", secret))
	c.Must(livetest.Operation("request", 2, "room:7", "data", secret))
	for _, r := range readers {
		r.Hears("room:7", `"`+secret+`"`)
	}
	publish, request := ended(t, spans, "publish"), ended(t, spans, "request")
	if n := len(spans.Ended()); n != 2 {
		t.Errorf("%d spans for a publication and a request", n)
	}

	check(t, "parent of auth", auth.Parent().TraceID().String()+" "+auth.Parent().SpanID().String(), proxyTrace+" "+proxySpan)
	check(t, "trace of auth", auth.SpanContext().TraceID().String(), proxyTrace)
	for _, one := range []struct {
		span      sdk.ReadOnlySpan
		operation string
		kind      trace.SpanKind
	}{{publish, "send", trace.SpanKindProducer}, {request, "process", trace.SpanKindServer}} {
		name := one.span.Name()
		check(t, "kind of "+name, one.span.SpanKind(), one.kind)
		check(t, "parent of "+name, one.span.Parent().IsValid(), false)
		check(t, "status of "+name, one.span.Status().Code, codes.Unset)
		check(t, "attributes of "+name, attributesOf(one.span), map[string]string{
			"messaging.system": "livetopic", "messaging.destination.name": "room:7", "messaging.client.id": livetest.Receive(t, asked),
			"messaging.operation.type": one.operation, "messaging.operation.name": name,
		})
	}
	for _, s := range []sdk.ReadOnlySpan{auth, publish, request} {
		if text := fmt.Sprint(s.Name(), s.Attributes(), s.Events(), s.Status()); strings.Contains(text, secret) {
			t.Errorf("a payload or token is in %s", text)
		}
	}
}

// An error that refuses a client is no fault of the application.
func TestOnlyFaultsOfTheApplicationAreErrors(t *testing.T) {
	const why = "the reason " + secret
	refusal := errors.New(why)
	told := func(code string) error { return &live.ClientError{Code: code, Message: why} }
	down := fmt.Errorf("the database is down: %w", live.ErrUnavailable)
	for _, one := range []struct {
		callback string
		err      error
		refused  string
		fault    string
	}{
		{"auth", refusal, "unauthorized", ""},
		{"auth", live.Refuse(http.StatusForbidden, why), "unauthorized", ""},
		{"auth", down, "", "unavailable"},
		{"publish", refusal, "forbidden", ""},
		{"publish", told("too_long"), "too_long", ""},
		{"publish", down, "", "unavailable"},
		{"publish", context.DeadlineExceeded, "", "unavailable"},
		{"request", told("not_found"), "not_found", ""},
		{"request", told("internal"), "", "internal"},
		{"request", refusal, "", "internal"},
		{"request", live.ErrServerClosed, "", "unavailable"},
		{"request", errors.New("not UTF-8: \xff" + strings.Repeat("é", 500)), "", "internal"},
		{"request", told("\xff" + strings.Repeat("é", 500)), strings.Repeat("é", 127), ""},
	} {
		t.Run(fmt.Sprintf("%s %.12s%s", one.callback, one.refused, one.fault), func(t *testing.T) {
			spans, o := recording()
			opts := answering()
			switch one.callback {
			case "auth":
				opts.OnAuth = func(context.Context, *http.Request) (any, error) { return nil, one.err }
			case "publish":
				opts.OnPublish = func(context.Context, *live.Session, string, []byte) ([]byte, error) { return nil, one.err }
			case "request":
				opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return nil, one.err }
			}
			at := livetest.Serve(t, livetest.NewServer(t, livetrace.Wrap(opts, o)).Handler())
			if one.callback == "auth" {
				livetest.Refusal(t, at, nil)
			} else {
				livetest.DialV1(t, at).Do(livetest.Operation(one.callback, 1, "t", "data", 1))
			}
			s := ended(t, spans, one.callback)
			attributes := attributesOf(s)
			check(t, "live.refused", attributes["live.refused"], one.refused)
			check(t, "error.type", attributes["error.type"], one.fault)
			check(t, "status", s.Status().Code == codes.Error, one.fault != "")
			text := fmt.Sprint(s.Attributes(), s.Events(), s.Status())
			if !utf8.ValidString(text) || len(text) > 2000 {
				t.Errorf("the span has %q", text)
			}
			if one.fault == "" && strings.Contains(text, why) {
				t.Errorf("the text of a refusal is in %s", text)
			}
		})
	}
}

// The page on operations lists the attributes of the spans, without those that say what kind of operation it is.
func TestPageListsTheAttributes(t *testing.T) {
	spans, o := recording()
	opts := answering()
	opts.OnPublish = func(context.Context, *live.Session, string, []byte) ([]byte, error) { return nil, errors.New("no") }
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return nil, errors.New("a fault") }
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, livetrace.Wrap(opts, o)).Handler()))
	c.Do(livetest.Operation("publish", 1, "t", "data", 1))
	c.Do(livetest.Operation("request", 2, "t"))
	found := map[string]bool{}
	for _, name := range []string{"publish", "request"} {
		for key := range attributesOf(ended(t, spans, name)) {
			found[key] = true
		}
	}
	want := map[string]bool{"messaging.system": true, "messaging.operation.name": true, "messaging.operation.type": true}
	traces := livetest.Section(t, livetest.ReadFile(t, "../../docs/operations.md"), "Traces")
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(traces, -1) {
		want[row[1]] = true
	}
	check(t, "attributes", found, want)
}

// A client that has left is no fault either.
func TestClientThatHasLeftIsNoError(t *testing.T) {
	spans, o := recording()
	opts := answering()
	began := make(chan struct{}, 1)
	opts.OnRequest = func(ctx context.Context, _ *live.Session, _ string, _ []byte) (any, error) {
		began <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	server := livetest.NewServer(t, livetrace.Wrap(opts, o))
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Send(livetest.Operation("request", 1, "t"))
	livetest.Receive(t, began)
	c.Drop()
	s := ended(t, spans, "request")
	check(t, "status", s.Status().Code, codes.Unset)
	check(t, "live.refused", attributesOf(s)["live.refused"], "gone")
}

// OnAuth that is too slow is a fault, whatever error it returns.
func TestAuthTimeoutIsAnError(t *testing.T) {
	spans, o := recording()
	opts := answering()
	opts.AuthTimeout = 1
	opts.OnAuth = func(ctx context.Context, _ *http.Request) (any, error) {
		<-ctx.Done()
		return nil, errors.New("not signed in")
	}
	check(t, "answer", livetest.Refusal(t, livetest.Serve(t, livetest.NewServer(t, livetrace.Wrap(opts, o)).Handler()), nil), 503)
	check(t, "error.type", attributesOf(ended(t, spans, "auth"))["error.type"], "unavailable")
}

func TestSpanEndsIfACallbackDoesNotReturn(t *testing.T) {
	for how, leave := range map[string]func(){"panic": func() { panic(secret) }, "Goexit": runtime.Goexit} {
		for name, set := range map[string]func(*live.Options){
			"auth": func(o *live.Options) {
				o.OnAuth = func(context.Context, *http.Request) (any, error) { leave(); return nil, nil }
			},
			"publish": func(o *live.Options) {
				o.OnPublish = func(context.Context, *live.Session, string, []byte) ([]byte, error) { leave(); return nil, nil }
			},
			"request": func(o *live.Options) {
				o.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { leave(); return nil, nil }
			},
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				spans, o := recording()
				opts := answering()
				set(&opts)
				server := livetest.NewServer(t, livetrace.Wrap(opts, o))
				at := livetest.Serve(t, server.Handler())
				c, err := livetest.Try(t, at, livetest.Dialing{V1: true})
				if err == nil {
					t.Cleanup(c.Drop)
					c.Attend().Greeted().Send(livetest.Operation(name, 1, "t", "data", 1))
				}
				s := ended(t, spans, name)
				check(t, "status", s.Status().Code, codes.Error)
				check(t, "error.type", attributesOf(s)["error.type"], "panic")
				livetest.Eventually(t, "the server notices it", func() bool { return server.Stats().Panics == 1 })
			})
		}
	}
}

// What a client publishes, and what the application publishes while it answers a request, is in the trace
// of the callback wherever it arrives.
func TestTraceGoesToTheListener(t *testing.T) {
	spans, o := recording()
	opts := answering()
	var server *live.Server
	opts.OnRequest = func(ctx context.Context, _ *live.Session, topic string, data []byte) (any, error) {
		_, err := server.PublishContext(ctx, topic, data)
		return nil, err
	}
	server = livetest.NewServer(t, livetrace.Wrap(opts, o))
	heard := make(chan context.Context, 1)
	listening, err := server.Listen("t", livetrace.Listener(o, func(ctx context.Context, _ live.Message) { heard <- ctx }))
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Unsubscribe()
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	for i, name := range []string{"publish", "request"} {
		spans.Reset()
		c.Must(livetest.Operation(name, i+1, "t", "data", 1))
		ctx := livetest.Receive(t, heard)
		asked, process := ended(t, spans, name), ended(t, spans, "process")
		check(t, "parent of process", process.Parent().SpanID(), asked.SpanContext().SpanID())
		check(t, "trace of process", process.SpanContext().TraceID(), asked.SpanContext().TraceID())
		check(t, "span of the listener", trace.SpanContextFromContext(ctx).SpanID(), process.SpanContext().SpanID())
		check(t, "kind", process.SpanKind(), trace.SpanKindConsumer)
		check(t, "attributes", attributesOf(process), map[string]string{
			"messaging.system": "livetopic", "messaging.destination.name": "t",
			"messaging.operation.type": "process", "messaging.operation.name": "process",
		})
	}
	spans.Reset()
	if err := server.Publish("t", []byte("1")); err != nil {
		t.Fatal(err)
	}
	livetest.Receive(t, heard)
	check(t, "parent without a trace", ended(t, spans, "process").Parent().IsValid(), false)
}

func TestListenerThatPanicsHasItsSpanAndGoesOn(t *testing.T) {
	spans, o := recording()
	server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet})
	listening, err := server.Listen("t", livetrace.Listener(o, func(context.Context, live.Message) { panic("a fault") }))
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Unsubscribe()
	for range 2 {
		spans.Reset()
		if err := server.Publish("t", []byte("1")); err != nil {
			t.Fatal(err)
		}
		check(t, "error.type", attributesOf(ended(t, spans, "process"))["error.type"], "panic")
	}
	livetest.Eventually(t, "two panics", func() bool { return server.Stats().Panics == 2 })
}

// A middleware such as otelhttp has begun a span already. It is trusted, and not the header.
func TestSpanOfAMiddlewareIsTheParentOfAuth(t *testing.T) {
	spans, o := recording()
	server := livetest.NewServer(t, livetrace.Wrap(answering(), o))
	at := livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := o.TracerProvider.Tracer("middleware").Start(r.Context(), "GET /live")
		defer span.End()
		server.Handler().ServeHTTP(w, r.WithContext(ctx))
	}))
	c := livetest.Connect(t, at, livetest.Dialing{V1: true, Header: http.Header{"Traceparent": {proxy}}}).Attend().Greeted()
	c.Must(livetest.Operation("publish", 1, "t", "data", 1))
	handshake := ended(t, spans, "GET /live").SpanContext()
	check(t, "parent of auth", ended(t, spans, "auth").Parent().SpanID(), handshake.SpanID())
	publish := ended(t, spans, "publish")
	check(t, "parent of publish", publish.Parent().IsValid(), false)
	if links := publish.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != handshake.SpanID() {
		t.Errorf("publish has the links %v", links)
	}
}

func TestCallbacksThatAreNilStayNil(t *testing.T) {
	_, o := recording()
	opts := livetrace.Wrap(live.Options{}, o)
	if opts.OnAuth != nil || opts.OnPublish != nil || opts.OnRequest != nil {
		t.Error("a callback that was nil is set")
	}
	own := func(context.Context) string { return proxy }
	if got := livetrace.Wrap(live.Options{TraceParent: own}, o).TraceParent(t.Context()); got != proxy {
		t.Errorf("TraceParent is replaced: %q", got)
	}
}

// TraceParent is called for every publication.
func TestContextWithoutSpanCostsNothing(t *testing.T) {
	traceParent := livetrace.Wrap(live.Options{}, livetrace.Options{}).TraceParent
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if traceParent(ctx) != "" {
			t.Error("there is a trace")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestExtractIsTheReverseOfTraceParent(t *testing.T) {
	traceParent := livetrace.Wrap(live.Options{}, livetrace.Options{}).TraceParent
	ctx := livetrace.Extract(t.Context(), live.Message{TraceParent: proxy})
	if got := traceParent(ctx); got != proxy {
		t.Errorf("%q becomes %q", proxy, got)
	}
	if again := livetrace.Extract(ctx, live.Message{}); traceParent(again) != proxy {
		t.Error("a message without a trace changes the context")
	}
}

// The cost of a callback's span while no SDK is installed.
func BenchmarkRequestWithoutSDK(b *testing.B) {
	opts := livetrace.Wrap(answering(), livetrace.Options{})
	ctx := b.Context()
	s := new(live.Session)
	b.ReportAllocs()
	for b.Loop() {
		opts.OnRequest(ctx, s, "room:7", nil)
	}
}
