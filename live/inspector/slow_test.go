package inspector_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestSlowReaderFallsBehindAsThePersonWhoAsks(t *testing.T) {
	before := runtime.NumGoroutine()
	type key struct{}
	values := make(chan any, 1)
	server := live.New(live.Options{
		Logger: livetest.Quiet,
		Topics: livetest.Keeping("", live.TopicOptions{History: 100_000}),
		OnAuth: func(_ context.Context, r *http.Request) (any, error) {
			c, err := r.Cookie("session")
			if err != nil || c.Value != "ann's" || r.Header.Get("Origin") != "" {
				return nil, errors.New("nobody")
			}
			values <- r.Context().Value(key{})
			return "ann", nil
		},
	})
	p := open(t, server, everything)
	as := func(cookie string) func(*http.Request) {
		return func(r *http.Request) {
			r.AddCookie(&http.Cookie{Name: "session", Value: cookie})
			*r = *r.WithContext(context.WithValue(r.Context(), key{}, "a middleware's value"))
		}
	}
	if w := p.serve("POST", "slow", `{"topic":"t"}`, as("eve's")); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "401") {
		t.Errorf("whom OnAuth refuses: %d %s", w.Code, w.Body)
	}
	if w := p.serve("POST", "slow", `{"topic":"t"}`, as("ann's")); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if v := livetest.Receive(t, values); v != "a middleware's value" {
		t.Errorf("OnAuth got the value %v", v)
	}
	rows := get[table](p, "sessions").Rows
	if len(rows) != 1 || rows[0].User != "ann" || rows[0].Topics != 1 {
		t.Fatalf("the sessions are %+v", rows)
	}
	livetest.Eventually(t, "it falls behind", func() bool {
		publish(t, server, "t", 100)
		return get[table](p, "sessions").Rows[0].CatchingUp == 1
	})
	p.do("close", object{"id": rows[0].ID, "code": 1000})
	livetest.Eventually(t, "the end of the slow reader", func() bool { return server.Stats().Sessions == 0 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // else Shutdown waits until the slow reader has read what waits for it
	server.Shutdown(ctx)
	livetest.Eventually(t, "the end of its goroutines", func() bool { return runtime.NumGoroutine() <= before })
}

func TestOnlySoManySlowReadersRun(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{})
	p := open(t, server, everything)
	p.expect(http.StatusBadRequest, "slow", object{"topic": ""})
	livetest.Eventually(t, "the end of the one that was refused", func() bool { return server.Stats().Sessions == 0 })
	for range 5 {
		p.do("slow", object{"topic": "t"})
	}
	p.expect(http.StatusTooManyRequests, "slow", object{"topic": "t"})
	for s := range server.Sessions() {
		s.Close()
	}
	livetest.Eventually(t, "there is space for another", func() bool {
		return p.serve("POST", "slow", `{"topic":"t"}`, nil).Code == http.StatusOK
	})
	for s := range server.Sessions() {
		s.Close()
	}
}
