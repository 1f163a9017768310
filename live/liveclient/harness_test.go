package liveclient_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

var background = context.Background()

// connect connects a client. Its connection is closed when the test ends.
func connect(t testing.TB, at livetest.Endpoint, o liveclient.Options) *liveclient.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, livetest.Patience)
	defer cancel()
	c, err := liveclient.Connect(ctx, at.URL, quick(t, at, o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// quick returns options for tests: with short waiting times, and the TLS of the endpoint. Errors fail the test.
func quick(t testing.TB, at livetest.Endpoint, o liveclient.Options) liveclient.Options {
	if o.MinBackoff == 0 {
		o.MinBackoff, o.MaxBackoff = 5*time.Millisecond, 50*time.Millisecond
	}
	if o.TLS == nil {
		o.TLS = at.TLS
	}
	if o.OnError == nil {
		o.OnError = func(err error) { t.Errorf("OnError: %v", err) }
	}
	if o.Logger == nil {
		o.Logger = livetest.Quiet
	}
	return o
}

// heard is what the callbacks of a subscription were told, in order, as short texts.
type heard struct {
	mu   sync.Mutex
	said []string
	ats  []string
}

func (h *heard) note(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, text)
}

func (h *heard) message(m liveclient.Message) {
	text := string(m.Data)
	switch {
	case m.Removed:
		text = m.Key + " removed"
	case m.Key != "":
		text = m.Key + "=" + text
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, text)
	h.ats = append(h.ats, m.At)
}

func (h *heard) gap(g liveclient.Gap) { h.note("gap " + string(g.Reason)) }

func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.said)
}

func (h *heard) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.said)
}

func (h *heard) lastAt() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.ats) == 0 {
		return ""
	}
	return h.ats[len(h.ats)-1]
}

// expect waits until the callbacks have been told as much as want says, and compares.
func (h *heard) expect(t testing.TB, want ...string) {
	t.Helper()
	deadline := time.Now().Add(livetest.Patience)
	for h.count() < len(want) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := h.all(); !slices.Equal(got, want) {
		t.Fatalf("heard %s, want %s", brief(got), brief(want))
	}
}

func brief(list []string) string {
	text := fmt.Sprintf("%d: %q", len(list), list)
	if len(text) > 2000 {
		text = text[:1000] + " … " + text[len(text)-1000:]
	}
	return text
}

// subscribe subscribes, and waits until the server has accepted it.
func subscribe(t testing.TB, c *liveclient.Client, topic string, opts ...liveclient.SubscribeOption) (*liveclient.Subscription, *heard) {
	t.Helper()
	h := new(heard)
	s, err := c.Subscribe(topic, h.message, append([]liveclient.SubscribeOption{liveclient.OnGap(h.gap)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	return s, h
}

func await(t testing.TB, s *liveclient.Subscription) {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, livetest.Patience)
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func publish(t testing.TB, h *livetest.Host, topic string, data ...string) {
	t.Helper()
	for _, one := range data {
		if err := h.Publish(topic, []byte(one)); err != nil {
			t.Fatal(err)
		}
	}
}

func numbers(from, to int) []string { return livetest.Numbers(from, to) }

func host(t testing.TB, opts live.Options) *livetest.Host {
	t.Helper()
	return livetest.Hosting{}.Start(t, opts)
}

// with returns permissive options whose topics all have the options o.
func with(o live.TopicOptions) live.Options {
	opts := livetest.Permissive()
	opts.QueueSize = livetest.PatientQueue
	opts.Topics = livetest.Keeping("", o)
	return opts
}

// noneLeft checks, when the test ends, that as many goroutines run as do now.
func noneLeft(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(livetest.Patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d at the start:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
		}
	})
}
