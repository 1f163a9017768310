package liveclient_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

// Close lets the operations that were sent get their answers, and the server sees a clean end.
func TestCloseFlushes(t *testing.T) {
	t.Parallel()
	var ends livetest.Ends
	var got atomic.Int32
	entered, release := make(chan struct{}), make(chan struct{})
	opts := with(live.TopicOptions{History: 100})
	opts.OnClose = ends.OnClose
	opts.OnMessage = func(context.Context, *live.Session, string, []byte) { got.Add(1) }
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) {
		close(entered)
		<-release
		return "answer", nil
	}
	h := host(t, opts)
	c := connect(t, h.Endpoint, liveclient.Options{})
	answer := make(chan string, 1)
	go func() { // ends with the answer
		text, err := liveclient.Request[string](deadline(t), c, "a", 1)
		answer <- fmt.Sprint(text, err)
	}()
	livetest.Receive(t, entered)
	for range 50 {
		if err := c.Send(background, "a", 1); err != nil {
			t.Fatal(err)
		}
	}
	closed := make(chan struct{})
	go func() { // ends with Close
		c.Close()
		close(closed)
	}()
	livetest.Eventually(t, "ErrClosed", func() bool {
		_, err := c.Ping(background)
		return errors.Is(err, liveclient.ErrClosed)
	})
	select {
	case <-closed:
		t.Error("Close has not waited for the answer")
	default:
	}
	close(release)
	if text := livetest.Receive(t, answer); text != "answer<nil>" {
		t.Errorf("the answer is %s", text)
	}
	livetest.Receive(t, closed)
	if err := ends.Only(t); err != nil {
		t.Errorf("the session has ended with %v", err)
	}
	if n := got.Load(); n < 50 {
		t.Errorf("%d of 50 messages have arrived", n)
	}
	if !errors.Is(c.Err(), liveclient.ErrClosed) || c.Close() != nil {
		t.Errorf("Err: %v", c.Err())
	}
}

// Close waits for CloseTimeout at most.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnRequest = func(ctx context.Context, _ *live.Session, _ string, _ []byte) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	h := host(t, opts)
	c := connect(t, h.Endpoint, liveclient.Options{CloseTimeout: 50 * time.Millisecond})
	failed := make(chan error, 1)
	go func() { // ends with Close
		_, err := c.Request(deadline(t), "a", 1)
		failed <- err
	}()
	livetest.Eventually(t, "the request", func() bool { return liveclient.CountAsked(c) == 1 })
	begun := time.Now()
	c.Close()
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("Close took %v", took)
	}
	if err := livetest.Receive(t, failed); !errors.Is(err, liveclient.ErrClosed) || !liveclient.Sent(err) {
		t.Errorf("Request: %v", err)
	}
}

// A server that does not answer the close frame is waited for no longer than CloseTimeout.
func TestCloseDoesNotWaitForASilentServer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBubble(t, with(live.TopicOptions{}))
		dial, conns := b.faulty()
		c := b.connect(t, liveclient.Options{Dial: dial, CloseTimeout: time.Second})
		(<-conns).set(true, 0)
		begun := time.Now()
		c.Close()
		if took := time.Since(begun); took != time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}

// Close while the client has no connection ends what waits.
func TestCloseWithoutAConnection(t *testing.T) {
	t.Parallel()
	h := host(t, livetest.Permissive())
	relay := newRoad(t, h.Endpoint)
	c := connect(t, relay.Endpoint, liveclient.Options{MinBackoff: time.Hour, MaxBackoff: time.Hour})
	s, _ := subscribe(t, c, "a")
	relay.block()
	livetest.Eventually(t, "the wait", func() bool { return c.Status().State == liveclient.Waiting })
	failed := make(chan error, 1)
	go func() { // ends with Close
		_, err := c.Publish(deadline(t), "a", 1)
		failed <- err
	}()
	livetest.Eventually(t, "the publication", func() bool { return liveclient.CountWaiting(c) == 1 })
	c.Close()
	if err := livetest.Receive(t, failed); !errors.Is(err, liveclient.ErrClosed) || liveclient.Sent(err) {
		t.Errorf("Publish: %v", err)
	}
	<-s.Done()
	if !errors.Is(s.Err(), liveclient.ErrClosed) {
		t.Errorf("the subscription has ended with %v", s.Err())
	}
}

// Clients that have ended leave no goroutine and no memory, whatever they were doing.
func TestNothingIsLeftAfterClose(t *testing.T) {
	h := host(t, with(live.TopicOptions{History: 100, Presence: live.PresenceVisible}))
	relay := newRoad(t, h.Endpoint)
	visit := func(i int) {
		c, err := liveclient.Connect(deadline(t), relay.URL, quick(t, relay.Endpoint, liveclient.Options{OnError: func(error) {}, OnStatus: func(liveclient.Status) {}}))
		if err != nil {
			t.Error(err)
			return
		}
		got := new(heard)
		for topic := range 5 {
			_, err := c.Subscribe(fmt.Sprint("topic ", topic), got.message, liveclient.Last(10), liveclient.OnGap(got.gap))
			if err != nil {
				t.Error(err)
			}
		}
		if _, err := c.Publish(deadline(t), "topic 1", i); err != nil {
			t.Error(err)
		}
		switch i % 3 {
		case 0:
			relay.cut()
		case 1:
			go c.Publish(background, "topic 1", i) // ends with Close
		}
		c.Close()
	}
	visit(0)
	livetest.Eventually(t, "no session", func() bool { return h.Stats().Sessions == 0 })
	goroutines := runtime.NumGoroutine()
	before := heap()
	for range 20 {
		livetest.Each(4, visit)
	}
	livetest.Eventually(t, "no session", func() bool { return h.Stats().Sessions == 0 })
	for begun := time.Now(); runtime.NumGoroutine() > goroutines && time.Since(begun) < livetest.Patience; {
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		buf := make([]byte, 1<<20)
		t.Fatalf("%d goroutines, %d at the start:\n%s", n, goroutines, buf[:runtime.Stack(buf, true)])
	}
	const each = 10 << 10 // a client that is left holds more: its buffers alone have 8 KB
	if grown := heap() - before; grown > 80*each {
		t.Errorf("80 clients have left %d bytes", grown)
	}
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
