package live

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// queueOf returns a queue of which all places are taken.
func queueOf(waiting int) *authQueue {
	q := newAuthQueue(&Options{OnAuth: func(context.Context, *http.Request) (any, error) { return nil, nil }, MaxAuthsAtOnce: 1, MaxAuthsWaiting: waiting, AuthTimeout: time.Hour})
	q.enter(context.Background(), "taken:1")
	return q
}

// waitIn begins to wait, and reports the result under a name.
func waitIn(q *authQueue, ctx context.Context, remote, name string, ended chan<- string) {
	go func() { // ends with the wait
		err := q.enter(ctx, remote)
		ended <- fmt.Sprint(name, " ", err == nil)
	}()
	synctest.Wait()
}

func TestAddressesTakeTurnsForOnAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queueOf(100)
		ended := make(chan string, 100)
		for _, w := range []struct{ remote, name string }{
			{"10.0.0.1:1", "a1"}, {"10.0.0.1:2", "a2"}, {"10.0.0.1:3", "a3"},
			{"10.0.0.2:1", "b1"},
			{"[2001:db8::1]:1", "c1"}, {"[2001:db8::2]:1", "c2"}, {"[2001:db8:0:1::1]:1", "d1"},
			{"unix", "e1"},
		} {
			waitIn(q, t.Context(), w.remote, w.name, ended)
		}
		for _, want := range []string{"a1", "b1", "c1", "d1", "e1", "a2", "c2", "a3"} {
			q.leave()
			if got := <-ended; got != want+" true" {
				t.Errorf("%s, want %s", got, want)
			}
		}
		q.leave()
		if q.freeCalls != 1 || q.waiting != 0 || len(q.addresses) != 0 || len(q.turns) != 0 {
			t.Errorf("left behind: %+v", q)
		}
	})
}

func TestAddressThatFillsTheQueueDoesNotKeepOthersOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 10
		q := queueOf(places)
		ended := make(chan string, 100)
		for i := range places {
			waitIn(q, t.Context(), "10.0.0.1:1", fmt.Sprint("greedy", i), ended)
		}
		waitIn(q, t.Context(), "10.0.0.1:1", "more", ended)
		if got := <-ended; got != "more false" {
			t.Fatal(got)
		}
		for i := range 4 { // until the shares are about equal
			waitIn(q, t.Context(), fmt.Sprintf("10.0.0.%d:1", 2+i), fmt.Sprint("other", i), ended)
			if got, want := <-ended, fmt.Sprintf("greedy%d false", places-1-i); got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		}
		for _, want := range []string{"greedy0 true", "other0 true"} {
			q.leave()
			if got := <-ended; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		if q.waiting != places-2 {
			t.Errorf("%d wait", q.waiting)
		}
		for range places - 2 {
			q.leave()
			<-ended
		}
	})
}

func TestWaitForOnAuthEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queueOf(100)
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 2)
		begun := time.Now()
		go func() { result <- q.enter(ctx, "a:1") }()         // ends with ctx
		go func() { result <- q.enter(t.Context(), "a:1") }() // ends with AuthTimeout
		synctest.Wait()
		cancel()
		if err := <-result; err != error(errClientGone) {
			t.Error(err)
		}
		if err := <-result; err != error(errWaitOfAuths) || time.Since(begun) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		if q.waiting != 0 || len(q.addresses) != 0 {
			t.Errorf("left behind: %+v", q)
		}
		q.leave()
		gone, leave := context.WithCancel(t.Context())
		leave()
		if err := q.enter(gone, "a:1"); err != nil && !errors.Is(err, errClientGone) {
			t.Error(err)
		}
	})
}
