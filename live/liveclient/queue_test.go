package liveclient_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

// gate is a callback that waits until the test opens it.
type gate struct {
	heard
	open chan struct{}
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) message(m liveclient.Message) {
	<-g.open
	g.heard.message(m)
}

// A callback that is stuck does not keep the client from answering pings, and misses nothing of a topic with history. Other
// topics go on.
func TestStuckCallbackMissesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		opts := with(live.TopicOptions{History: 10_000})
		opts.PingInterval, opts.PingTimeout = time.Second, 3*time.Second
		b := newBubble(t, opts)
		c := b.connect(t, liveclient.Options{QueueSize: 50})
		g := newGate()
		s, err := c.Subscribe("stuck", g.message, liveclient.OnGap(g.gap))
		if err != nil {
			t.Fatal(err)
		}
		await(t, s)
		_, other := subscribe(t, c, "other")
		for _, n := range numbers(1, 1000) {
			b.publish(t, "stuck", n)
		}
		b.publish(t, "other", "1")
		time.Sleep(3 * time.Second)
		other.expect(t, "1")
		time.Sleep(time.Minute)
		if st := b.Live.Stats(); st.Sessions != 1 || st.Accepted != 1 {
			t.Errorf("%+v", st)
		}
		close(g.open)
		g.expect(t, numbers(1, 1000)...)
		b.publish(t, "stuck", "1001")
		g.expect(t, numbers(1, 1001)...)
		if !strings.HasSuffix(s.At(), ".1001") {
			t.Errorf("At is %q", s.At())
		}
	})
}

// A callback that is slower than the publisher makes the server wait, and misses nothing.
func TestSlowCallbackHasBackPressure(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 10_000}))
	c := connect(t, h.Endpoint, liveclient.Options{QueueSize: 20})
	got := new(heard)
	var asked atomic.Int64
	s, err := c.Subscribe("a", func(m liveclient.Message) {
		if n := got.count(); n%100 == 0 {
			time.Sleep(time.Millisecond)
			asked.Add(1)
		}
		got.message(m)
	}, liveclient.OnGap(got.gap))
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	received := h.Stats().Received
	publish(t, h, "a", numbers(1, 3000)...)
	got.expect(t, numbers(1, 3000)...)
	if n := h.Stats().Received - received; n > 3 {
		t.Errorf("the client has asked for history %d times: it has not waited", n)
	}
}

// On a topic without history the loss is told.
func TestStuckCallbackOfATopicWithoutHistoryIsToldOfAGap(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{}))
	c := connect(t, h.Endpoint, liveclient.Options{QueueSize: 10})
	g := newGate()
	s, err := c.Subscribe("a", g.message, liveclient.OnGap(g.gap))
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	publish(t, h, "a", numbers(1, 100)...)
	_, other := subscribe(t, c, "b")
	publish(t, h, "b", "1")
	other.expect(t, "1") // the client has read on
	close(g.open)
	livetest.Eventually(t, "the gap", func() bool { return slices.Contains(g.all(), "gap lost") })
	publish(t, h, "a", "101")
	livetest.Eventually(t, "what follows", func() bool { return slices.Contains(g.all(), "101") })
	all := g.all()
	n := slices.Index(all, "gap lost")
	if want := append(numbers(1, n), "gap lost", "101"); !slices.Equal(all, want) || n > 12 {
		t.Errorf("heard %s", brief(all))
	}
}

// A stuck callback of a keyed topic gets the newest value of each key, though there are more keys than its queue has space for.
func TestStuckCallbackOfAKeyedTopicGetsTheNewestValues(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 10_000, Keyed: true}))
	c := connect(t, h.Endpoint, liveclient.Options{QueueSize: 10})
	g := newGate()
	s, err := c.Subscribe("cursors", g.message, liveclient.OnGap(g.gap))
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	const keys, rounds = 50, 20
	want := make(map[string]string)
	for round := range rounds {
		for key := range keys {
			name, data := fmt.Sprint("k", key), fmt.Sprint(round)
			if err := h.Publish("cursors", []byte(data), live.Key(name)); err != nil {
				t.Fatal(err)
			}
			want[name] = data
		}
	}
	_, other := subscribe(t, c, "b")
	if err := h.Publish("b", []byte("1"), live.Key("k")); err != nil {
		t.Fatal(err)
	}
	other.expect(t, "k=1")
	close(g.open)
	livetest.Eventually(t, "the newest values", func() bool {
		return s.Keys()["k49"] != nil && string(s.Keys()["k49"]) == "19"
	})
	expectKeys(t, s, want)
	if n := g.count(); n > keys*rounds/2 {
		t.Errorf("%d of %d values were told, though newer ones had come", n, keys*rounds)
	}
}

// Callbacks may call any method, also while their queue is full and an answer is needed.
func TestCallbacksMayCallAnyMethod(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 10_000, Presence: live.PresenceVisible}))
	c := connect(t, h.Endpoint, liveclient.Options{QueueSize: 5})
	errs := make(chan error, 100)
	done := make(chan struct{})
	got := new(heard)
	var s *liveclient.Subscription
	ready := make(chan struct{})
	s, err := c.Subscribe("a", func(m liveclient.Message) {
		<-ready
		got.message(m)
		if got.count() < 30 {
			_, err := c.Publish(background, "b", m.Data)
			errs <- err
			return
		}
		_, err := c.Request(background, "b", 1)
		_, err2 := c.History(background, "b", 1)
		_, err3 := c.Presence(background, "b")
		_, err4 := c.Ping(background)
		inner, err5 := c.Subscribe("c", nil)
		errs <- errors.Join(err, err2, err3, err4, err5, inner.Wait(background))
		s.Keys()
		s.Presence()
		s.Unsubscribe()
		c.Status()
		c.Close()
		close(done)
	}, liveclient.OnGap(got.gap))
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	begun := time.Now()
	publish(t, h, "a", numbers(1, 500)...)
	close(ready)
	livetest.Receive(t, done)
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("30 calls took %v", took)
	}
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	got.expect(t, numbers(1, 30)...)
}

// The client does not wait for a callback that itself waits for an answer.
func TestCallbackThatWaitsForAnAnswerIsNotWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBubble(t, with(live.TopicOptions{History: 10_000}))
		c := b.connect(t, liveclient.Options{QueueSize: 5})
		got := new(heard)
		s, err := c.Subscribe("a", func(m liveclient.Message) {
			if _, err := c.Publish(background, "b", m.Data); err != nil {
				t.Error(err)
			}
			got.message(m)
		}, liveclient.OnGap(got.gap))
		if err != nil {
			t.Fatal(err)
		}
		await(t, s)
		begun := time.Now()
		for _, n := range numbers(1, 300) {
			b.publish(t, "a", n)
		}
		got.expect(t, numbers(1, 300)...)
		if took := time.Since(begun); took > time.Second {
			t.Errorf("300 answers took %v", took)
		}
	})
}

// A new connection does not pile up what a stuck callback has not had yet.
func TestStuckCallbackIsBoundedAcrossConnections(t *testing.T) {
	t.Parallel()
	h := host(t, with(live.TopicOptions{History: 10_000}))
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{QueueSize: 20})
	g := newGate()
	s, err := c.Subscribe("a", g.message, liveclient.OnGap(g.gap))
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	publish(t, h, "a", numbers(1, 100)...)
	for i := range 2 {
		relay.cut()
		livetest.Eventually(t, "a new session", func() bool { return h.Stats().Accepted == uint64(i+2) && h.Stats().Subscriptions == 1 })
		publish(t, h, "a", numbers(100*i+101, 100*i+200)...)
		if n := liveclient.CountQueued(s); n > 20 {
			t.Errorf("%d messages wait", n)
		}
	}
	close(g.open)
	g.expect(t, numbers(1, 300)...)
}
