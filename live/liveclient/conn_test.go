package liveclient_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

// A server that sends nothing for its ping interval and ten seconds is given up, and the client goes on where it was.
func TestSilentServerIsGivenUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBubble(t, with(live.TopicOptions{History: 100}))
		dial, conns := b.faulty()
		var seen statuses
		c := b.connect(t, liveclient.Options{Dial: dial, OnStatus: seen.note})
		_, got := subscribe(t, c, "a")
		time.Sleep(10 * time.Minute) // pings come
		if n := len(seen.of(liveclient.Waiting)); n != 0 {
			t.Fatalf("the connection was lost %d times", n)
		}
		(<-conns).set(true, 0)
		begun := time.Now()
		b.publish(t, "a", "1")
		for len(seen.of(liveclient.Waiting)) == 0 && time.Since(begun) < time.Hour {
			time.Sleep(time.Second)
		}
		got.expect(t, "1")
		waiting := seen.first(t, liveclient.Waiting)
		if took := time.Since(begun); took < 10*time.Second || took > 36*time.Second {
			t.Errorf("given up after %v", took)
		}
		if !errors.Is(waiting.Err, liveclient.ErrSilent) {
			t.Errorf("lost with %v", waiting.Err)
		}
	})
}

// A large frame on a slow connection is a sign of life, before it is complete.
func TestSlowConnectionIsNotSilent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		opts := with(live.TopicOptions{History: 100})
		opts.WriteTimeout, opts.PingTimeout = time.Hour, time.Hour // the client is tested, not the server
		b := newBubble(t, opts)
		dial, conns := b.faulty()
		var seen statuses
		c := b.connect(t, liveclient.Options{Dial: dial, OnStatus: seen.note})
		_, got := subscribe(t, c, "a")
		(<-conns).set(false, time.Second) // 100 bytes a second
		want := `"` + strings.Repeat("x", 10_000) + `"`
		b.publish(t, "a", want)
		time.Sleep(3 * time.Minute)
		got.expect(t, want)
		if n := len(seen.of(liveclient.Waiting)); n != 0 {
			t.Errorf("the connection was lost %d times: %v", n, seen.of(liveclient.Waiting)[0].Err)
		}
	})
}

// A large publication may take as long as a slow connection needs for it.
func TestLargePublicationOnASlowConnectionArrives(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBubble(t, with(live.TopicOptions{History: 100}))
		dial, conns := b.faulty()
		c := b.connect(t, liveclient.Options{Dial: dial, CallTimeout: time.Hour})
		(<-conns).writeSlowly(400 * time.Millisecond) // 10 KB a second; a server wants 8
		begun := time.Now()
		if _, err := c.Publish(t.Context(), "a", strings.Repeat("x", 1_000_000)); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < 90*time.Second {
			t.Errorf("it took only %v", took)
		}
		if n := b.Live.Stats().Accepted; n != 1 {
			t.Errorf("there were %d connections", n)
		}
	})
}

// A server that takes nothing for a minute is given up.
func TestServerThatTakesNothingIsGivenUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		opts := with(live.TopicOptions{History: 100})
		opts.PingInterval = -1 // else the server gives up the client sooner
		b := newBubble(t, opts)
		dial, conns := b.faulty()
		c := b.connect(t, liveclient.Options{Dial: dial, CallTimeout: time.Hour})
		(<-conns).writeSlowly(time.Hour)
		begun := time.Now()
		if _, err := c.Publish(t.Context(), "a", 1); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took < time.Minute || took > 2*time.Minute {
			t.Errorf("it took %v", took)
		}
		if n := b.Live.Stats().Accepted; n != 2 {
			t.Errorf("there were %d connections", n)
		}
	})
}

// A server with pings switched off may be silent for ever.
func TestServerWithoutPingsMayBeSilent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		opts := with(live.TopicOptions{})
		opts.PingInterval = -1
		b := newBubble(t, opts)
		c := b.connect(t, liveclient.Options{})
		time.Sleep(24 * time.Hour)
		if took, err := c.Ping(t.Context()); err != nil || b.Live.Stats().Accepted != 1 {
			t.Errorf("Ping: %v, %v; %d connections", took, err, b.Live.Stats().Accepted)
		}
	})
}

// The waiting times begin anew after a stable connection, and only after such.
func TestWaitingTimesBeginAnewAfterAStableConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBubble(t, with(live.TopicOptions{}))
		dial, conns := b.faulty()
		var seen statuses
		o := liveclient.Options{Dial: dial, OnStatus: seen.note}
		liveclient.SetRandom(&o, func() float64 { return 1 })
		b.connect(t, o)
		for _, wait := range []time.Duration{0, 500, 1000, 2000 + 5000} { // the last connection is stable
			time.Sleep(wait*time.Millisecond + time.Second)
			(<-conns).Close()
		}
		time.Sleep(time.Second)
		var waits []time.Duration
		for _, status := range seen.of(liveclient.Waiting) {
			waits = append(waits, status.RetryIn/time.Millisecond)
		}
		if want := []time.Duration{500, 1000, 2000, 500}; !slices.Equal(waits, want) {
			t.Errorf("waited %v ms, want %v", waits, want)
		}
	})
}
