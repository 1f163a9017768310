package liveclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

func TestSubscribersHearWhatIsPublished(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	c := connect(t, h.Endpoint, liveclient.Options{})
	_, one := subscribe(t, c, "one")
	_, two := subscribe(t, c, "chat two")
	publish(t, h, "one", "1", "null", `"a"`)
	publish(t, h, "chat two", "2")
	publish(t, h, "three", "3")
	one.expect(t, "1", "null", `"a"`)
	two.expect(t, "2")
}

func TestATopicHasOneSubscription(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	c := connect(t, h.Endpoint, liveclient.Options{})
	s, _ := subscribe(t, c, "a")
	for _, err := range []error{second(c.Subscribe("a", nil)), second(c.Listen("a", nil))} {
		if !errors.Is(err, liveclient.ErrSubscribed) {
			t.Errorf("a second subscription: %v", err)
		}
	}
	s.Unsubscribe()
	s.Unsubscribe()
	if !errors.Is(s.Err(), liveclient.ErrUnsubscribed) {
		t.Errorf("the first has ended with %v", s.Err())
	}
	<-s.Done()
	_, got := subscribe(t, c, "a")
	publish(t, h, "a", "1")
	got.expect(t, "1")
}

func TestNothingIsHeardAfterUnsubscribe(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	c := connect(t, h.Endpoint, liveclient.Options{})
	var s *liveclient.Subscription
	calls := make(chan string, 10)
	ready := make(chan struct{})
	s, err := c.Subscribe("a", func(m liveclient.Message) {
		<-ready
		s.Unsubscribe()
		calls <- string(m.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	publish(t, h, "a", "1", "2", "3")
	close(ready)
	if got := livetest.Receive(t, calls); got != "1" {
		t.Errorf("heard %s", got)
	}
	if _, err := c.Request(background, "a", 1); err != nil { // all frames before it have come
		t.Fatal(err)
	}
	livetest.Eventually(t, "the server knows", func() bool { return h.Stats().Subscriptions == 0 })
	if len(calls) > 0 {
		t.Errorf("heard %s after Unsubscribe", <-calls)
	}
}

func TestLastAndSince(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 100}))
	publish(t, h, "a", numbers(1, 150)...)
	c := connect(t, h.Endpoint, liveclient.Options{})
	s, got := subscribe(t, c, "a", liveclient.Last(3))
	got.expect(t, "148", "149", "150")
	at := got.lastAt()
	if s.At() != at {
		t.Errorf("At is %q, want %q", s.At(), at)
	}
	publish(t, h, "a", numbers(151, 160)...)

	other := connect(t, h.Endpoint, liveclient.Options{})
	_, since := subscribe(t, other, "a", liveclient.Since(at), liveclient.Last(1))
	since.expect(t, numbers(151, 160)...)
	publish(t, h, "a", numbers(161, 300)...)
	since.expect(t, numbers(151, 300)...)

	old := connect(t, h.Endpoint, liveclient.Options{})
	_, late := subscribe(t, old, "a", liveclient.Since(at), liveclient.Last(2))
	late.expect(t, "gap not_recovered", "299", "300")
	third := connect(t, h.Endpoint, liveclient.Options{})
	_, none := subscribe(t, third, "a", liveclient.Since(at))
	none.expect(t, "gap not_recovered")
}

func TestManyMissedMessagesComeInOrder(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 2000}))
	c := connect(t, h.Endpoint, liveclient.Options{QueueSize: 100})
	_, first := subscribe(t, c, "a", liveclient.Last(1))
	publish(t, h, "a", "1")
	first.expect(t, "1")
	at := first.lastAt()
	publish(t, h, "a", numbers(2, 2000)...)
	other := connect(t, h.Endpoint, liveclient.Options{QueueSize: 100})
	var recovered atomic.Int32
	got := new(heard)
	_, err := other.Subscribe("a", func(m liveclient.Message) {
		if m.Recovered {
			recovered.Add(1)
		}
		got.message(m)
	}, liveclient.Since(at))
	if err != nil {
		t.Fatal(err)
	}
	got.expect(t, numbers(2, 2000)...)
	publish(t, h, "a", "2001")
	got.expect(t, numbers(2, 2001)...)
	if n := recovered.Load(); n != 1999 {
		t.Errorf("%d messages were marked as recovered, want 1999", n)
	}
}

func TestRefusedSubscriptionEnds(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnSubscribe = func(_ context.Context, _ *live.Session, topic string) error {
		if topic == "private" {
			return errors.New("no")
		}
		return nil
	}
	h := host(t, opts)
	told := make(chan error, 10)
	c := connect(t, h.Endpoint, liveclient.Options{OnError: func(err error) { told <- err }})
	s, err := c.Subscribe("private", nil)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Wait(deadline(t))
	if liveclient.Code(err) != liveclient.CodeForbidden || err != s.Err() {
		t.Errorf("Wait: %v; Err: %v", err, s.Err())
	}
	if err := livetest.Receive(t, told); liveclient.Code(err) != liveclient.CodeForbidden {
		t.Errorf("OnError: %v", err)
	}
	if _, err := c.Subscribe("private", nil); err != nil {
		t.Errorf("a new attempt: %v", err)
	}
}

func TestSubscriptionThatCannotBeDecidedIsAskedForAgain(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	opts := livetest.Permissive()
	opts.OnSubscribe = func(context.Context, *live.Session, string) error {
		if asked.Add(1) == 1 {
			return live.ErrUnavailable
		}
		return nil
	}
	h := host(t, opts)
	told := make(chan error, 10)
	c := connect(t, h.Endpoint, liveclient.Options{OnError: func(err error) { told <- err }})
	_, got := subscribe(t, c, "a")
	if err := livetest.Receive(t, told); liveclient.Code(err) != liveclient.CodeUnavailable {
		t.Errorf("OnError: %v", err)
	}
	publish(t, h, "a", "1")
	got.expect(t, "1")
}

func TestManySubscriptionsAreRenewedTogether(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.MaxTopics, opts.InboundRate = 3000, -1
	h := host(t, opts)
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{})
	all := make(map[string]*heard)
	for i := range 1200 {
		topic := fmt.Sprint(i) // a thousand fit in a frame
		if i >= 1100 {
			topic = fmt.Sprint(strings.Repeat("long", 50), i) // some hundreds do
		}
		all[topic] = new(heard)
		if _, err := c.Subscribe(topic, all[topic].message, liveclient.OnGap(func(liveclient.Gap) {})); err != nil {
			t.Fatal(err)
		}
	}
	livetest.Eventually(t, "all subscriptions", func() bool { return h.Stats().Subscriptions == 1200 })
	received := h.Stats().Received
	relay.cut()
	livetest.Eventually(t, "the second session", func() bool { return h.Stats().Accepted == 2 && h.Stats().Subscriptions == 1200 })
	if n := h.Stats().Received - received; n > 20 {
		t.Errorf("%d frames renew 1,200 subscriptions", n)
	}
	for topic, got := range all {
		publish(t, h, topic, "1")
		got.expect(t, "1")
	}
}

func TestStateComesBeforeWhatFollows(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	large := strings.Repeat("ü", 60_000)
	o := live.TopicOptions{History: 10, Snapshot: func(context.Context, string) (any, error) {
		return map[string]any{"n": n.Load(), "text": large}, nil
	}}
	h := host(t, with(o))
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{})
	got := new(heard)
	onState := liveclient.OnState(func(raw json.RawMessage, at string) {
		var state struct {
			N    int64
			Text string
		}
		if err := json.Unmarshal(raw, &state); err != nil || state.Text != large || at == "" {
			t.Errorf("state of %d bytes at %q: %v", len(raw), at, err)
		}
		got.note(fmt.Sprint("state ", state.N))
	})
	s, err := c.Subscribe("rows", got.message, onState, liveclient.OnGap(got.gap))
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	got.expect(t, "state 0")
	publish(t, h, "rows", "1", "2")
	got.expect(t, "state 0", "1", "2")

	relay.block()
	publish(t, h, "rows", "3")
	relay.unblock()
	got.expect(t, "state 0", "1", "2", "3") // the history has it

	relay.block()
	n.Store(20)
	publish(t, h, "rows", numbers(4, 20)...)
	relay.unblock()
	livetest.Eventually(t, "the state", func() bool { return slices.Contains(got.all(), "state 20") })
	if all := got.all(); all[4] != "state 20" || slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, "gap") }) {
		t.Errorf("heard %s", brief(all))
	}
}

// A subscriber without OnState cannot take the state, so it is told that there is a gap.
func TestStateWithoutOnStateIsAGap(t *testing.T) {
	t.Parallel()
	o := live.TopicOptions{History: 5, Snapshot: func(context.Context, string) (any, error) { return "state", nil }}
	h := host(t, with(o))
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{})
	_, got := subscribe(t, c, "rows")
	publish(t, h, "rows", "1")
	got.expect(t, "1")
	relay.block()
	publish(t, h, "rows", numbers(2, 20)...)
	relay.unblock()
	livetest.Eventually(t, "a gap", func() bool { return len(got.all()) > 1 })
	if all := got.all(); all[1] != "gap not_recovered" {
		t.Errorf("heard %s", brief(all))
	}
}

func TestKeyedTopic(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 100, Keyed: true}))
	set := func(key, data string) {
		t.Helper()
		if err := h.Publish("cursors", []byte(data), live.Key(key)); err != nil {
			t.Fatal(err)
		}
	}
	set("ann", "1")
	set("bob", "2")
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{})
	s, got := subscribe(t, c, "cursors")
	livetest.Eventually(t, "both keys", func() bool { return len(s.Keys()) == 2 })
	set("ann", "3")
	if err := h.Remove("cursors", "bob"); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "the removal", func() bool { return slices.Contains(got.all(), "bob removed") })
	expectKeys(t, s, map[string]string{"ann": "3"})

	relay.block()
	set("carl", "4")
	if err := h.Remove("cursors", "ann"); err != nil {
		t.Fatal(err)
	}
	relay.unblock()
	livetest.Eventually(t, "what was missed", func() bool { _, ok := s.Keys()["carl"]; return ok && len(s.Keys()) == 1 })
	for _, text := range got.all() {
		if strings.HasPrefix(text, "gap") {
			t.Errorf("heard %s", brief(got.all()))
		}
	}
	s.Unsubscribe()
	if _, err := c.Publish(background, "cursors", 1); liveclient.Code(err) != liveclient.CodeForbidden {
		t.Errorf("a publication without a key: %v", err)
	}
}

// When the server's history has begun anew, keys that are gone do not stay.
func TestKeyedTopicThatBeganAnewForgetsItsKeys(t *testing.T) {
	t.Parallel()
	first := host(t, with(live.TopicOptions{History: 100, Keyed: true}))
	second := host(t, with(live.TopicOptions{History: 100, Keyed: true}))
	for key, h := range map[string]*livetest.Host{"old": first, "new": second} {
		if err := h.Publish("cursors", []byte("1"), live.Key(key)); err != nil {
			t.Fatal(err)
		}
	}
	relay := newRoad(t, first.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{})
	s, got := subscribe(t, c, "cursors")
	got.expect(t, "old=1")
	relay.leadTo(second.Endpoint)
	relay.cut()
	got.expect(t, "old=1", "old removed", "new=1")
	expectKeys(t, s, map[string]string{"new": "1"})
}

func expectKeys(t testing.TB, s *liveclient.Subscription, want map[string]string) {
	t.Helper()
	got := make(map[string]string)
	for key, data := range s.Keys() {
		got[key] = string(data)
	}
	if !maps.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
}

func TestListenHearsWhatTheApplicationSubscribes(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnConnect = func(_ context.Context, s *live.Session) error { return s.Subscribe("chat") }
	h := host(t, opts)
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{})
	got := new(heard)
	s, err := c.Listen("chat", got.message)
	if err != nil || s.Wait(background) != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "the subscription", func() bool { return h.Stats().Subscriptions == 1 })
	publish(t, h, "chat", "1")
	got.expect(t, "1")
	relay.cut()
	livetest.Eventually(t, "the next session", func() bool { return h.Stats().Accepted == 2 && h.Stats().Subscriptions == 1 })
	publish(t, h, "chat", "2")
	got.expect(t, "1", "2")
	s.Unsubscribe()
	if st := h.Stats(); st.Subscriptions != 1 {
		t.Error("Unsubscribe of Listen has ended the application's subscription")
	}
}
