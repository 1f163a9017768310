package inspector_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

// everything allows all that Options can allow.
var everything = inspector.Options{
	Insecure: true,
	Allow:    inspector.Allow{Payloads: true, Publish: true, Close: true, SlowReader: true},
	Logger:   livetest.Quiet,
}

// page is the inspector as its page uses it.
type page struct {
	t       *testing.T
	handler http.Handler
}

func open(t *testing.T, server *live.Server, opts inspector.Options) page {
	opts.Logger = livetest.Quiet
	return page{t, inspector.New(server, opts)}
}

// serve returns the answer to a request of the page. change may be nil.
func (p page) serve(method, name, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	p.t.Helper()
	r := httptest.NewRequest(method, "http://localhost/inspect/"+name, strings.NewReader(body))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	return w
}

// get decodes the answer to a look.
func get[T any](p page, name string, parameters ...string) (answer T) {
	p.t.Helper()
	q := make(url.Values)
	for i := 0; i < len(parameters); i += 2 {
		q.Set(parameters[i], parameters[i+1])
	}
	w := p.serve(http.MethodGet, name+"?"+q.Encode(), "", nil)
	if w.Code != http.StatusOK {
		p.t.Fatalf("%s: %d %s", name, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		p.t.Fatalf("%s: %v in %s", name, err, w.Body)
	}
	return answer
}

// do makes a request that must succeed.
func (p page) do(name string, body any) string {
	p.t.Helper()
	return p.expect(http.StatusOK, name, body)
}

// expect makes a request, and returns the text of the answer.
func (p page) expect(status int, name string, body any) string {
	p.t.Helper()
	data, _ := json.Marshal(body)
	w := p.serve(http.MethodPost, name, string(data), nil)
	if w.Code != status {
		p.t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, status)
	}
	return w.Body.String()
}

type object = map[string]any

// table is the answer to a look at a table.
type table struct {
	Total, Matched, Page, Pages int
	Rows                        []row
	Kinds                       map[string]int
}

// row has the members of all tables that the tests read.
type row struct {
	ID, User, Topic, Session, Kind, Meaning, Reason, Error, Position string
	Bytes, Messages, Topics, Subscribers, Present, Held, Code        int
	Published                                                        uint64
	Rate, Deliveries                                                 float64
	Span, Since, Heard                                               int64
	CatchingUp, Listeners                                            int
}

// named returns options whose clients say in the query who they are.
func named(opts live.Options) (live.Options, chan *live.Session) {
	opts, sessions := livetest.Connected(opts)
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		if r.URL.Query().Has("refuse") {
			return nil, errors.New("refused")
		}
		return r.URL.Query().Get("user"), nil
	}
	return opts, sessions
}

// pubSub connects servers in this process. It delivers each message to all subscribers at once.
type pubSub struct {
	mu       sync.Mutex
	handlers map[string]map[*subscription]func([]byte)
}

type subscription struct {
	of      *pubSub
	subject string
}

func (p *pubSub) Publish(subject string, data []byte) error {
	p.mu.Lock()
	var all []func([]byte)
	for _, handler := range p.handlers[subject] {
		all = append(all, handler)
	}
	p.mu.Unlock()
	for _, handler := range all {
		handler(data)
	}
	return nil
}

func (p *pubSub) Subscribe(subject string, handler func([]byte)) (live.Subscription, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handlers == nil {
		p.handlers = make(map[string]map[*subscription]func([]byte))
	}
	if p.handlers[subject] == nil {
		p.handlers[subject] = make(map[*subscription]func([]byte))
	}
	s := &subscription{p, subject}
	p.handlers[subject][s] = handler
	return s, nil
}

func (s *subscription) Unsubscribe() error {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	delete(s.of.handlers[s.subject], s)
	return nil
}

func (p *pubSub) Close() error { return nil }
