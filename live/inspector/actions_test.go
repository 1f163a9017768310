package inspector_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

func TestSessionIsClosedAsThePersonSays(t *testing.T) {
	t.Parallel()
	opts, sessions := named(live.Options{})
	h := livetest.Hosting{}.Start(t, opts)
	p := open(t, h.Server, everything)
	for _, code := range []int{1000, 1012, 4200} {
		c := livetest.Connect(t, h.With("user=ann"), livetest.Dialing{})
		other := livetest.Connect(t, h.With("user=bob"), livetest.Dialing{})
		ann, bob := livetest.Receive(t, sessions), livetest.Receive(t, sessions)
		if ann.UserID() == "bob" {
			ann, bob = bob, ann
		}
		p.expect(http.StatusBadRequest, "close", object{"id": ann.ID(), "code": 1005})
		p.do("close", object{"id": ann.ID(), "code": code, "reason": "try again"})
		if got, reason, _ := c.Closed(); got != code || reason != "try again" {
			t.Errorf("the client was closed with %d %q, want %d", got, reason, code)
		}
		if bob.IsClosed() {
			t.Error("another session was closed")
		}
		livetest.Eventually(t, "the end of the session", func() bool { return h.SessionByID(ann.ID()) == nil })
		p.expect(http.StatusNotFound, "close", object{"id": ann.ID(), "code": code})
		other.Drop()
	}
}

func TestPublicationReachesItsSubscribers(t *testing.T) {
	t.Parallel()
	opts, sessions := named(live.Options{Topics: livetest.Keeping("table", live.TopicOptions{Keyed: true})})
	h := livetest.Hosting{}.Start(t, opts)
	c := livetest.DialV1(t, h.Endpoint)
	s := livetest.Receive(t, sessions)
	h.Subscribe(s, "plain")
	h.Subscribe(s, "table")
	p := open(t, h.Server, everything)
	if said := p.do("publish", object{"topic": "plain", "data": `{"n":1}`}); !strings.Contains(said, "no history") {
		t.Errorf("the answer is %s", said)
	}
	if f := c.Next(); f.Topic != "plain" || string(f.Data) != `{"n":1}` {
		t.Errorf("the client got %v", f)
	}
	if said := p.do("publish", object{"topic": "table", "data": `2`, "key": "a"}); !strings.Contains(said, ".1") {
		t.Errorf("the answer does not have the position: %s", said)
	}
	if f := c.Next(); f.Topic != "table" || f.Key != "a" {
		t.Errorf("the client got %v", f)
	}
	first := p.do("publish", object{"topic": "table", "data": `3`, "key": "b", "id": "once"})
	if again := p.do("publish", object{"topic": "table", "data": `3`, "key": "b", "id": "once"}); again != first || !strings.Contains(first, ".2") {
		t.Errorf("the answers for one ID are %s and %s", first, again)
	}
	p.expect(http.StatusBadRequest, "publish", object{"topic": "table", "data": `2`})
}

func TestServerIsDrainedOnce(t *testing.T) {
	t.Parallel()
	begun, release := make(chan context.Context, 10), make(chan struct{})
	opts := everything
	opts.Drain = func(ctx context.Context) error {
		begun <- ctx
		<-release
		return nil
	}
	p := open(t, livetest.NewServer(t, live.Options{}), opts)
	p.do("drain", object{})
	ctx := livetest.Receive(t, begun)
	if _, limited := ctx.Deadline(); !limited || ctx.Err() != nil {
		t.Errorf("the context has ended with its request, or has no end: %v", ctx.Err())
	}
	p.do("drain", object{})
	close(release)
	if len(begun) > 0 {
		t.Error("Drain was called twice")
	}
}

// A Drain that fails or panics ends nothing but itself, and may be tried again.
func TestDrainThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	logger, log := livetest.Logged()
	calls := make(chan int, 10)
	n := 0
	handler := inspector.New(livetest.NewServer(t, live.Options{}), inspector.Options{
		Insecure: true,
		Logger:   logger,
		Drain: func(context.Context) error { // calls come one after another
			n++
			calls <- n
			if n == 1 {
				panic("boom")
			}
			return errors.New("the disk is full")
		},
	})
	p := page{t, handler}
	for i, line := range []string{"it panicked: boom", "the disk is full"} {
		livetest.Eventually(t, "another call", func() bool {
			p.do("drain", object{})
			return len(calls) > i
		})
		livetest.Eventually(t, "the line", func() bool { return strings.Contains(log(), line) })
	}
}
