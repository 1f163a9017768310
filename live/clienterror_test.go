package live_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// operationsOnT is one of each that asks the application, without the bracket at
// its end.
var operationsOnT = map[string]string{
	"subscribe": `{"op":"subscribe","topic":"chat"`,
	"resume":    `{"op":"subscribe","topic":"chat","since":"abcdefgh.1"`,
	"history":   `{"op":"history","topic":"chat","limit":3`,
	"publish":   `{"op":"publish","topic":"chat","data":1`,
	"request":   `{"op":"request","topic":"chat"`,
}

func TestCallbackThatIsMissingRefuses(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnSubscribe, opts.OnPublish, opts.OnRequest = nil, nil, nil
	server := livetest.NewServer(t, opts)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	for name, op := range operationsOnT {
		livetest.Refused(t, name, c.Do(op+`,"id":8}`), 8, "forbidden")
		livetest.Refused(t, name+" without an id", c.Do(op+`}`), 0, "forbidden")
	}
	if st := server.Stats(); st.Published != 0 || st.Topics != 0 {
		t.Errorf("%d published, %d topics; want none", st.Published, st.Topics)
	}
}

// What the application returns as *ClientError is told as it is. Of every other
// error the client learns nothing but that there was one.
func TestErrorOfACallback(t *testing.T) {
	t.Parallel()
	const secret = "row 7 of table users"
	for _, test := range []struct {
		name string
		err  error
		code string // "" : forbidden, and internal for a request
	}{
		{"ClientError", &live.ClientError{Code: "too_late", Message: `the "auction" <is> over`}, "too_late"},
		{"wrapped ClientError", fmt.Errorf("%s: %w", secret, &live.ClientError{Code: "too_late", Message: `the "auction" <is> over`}), "too_late"},
		{"other", errors.New(secret), ""},
		{"other that wraps a sentinel of live", fmt.Errorf("%s: %w", secret, live.ErrNoHistory), ""},
		{"other that wraps invalid data", fmt.Errorf("%s: %w", secret, live.ErrInvalidData), ""},
		{"other that wraps a context's error", fmt.Errorf("%s: %w", secret, context.DeadlineExceeded), "unavailable"},
		{"other that wraps a cancelling", fmt.Errorf("%s: %w", secret, context.Canceled), "unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := livetest.Permissive()
			opts.OnSubscribe = func(context.Context, *live.Session, string) error { return test.err }
			opts.OnPublish = func(context.Context, *live.Session, string, []byte) ([]byte, error) { return nil, test.err }
			opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return 1, test.err }
			server := livetest.NewServer(t, opts)
			c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
			for name, op := range operationsOnT {
				code := test.code
				if code == "" {
					code = "forbidden"
					if name == "request" {
						code = "internal"
					}
				}
				f := c.Do(op + `,"id":8}`)
				livetest.Refused(t, name, f, 8, code)
				if strings.Contains(f.Raw, secret) {
					t.Errorf("%s tells the client %s", name, f.Raw)
				}
				if code == "too_late" && f.Message != `the "auction" <is> over` {
					t.Errorf("%s tells the client %q", name, f.Message)
				}
			}
			if st := server.Stats(); st.Published != 0 || st.Topics != 0 {
				t.Errorf("%d published, %d topics; want none", st.Published, st.Topics)
			}
		})
	}
}

// What a client is not told is in the log: an error that refuses at level Debug, one that could not decide as a warning.
func TestErrorOfACallbackIsLogged(t *testing.T) {
	t.Parallel()
	const secret = "row 7 of table users"
	for _, test := range []struct {
		name, want, wantOfRequest string
		err                       error
	}{
		{"refusal", `level=DEBUG msg="live: client refused by a callback"`, `level=WARN msg="live: request failed"`, errors.New(secret)},
		{"no decision", `level=WARN msg="live: operation failed"`, `level=WARN msg="live: request failed"`, fmt.Errorf("%s: %w", secret, live.ErrUnavailable)},
		{"ClientError", "", "", fmt.Errorf("%s: %w", secret, &live.ClientError{Code: "too_late"})},
	} {
		logger, logged := livetest.Logged()
		opts := livetest.Permissive()
		opts.Logger = logger
		opts.OnSubscribe = func(context.Context, *live.Session, string) error { return test.err }
		opts.OnPublish = func(context.Context, *live.Session, string, []byte) ([]byte, error) { return nil, test.err }
		opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return 1, test.err }
		c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
		seen := 0
		for name, op := range operationsOnT {
			c.Do(op + `,"id":8}`)
			line := logged()[seen:]
			seen += len(line)
			want := test.want
			if name == "request" {
				want = test.wantOfRequest
			}
			if want == "" {
				if strings.Contains(line, secret) {
					t.Errorf("%s, %s: logged %q", test.name, name, line)
				}
			} else if !strings.Contains(line, want) || !strings.Contains(line, secret) {
				t.Errorf("%s, %s: logged %q, want %s", test.name, name, line, want)
			}
		}
	}
}

// brokenBroker is a broker that fails.
type brokenBroker struct {
	*live.MemoryBroker
	err atomic.Pointer[error]
}

func (*brokenBroker) InProcess() bool { return false }

func (b *brokenBroker) fail(err error) { b.err.Store(&err) }

func (b *brokenBroker) failing() error {
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (b *brokenBroker) Subscribe(ctx context.Context, topic string) error {
	return errors.Join(b.failing(), b.MemoryBroker.Subscribe(ctx, topic))
}

func (b *brokenBroker) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if err := b.failing(); err != nil {
		return live.Position{}, err
	}
	return b.MemoryBroker.Publish(ctx, topic, data, o)
}

func (b *brokenBroker) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	if err := b.failing(); err != nil {
		return broker.Page{}, err
	}
	return b.MemoryBroker.Tail(ctx, topic, limit)
}

func TestBrokerThatFails(t *testing.T) {
	t.Parallel()
	br := &brokenBroker{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
	opts := livetest.Permissive()
	opts.Broker = br
	var server *live.Server
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) {
		return nil, server.Publish("chat", []byte("1"))
	}
	server = livetest.NewServer(t, opts)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	for _, test := range []struct {
		err  error
		code string
	}{
		{errors.New("the disk of host 10.0.0.7 is full"), "internal"},
		{context.DeadlineExceeded, "unavailable"},
		{fmt.Errorf("of 10.0.0.7: %w", live.ErrUnavailable), "unavailable"},
	} {
		br.fail(test.err)
		for _, name := range []string{"subscribe", "resume", "history", "publish"} {
			f := c.Do(operationsOnT[name] + `,"id":8}`)
			livetest.Refused(t, name, f, 8, test.code)
			if strings.Contains(f.Raw, "10.0.0.7") {
				t.Errorf("%s tells the client %s", name, f.Raw)
			}
		}
	}
	livetest.Refused(t, "request", c.Do(`{"op":"request","id":9,"topic":"chat"}`), 9, "unavailable")
	br.fail(nil) // and then all is well again
	c.Must(`{"op":"subscribe","id":1,"topic":"chat"}`)
	server.Publish("chat", []byte(`1`))
	c.Hears("chat", "1")
}

func TestRefusingEveryOperationIsSaidOnce(t *testing.T) {
	logger, l := logging()
	h := livetest.Hosting{}.Start(t, live.Options{Logger: logger})
	for range 3 {
		p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
		for i, op := range []string{"subscribe", "publish", "request", "history"} {
			p.Say(livetest.Operation(op, 2*i+1, "t", "limit", 1), livetest.Operation(op, 2*i+2, "t", "limit", 1))
			if f, _ := p.Reply(2*i + 2); f.Code != "forbidden" || f.Topic != "t" {
				t.Errorf("%s: %s", op, &f)
			}
		}
	}
	for _, option := range []string{"OnSubscribe", "OnPublish", "OnRequest"} {
		if n := l.with("Options." + option + " is nil"); n != 1 {
			t.Errorf("%s was named %d times", option, n)
		}
	}
}

// An error names the operation's topic, unless that is none.
func TestRefusalNamesItsTopic(t *testing.T) {
	h := livetest.Hosting{}.Start(t, live.Options{
		OnSubscribe: func(context.Context, *live.Session, string) error { return errors.New("no") },
	})
	p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	long := strings.Repeat("x", 300)
	for i, tt := range []struct{ op, topic string }{
		{livetest.Operation("subscribe", 1, "t"), "t"},
		{livetest.Operation("subscribe", 2, `quoted " and ü`), `quoted " and ü`},
		{livetest.Operation("history", 3, "t", "limit", 0), "t"},
		{livetest.Operation("nonsense", 4, "t"), "t"},
		{livetest.Operation("subscribe", 5, "t", "since", 7), "t"},
		{livetest.Operation("subscribe", 6, long), ""},
		{`{"op":"subscribe","id":7}`, ""},
		{`{"op":"subscribe","id":8,"topic":null}`, ""},
		{`{"op":"subscribe","id":9,"topic":9}`, ""},
	} {
		p.Say(tt.op)
		if f, _ := p.Reply(i + 1); f.Op != "error" || f.Topic != tt.topic {
			t.Errorf("%.60s: %s", tt.op, &f)
		}
	}
}

// Who could not decide has not said no.
func TestPassingFailureIsNoRefusal(t *testing.T) {
	var fails error
	may := func(context.Context, *live.Session, string) error { return fails }
	h := livetest.Hosting{}.Start(t, live.Options{
		OnSubscribe: may,
		OnPublish: func(ctx context.Context, s *live.Session, topic string, data []byte) ([]byte, error) {
			return data, may(ctx, s, topic)
		},
		OnRequest: func(ctx context.Context, s *live.Session, topic string, _ []byte) (any, error) {
			return nil, may(ctx, s, topic)
		},
	})
	p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	id := 0
	for _, tt := range []struct {
		err           error
		code, request string
	}{
		{live.ErrUnavailable, "unavailable", "unavailable"},
		{fmt.Errorf("asking the directory: %w", live.ErrUnavailable), "unavailable", "unavailable"},
		{fmt.Errorf("query: %w", context.DeadlineExceeded), "unavailable", "unavailable"},
		{fmt.Errorf("query: %w", context.Canceled), "unavailable", "unavailable"},
		{live.ErrServerClosed, "unavailable", "unavailable"},
		{errors.New("no"), "forbidden", "internal"},
		{&live.ClientError{Code: "quota", Message: "too many"}, "quota", "quota"},
		{errors.Join(live.ErrUnavailable, &live.ClientError{Code: "quota"}), "quota", "quota"},
	} {
		fails = tt.err
		for _, op := range []string{"subscribe", "history", "publish", "request"} {
			id++
			p.Say(livetest.Operation(op, id, "t", "limit", 1))
			want := tt.code
			if op == "request" {
				want = tt.request
			}
			if f, _ := p.Reply(id); f.Code != want {
				t.Errorf("%v, %s: %s", tt.err, op, &f)
			}
		}
	}
}
