package live_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// lines keeps what is logged at Info and above.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

func (l *lines) with(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func logging() (*slog.Logger, *lines) {
	l := new(lines)
	return slog.New(slog.NewTextHandler(l, nil)), l
}

// Behind a proxy that does not pass on Host every browser is refused: whoever runs the server
// sees it, and what to do.
func TestForeignOriginIsSeen(t *testing.T) {
	logger, l := logging()
	_, url := serve(t, live.Options{Logger: logger})
	for range 100 {
		resp := upgrade(t, url, func(r *http.Request) {
			r.Host = "backend:8080"
			r.Header.Set("Origin", "https://app.example"+strings.Repeat("x", 1000))
		})
		body, _ := io.ReadAll(resp.Body)
		for _, want := range []string{"https://app.example", `called "backend:8080"`, "Options.Origins", "proxy_set_header Host"} {
			if !strings.Contains(string(body), want) || len(body) > 1000 {
				t.Fatalf("%s: %.2000s", resp.Status, body)
			}
		}
	}
	for _, want := range []string{"origin=https://app.example", "host=backend:8080", "Options.Origins"} {
		if n := l.with(want); n == 0 || n > 20 {
			t.Errorf("%d lines have %q", n, want)
		}
	}
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
		OnPublish:   func(ctx context.Context, s *live.Session, topic string, _ []byte) error { return may(ctx, s, topic) },
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

// narrow is a broker that takes short publications only.
type narrow struct{ *live.MemoryBroker }

func (narrow) InProcess() bool { return false }

func (b narrow) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if len(data) > 100 {
		return live.Position{}, fmt.Errorf("narrow: %w: it has %d bytes", live.ErrTooLarge, len(data))
	}
	return b.MemoryBroker.Publish(ctx, topic, data, o)
}

// What a client publishes may be too large for the broker alone. The client is told, and the
// log is not filled with it.
func TestPublicationTooLargeForTheBroker(t *testing.T) {
	logger, l := logging()
	h := livetest.Hosting{}.Start(t, live.Options{
		Broker:    narrow{live.NewMemoryBroker(live.MemoryOptions{})},
		Logger:    logger,
		OnPublish: func(context.Context, *live.Session, string, []byte) error { return nil },
	})
	p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	for id := 1; id <= 3; id++ {
		p.Say(livetest.Operation("publish", id, "t", "data", strings.Repeat("x", 200)))
		if f, _ := p.Reply(id); f.Op != "error" || f.Code != "too_big" || f.Topic != "t" {
			t.Errorf("a long publication: %s", &f)
		}
	}
	p.Say(livetest.Operation("publish", 4, "t", "data", "short"))
	if f, _ := p.Reply(4); f.Op != "reply" {
		t.Errorf("a short publication: %s", &f)
	}
	if err := h.Publish("t", []byte(`"`+strings.Repeat("x", 200)+`"`)); !errors.Is(err, live.ErrTooLarge) {
		t.Errorf("Publish: %v", err)
	}
	if n := l.with("level=WARN"); n > 0 {
		t.Errorf("warned %d times", n)
	}
}

// OnAuth can be tried without a connection.
func TestOnAuthIsAskedBeforeTheConnectionIs(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		status int
	}{
		"refused": {live.Refuse(402, "pay first"), 402},
		"allowed": {nil, 500}, // a recorder cannot be hijacked
	} {
		srv := live.New(live.Options{
			Logger: slog.New(slog.DiscardHandler),
			OnAuth: func(context.Context, *http.Request) (any, error) { return nil, tt.err },
		})
		r := httptest.NewRequest("GET", "/live", nil)
		for k, v := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
		} {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		srv.Handler().ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		shut(t, srv)
	}
}

// A close with 1000 always has a reason: proxies close without one, and the client comes back.
func TestEndOnPurposeHasAReason(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(h *livetest.Host, s *live.Session)
		want string
	}{
		"Close":             {func(_ *livetest.Host, s *live.Session) { s.Close() }, "closed by the server"},
		"Disconnect":        {func(_ *livetest.Host, s *live.Session) { s.Disconnect(1000, "") }, "closed by the server"},
		"Disconnect, named": {func(_ *livetest.Host, s *live.Session) { s.Disconnect(1000, "game over") }, "game over"},
	} {
		for _, v1 := range []bool{false, true} {
			opts, sessions := livetest.Connected(live.Options{})
			h := livetest.Hosting{}.Start(t, opts)
			p := h.Connect(t, livetest.Dialing{V1: v1})
			tt.end(h, livetest.Receive(t, sessions))
			for {
				f, err := p.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if f.First == 0x88 {
					if got := f.Raw; got != "\x03\xe8"+tt.want {
						t.Errorf("%s, live.v1 %v: %q", name, v1, got)
					}
					break
				}
			}
		}
	}
}
