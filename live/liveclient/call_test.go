package liveclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

func TestPublishReturnsThePosition(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	c := connect(t, h.Endpoint, liveclient.Options{})
	_, got := subscribe(t, c, "chat")
	at, err := c.Publish(background, "chat", map[string]int{"n": 1})
	if err != nil {
		t.Fatal(err)
	}
	got.expect(t, `{"n":1}`)
	if at == "" || at != got.lastAt() {
		t.Errorf("published at %q, heard at %q", at, got.lastAt())
	}
	if at, err := c.Publish(background, "no history", nil); at != "" || err != nil {
		t.Errorf("without history: %q, %v", at, err)
	}
}

func TestPublicationsWithOneIDAreMadeOnce(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	c := connect(t, h.Endpoint, liveclient.Options{})
	first, err := c.Publish(background, "chat", 1, liveclient.ID("mine"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Publish(background, "chat", 1, liveclient.ID("mine"))
	if err != nil || first != second {
		t.Errorf("published at %q and at %q, %v", first, second, err)
	}
	other, err := c.Publish(background, "chat", 1)
	if err != nil || other == first {
		t.Errorf("without an ID at %q, %v", other, err)
	}
}

func TestLargeAnswersComeWhole(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	c := connect(t, h.Endpoint, liveclient.Options{})
	long := strings.Repeat("ä", 60_000)
	got, err := liveclient.Request[string](background, c, "any", long)
	if err != nil || got != long {
		t.Fatalf("%d bytes of the answer have come, want %d; %v", len(got), len(long), err)
	}
	h.PublishNumbers(t, "chat", 1, 100, 5_000)
	history, err := c.History(background, "chat", 1000)
	if err != nil || len(history) != 100 {
		t.Fatalf("%d publications have come, want 100; %v", len(history), err)
	}
	for i, m := range history {
		if livetest.NumberOf(m.Data) != i+1 || m.Topic != "chat" || m.At == "" {
			t.Fatalf("publication %d is %.40s of %q at %q", i+1, m.Data, m.Topic, m.At)
		}
	}
}

func TestTypedCalls(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	wrong := make(chan error, 1)
	c := connect(t, h.Endpoint, liveclient.Options{OnError: func(err error) { wrong <- err }})
	type item struct{ Text string }
	got := make(chan item, 10)
	s, err := liveclient.Subscribe(c, "chat", func(i item, m liveclient.Message) { got <- i })
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	publish(t, h, "chat", `"no item"`, `{"Text":"hello"}`)
	if i := livetest.Receive(t, got); i.Text != "hello" {
		t.Errorf("got %v", i)
	}
	if err := livetest.Receive(t, wrong); !strings.Contains(err.Error(), "does not decode") {
		t.Errorf("OnError: %v", err)
	}
	if _, err := liveclient.History[item](background, c, "chat", 2); err == nil {
		t.Error("a history that does not decode is no error")
	}
	if items, err := liveclient.History[item](background, c, "chat", 1); err != nil || len(items) != 1 || items[0].Text != "hello" {
		t.Errorf("history %v, %v", items, err)
	}
}

// A subscription may have no callback for messages, for example if it is only there to be present.
func TestTypedSubscriptionNeedsNoCallback(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	c := connect(t, h.Endpoint, liveclient.Options{})
	s, err := liveclient.Subscribe[int](c, "chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	before := s.At()
	publish(t, h, "chat", "1")
	livetest.Eventually(t, "the message", func() bool { return s.At() != before && liveclient.IsIdle(s) })
	s.Unsubscribe()
}

func TestRefusedCallsTellTheCode(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnPublish = func(context.Context, *live.Session, string, []byte) ([]byte, error) { return nil, errors.New("no") }
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) {
		return nil, &live.ClientError{Code: "sold_out", Message: "come tomorrow"}
	}
	opts.ReadLimit = 10_000
	h := host(t, opts)
	c := connect(t, h.Endpoint, liveclient.Options{})
	_, err := c.Publish(background, "chat", 1)
	if liveclient.Code(err) != liveclient.CodeForbidden || !liveclient.Sent(err) {
		t.Errorf("Publish: %v", err)
	}
	_, err = c.Request(background, "chat", 1)
	if liveclient.Code(err) != "sold_out" || !strings.Contains(err.Error(), "come tomorrow") {
		t.Errorf("Request: %v", err)
	}
	_, err = c.History(background, "none", 1)
	if liveclient.Code(err) != liveclient.CodeNoHistory {
		t.Errorf("History: %v", err)
	}
	_, err = c.Publish(background, "chat", strings.Repeat("x", 10_000))
	if !errors.Is(err, liveclient.ErrTooBig) || liveclient.Sent(err) {
		t.Errorf("a publication that is too big: %v", err)
	}
	for name, err := range map[string]error{
		"topic": second(c.Publish(background, "", 1)),
		"UTF-8": second(c.Publish(background, "\xff", 1)),
	} {
		if !errors.Is(err, liveclient.ErrInvalidTopic) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"bytes": second(c.Publish(background, "chat", []byte("{"))),
		"value": second(c.Publish(background, "chat", func() {})),
		"UTF-8": second(c.Publish(background, "chat", []byte("\"\xff\""))),
	} {
		if !errors.Is(err, liveclient.ErrInvalidData) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c.Status().State != liveclient.Open {
		t.Errorf("the client is %v", c.Status().State)
	}
}

func second[T any](_ T, err error) error { return err }

func TestSendReachesTheApplication(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnMessage = livetest.Echo
	h := host(t, opts)
	c := connect(t, h.Endpoint, liveclient.Options{})
	got := new(heard)
	if _, err := c.Listen("echo", got.message); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := c.Send(background, "echo", i); err != nil {
			t.Fatal(err)
		}
	}
	got.expect(t, "0", "1", "2")
}

// A call that is given up does not hold up those after it, and is not sent if it was not sent yet.
func TestCallsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	opts := livetest.Permissive()
	opts.OnRequest = func(ctx context.Context, _ *live.Session, topic string, _ []byte) (any, error) {
		if topic == "slow" {
			<-release
		}
		return 1, nil
	}
	h := host(t, opts)
	c := connect(t, h.Endpoint, liveclient.Options{CallTimeout: 100 * time.Millisecond})
	ctx, cancel := context.WithCancel(background)
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := c.Request(ctx, "slow", nil)
	if !errors.Is(err, context.Canceled) || !liveclient.Sent(err) {
		t.Errorf("a call whose context ended: %v", err)
	}
	_, err = c.Request(background, "slow", nil)
	if !errors.Is(err, liveclient.ErrTimeout) || !liveclient.Sent(err) {
		t.Errorf("a call without an answer: %v", err)
	}
	if _, err = c.Request(ctx, "fast", nil); !errors.Is(err, context.Canceled) || liveclient.Sent(err) {
		t.Errorf("a call whose context had ended before: %v", err)
	}
	close(release)
	if _, err = c.Request(deadline(t), "fast", nil); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// deadline returns a context that ends when a test has waited for too long.
func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(background, livetest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func TestCallsFromManyGoroutines(t *testing.T) {
	t.Parallel()
	opts := with(live.TopicOptions{History: 1000})
	h := host(t, opts)
	c := connect(t, h.Endpoint, liveclient.Options{MaxUnsent: 500})
	_, got := subscribe(t, c, "a")
	var failed atomic.Int32
	livetest.Each(10, func(i int) {
		for j := range 20 {
			topic := fmt.Sprint("other ", i, " ", j)
			if _, err := c.Publish(background, "a", j); err != nil {
				failed.Add(1)
			}
			s, err := c.Subscribe(topic, nil)
			if err != nil || s.Wait(deadline(t)) != nil {
				failed.Add(1)
			}
			s.Unsubscribe()
			if raw, err := c.Request(background, "a", j); err != nil || string(raw) != fmt.Sprint(j) {
				failed.Add(1)
			}
		}
	})
	livetest.Eventually(t, "all publications", func() bool { return got.count() == 200 })
	if failed.Load() > 0 {
		t.Errorf("%d calls have failed", failed.Load())
	}
	livetest.Eventually(t, "one subscription left", func() bool { return h.Stats().Subscriptions == 1 })
}

func TestPingMeasures(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	c := connect(t, h.Endpoint, liveclient.Options{})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if took, err := c.Ping(deadline(t)); took <= 0 || err != nil {
				t.Errorf("Ping: %v, %v", took, err)
			}
		})
	}
	wg.Wait()
	c.Close()
	if _, err := c.Ping(background); !errors.Is(err, liveclient.ErrClosed) {
		t.Errorf("Ping after Close: %v", err)
	}
}

// Data that nests too deeply would make a frame that the other end does not read: the server would end the client for good. As deep as it may
// be, it arrives in each kind of frame.
func TestDeepData(t *testing.T) {
	t.Parallel()
	nested := func(depth int) []byte { return []byte(strings.Repeat("[", depth) + strings.Repeat("]", depth)) }
	opts := with(live.TopicOptions{History: 10})
	opts.OnRequest = func(_ context.Context, _ *live.Session, _ string, data []byte) (any, error) {
		return json.RawMessage(data), nil
	}
	h := host(t, opts)
	c := connect(t, h.Endpoint, liveclient.Options{})
	const most = 9990
	for name, data := range map[string]any{
		"too deep":                  nested(most + 1),
		"deeper than encoding/json": nested(20_000),
		"deep in a value":           map[string]any{"a": json.RawMessage(nested(most))},
		"not UTF-8 in a value":      struct{ A json.RawMessage }{json.RawMessage("\"\xff\"")},
	} {
		if _, err := c.Publish(deadline(t), "a", data); !errors.Is(err, liveclient.ErrInvalidData) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := h.Publish("a", nested(most+1)); !errors.Is(err, live.ErrInvalidData) {
		t.Errorf("Server.Publish: %v", err)
	}
	got := new(heard)
	s, err := c.Subscribe("a", got.message)
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	if _, err := c.Publish(deadline(t), "a", nested(most)); err != nil {
		t.Fatal(err)
	}
	got.expect(t, string(nested(most)))
	if messages, err := c.History(deadline(t), "a", 1); err != nil || len(messages) != 1 {
		t.Errorf("History: %d messages, %v", len(messages), err)
	}
	if raw, err := c.Request(deadline(t), "a", nested(most)); err != nil || len(raw) != 2*most {
		t.Errorf("Request: %d bytes, %v", len(raw), err)
	}
	s.Unsubscribe()
	_, again := subscribe(t, c, "a", liveclient.Last(1))
	again.expect(t, string(nested(most)))
	if st := c.Status(); st.Attempt > 1 || st.State != liveclient.Open {
		t.Errorf("%+v", st)
	}
}
