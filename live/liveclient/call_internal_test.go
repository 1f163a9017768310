package liveclient

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// unconnected returns a client with a connection that nothing reads or writes.
func unconnected(t *testing.T, o Options) (*Client, *conn) {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	c, err := newClient(context.Background(), "ws://example.com", o)
	if err != nil {
		t.Fatal(err)
	}
	c.conn = newConn(nil, nil)
	t.Cleanup(c.cancel)
	return c, c.conn
}

// Each part of an answer starts the time anew.
func TestPartsOfAnAnswerStartTheTimeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cn := unconnected(t, Options{CallTimeout: 10 * time.Second})
		answers := make(chan string, 1)
		go func() { // ends with the answer
			raw, err := c.Request(context.Background(), "a", 1)
			if err != nil {
				raw = []byte(err.Error())
			}
			answers <- string(raw)
		}()
		say := func(f *frame) {
			time.Sleep(9 * time.Second)
			c.mu.Lock()
			defer c.mu.Unlock()
			f.id, f.hasText = c.lastID, true
			c.answer(cn, f)
		}
		for _, text := range []string{"[1", ",2", ",3"} {
			say(&frame{op: "part", text: text})
		}
		say(&frame{op: "reply", text: "]"})
		if got := <-answers; got != "[1,2,3]" {
			t.Errorf("the answer is %s", got)
		}
		begun := time.Now()
		if _, err := c.Request(context.Background(), "a", 1); !errors.Is(err, ErrTimeout) || time.Since(begun) != 10*time.Second {
			t.Errorf("without an answer: %v after %v", err, time.Since(begun))
		}
	})
}

// An operation that waits for space on a connection waits for the next connection when that is lost.
func TestOperationThatWaitsForSpaceIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cn := unconnected(t, Options{MaxUnsent: 1000})
		cn.unsent = 1000
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go c.Publish(ctx, "a", 1) // ends with ctx
		synctest.Wait()
		if len(c.waiting) != 0 || len(c.asked) != 0 {
			t.Fatal("it does not wait for space")
		}
		c.lost(cn, errors.New("cut"))
		synctest.Wait()
		if len(c.waiting) != 1 {
			t.Error("it does not wait for the next connection")
		}
	})
}

// An operation whose context ends before it was written is not sent.
func TestOperationThatWasNotWrittenIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cn := unconnected(t, Options{})
		ctx, cancel := context.WithCancel(context.Background())
		failed := make(chan error, 1)
		go func() { // ends with ctx
			_, err := c.Publish(ctx, "a", 1)
			failed <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; Sent(err) || !errors.Is(err, context.Canceled) {
			t.Errorf("Publish: %v", err)
		}
		if text, _ := c.nextOutgoing(cn); text != nil || cn.unsent != 0 {
			t.Errorf("%s is sent, and %d bytes wait", text, cn.unsent)
		}
	})
}

// An operation whose caller has given up holds no memory for an answer that may never come.
func TestOperationThatWasGivenUpHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cn := unconnected(t, Options{CallTimeout: time.Second})
		part := func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.answer(cn, &frame{op: "part", id: c.lastID, text: "[", hasText: true, count: -1})
		}
		failed := make(chan error, 1)
		go func() { // ends after CallTimeout
			_, err := c.Request(context.Background(), "a", 1)
			failed <- err
		}()
		synctest.Wait()
		c.nextOutgoing(cn) // it is sent
		part()
		if err := <-failed; !errors.Is(err, ErrTimeout) {
			t.Fatalf("Request: %v", err)
		}
		part()
		call := c.asked[c.lastID]
		if call == nil {
			t.Fatal("it does not know that an answer is due")
		}
		if call.text != nil || call.parts.bytes != 0 {
			t.Errorf("it holds %q and %d bytes of the answer", call.text, call.parts.bytes)
		}
		c.mu.Lock()
		c.answer(cn, &frame{op: "reply", id: c.lastID, text: "1]", hasText: true, count: -1})
		c.mu.Unlock()
		if len(c.asked) != 0 {
			t.Error("the answer has come, and is still due")
		}
	})
}

// Servers know the ID of a publication for two minutes. Later it is not sent again, because it could be made twice.
func TestPublicationIsNotSentAgainWhenItsIDMayBeForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cn := unconnected(t, Options{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		failed := make(chan error, 1)
		go func() { // ends with the publication
			_, err := c.Publish(ctx, "a", 1)
			failed <- err
		}()
		synctest.Wait()
		if text, _ := c.nextOutgoing(cn); text == nil {
			t.Fatal("it was not sent")
		}
		reconnect := func(after time.Duration) (text []byte) {
			c.lost(cn, errors.New("cut"))
			time.Sleep(after)
			cn = newConn(nil, nil)
			c.open(cn)
			text, _ = c.nextOutgoing(cn)
			return text
		}
		if reconnect(90*time.Second) == nil {
			t.Error("after 90 s it is not sent again")
		}
		if text := reconnect(15 * time.Second); text != nil {
			t.Errorf("after 105 s %s is sent", text)
		}
		synctest.Wait()
		select {
		case err := <-failed:
			if !errors.Is(err, ErrDisconnected) || !Sent(err) {
				t.Errorf("Publish: %v", err)
			}
		default:
			t.Error("Publish still waits")
			cancel()
		}
		if len(c.asked) != 0 || cn.unsent != 0 {
			t.Errorf("%d answers are due, and %d bytes wait", len(c.asked), cn.unsent)
		}
	})
}

// A ping is an operation like others: it has an end, and its bytes count.
func TestPingEndsAndIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cn := unconnected(t, Options{CallTimeout: 10 * time.Second, MaxUnsent: 100})
		failed := make(chan error, 50)
		for range cap(failed) {
			go func() { // ends after CallTimeout
				_, err := c.Ping(context.Background())
				failed <- err
			}()
		}
		synctest.Wait()
		if cn.unsent > 120 {
			t.Errorf("%d bytes wait", cn.unsent)
		}
		begun := time.Now()
		for range cap(failed) {
			if err := <-failed; !errors.Is(err, ErrTimeout) {
				t.Errorf("Ping: %v", err)
			}
		}
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
