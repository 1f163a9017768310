package natsbroker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/live"
)

// hall is the users of three servers who come and go: what is true of who is present.
type hall struct {
	f  *fleet
	mu sync.Mutex // guards what follows
	in map[*websocket.Conn]string
	on map[*websocket.Conn]*instance
}

func newHall(t testing.TB) *hall {
	f := newFleet(t)
	f.serving = []func(*live.Options){func(o *live.Options) {
		o.OnAuth = func(_ context.Context, r *http.Request) (any, error) { return r.Header.Get("User"), nil }
		o.OnConnect = func(_ context.Context, s *live.Session) error { return s.Subscribe("hall") }
		o.Topics = func(string) live.TopicOptions { return live.TopicOptions{Presence: live.PresencePrivate} }
	}}
	h := &hall{f: f, in: make(map[*websocket.Conn]string), on: make(map[*websocket.Conn]*instance)}
	t.Cleanup(func() {
		for c := range h.in {
			c.CloseNow()
		}
	})
	return h
}

// join connects a user to a server.
func (h *hall) join(in *instance, user string) {
	c, _, err := websocket.Dial(context.Background(), in.url(), &websocket.DialOptions{HTTPHeader: http.Header{"User": {user}}})
	if err != nil {
		return // the server is about to die
	}
	c.CloseRead(context.Background()) // answers pings
	h.mu.Lock()
	defer h.mu.Unlock()
	h.in[c], h.on[c] = user, in
}

// leaveSomebody has one connection end, with a farewell or without.
func (h *hall) leaveSomebody() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.in {
		if rand.IntN(2) == 0 {
			go c.Close(websocket.StatusGoingAway, "")
		} else {
			c.CloseNow()
		}
		delete(h.in, c)
		delete(h.on, c)
		return
	}
}

// crash kills a server, and its users' connections with it.
func (h *hall) crash(i int) {
	in := h.f.at(i)
	h.f.crash(i)
	h.mu.Lock()
	defer h.mu.Unlock()
	for c, at := range h.on {
		if at == in {
			delete(h.in, c)
			delete(h.on, c)
		}
	}
}

// churn has users come and go for a while.
func (h *hall) churn(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		h.mu.Lock()
		n := len(h.in)
		h.mu.Unlock()
		if in := h.f.at(rand.IntN(meshSize)); in != nil && rand.IntN(300) > n {
			h.join(in, fmt.Sprint("user ", rand.IntN(100)))
		} else if n > 0 {
			h.leaveSomebody()
		}
	}
}

func (h *hall) truth() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	sessions := make(map[string]int)
	for _, user := range h.in {
		sessions[user]++
	}
	var all []string
	for user, n := range sessions {
		all = append(all, fmt.Sprintf("%s %d", user, n))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func viewOf(s *live.Server) string {
	var all []string
	for _, m := range s.Presence("hall") {
		all = append(all, fmt.Sprintf("%s %d", m.UserID, len(m.Sessions)))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// awaitTruth waits until every server shows the sockets that are open. It may take ten seconds.
func (h *hall) awaitTruth(t *testing.T) {
	t.Helper()
	began := time.Now()
	want := h.truth()
	for i := range meshSize {
		for viewOf(h.f.at(i).server) != want {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("after ten seconds of quiet server %d shows\n%s\nand the truth is\n%s", i, viewOf(h.f.at(i).server), want)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	t.Logf("true everywhere after %v", time.Since(began))
}

// Whatever happens to the servers: ten seconds after it is over, each shows who is there.
func TestPresenceIsTrueAfterFaults(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	h.f.bootAll()
	h.churn(2 * time.Second)
	h.awaitTruth(t)
	for _, fault := range []struct {
		name string
		do   func()
	}{
		{"a server is killed and comes back", func() {
			h.crash(1)
			h.churn(3 * time.Second)
			h.f.revive(1)
			h.churn(time.Second)
		}},
		{"a server is cut off", func() {
			h.f.isolate(2, linkCut)
			h.churn(12 * time.Second) // the others take it for dead
			h.f.heal(2)
		}},
		{"a server is out of reach for a moment", func() {
			h.f.isolate(0, linkBlackhole)
			h.churn(3 * time.Second)
			h.f.heal(0)
		}},
		{"all are killed, one after another", func() {
			for i := range meshSize {
				h.crash(i)
				h.churn(500 * time.Millisecond)
				h.f.revive(i)
				h.churn(500 * time.Millisecond)
			}
		}},
	} {
		fault.do()
		h.f.awaitWhole()
		t.Log(fault.name)
		h.awaitTruth(t)
	}
}
