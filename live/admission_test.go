package live_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// named is an OnAuth that takes the user from the address.
func named(_ context.Context, r *http.Request) (any, error) { return r.URL.Query().Get("user"), nil }

func TestUserLimitHoldsInACrowd(t *testing.T) {
	srv, url := serve(t, live.Options{MaxSessionsPerUser: 5, OnAuth: named})
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() { upgrade(t, url+"?user=ann", nil) })
	}
	wg.Wait()
	if st := srv.Stats(); st.Sessions != 5 || st.RefusedFor.TooManyOfUser != 35 {
		t.Fatalf("%+v", st)
	}
}

// The newest session takes the place of the oldest, whose client is told to stay away.
func TestNewestSessionTakesTheOldestsPlace(t *testing.T) {
	t.Parallel()
	ends := make(chan error, 10)
	opts, sessions := livetest.Connected(live.Options{
		MaxSessionsPerUser: 2, ReplaceOldest: true, OnAuth: named,
		OnClose: func(s *live.Session, err error) { ends <- err },
	})
	h := livetest.Hosting{}.Start(t, opts)
	at := h.Endpoint
	var clients []*livetest.Client
	for range 4 {
		c := livetest.DialV1(t, at.With("user=ann"))
		livetest.Receive(t, sessions)
		clients = append(clients, c)
	}
	other := livetest.DialV1(t, at.With("user=bob"))
	visitors := [3]*livetest.Client{}
	for i := range visitors {
		visitors[i] = livetest.DialV1(t, at.With("user="))
	}
	for _, c := range clients[:2] {
		if code, reason, _ := c.Closed(); code != live.CloseReplaced || reason == "" {
			t.Errorf("closed with %d %q", code, reason)
		}
		if err := livetest.Receive(t, ends); !errors.Is(err, live.ErrReplaced) {
			t.Errorf("OnClose got %v", err)
		}
	}
	for _, c := range append(clients[2:], other, visitors[0], visitors[1], visitors[2]) {
		c.Say(`{"op":"ping"}`)
		if f := c.Next(); f.Op != "pong" {
			t.Errorf("got %s", &f)
		}
	}
	if st := h.Stats(); st.Replaced != 2 || st.Refused != 0 || st.Sessions != 6 {
		t.Errorf("%+v", st)
	}
}

// In a crowd there are never more sessions than the limit, and one is left for each place.
func TestReplacingHoldsInACrowd(t *testing.T) {
	t.Parallel()
	const clients, most = 60, 3
	var ended livetest.Ends
	h := livetest.Hosting{}.Start(t, live.Options{
		MaxSessionsPerUser: most, ReplaceOldest: true, OnAuth: named, OnClose: ended.OnClose,
	})
	livetest.Each(clients, func(i int) {
		c, err := livetest.Try(t, h.Endpoint.With("user=ann"), livetest.Dialing{V1: true})
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(c.Drop)
		c.Attend()
	})
	livetest.Eventually(t, "the others' end", func() bool { return ended.Count() == clients-most })
	for _, err := range ended.Once(t) {
		if !errors.Is(err, live.ErrReplaced) {
			t.Error(err)
		}
	}
	if st := h.Stats(); st.Sessions != most || st.Accepted != clients || st.Replaced != clients-most {
		t.Errorf("%+v", st)
	}
}

// A client whose handshake fails after OnAuth takes nobody's place.
func TestHandshakeThatFailsReplacesNobody(t *testing.T) {
	t.Parallel()
	h := livetest.Hosting{}.Start(t, live.Options{MaxSessionsPerUser: 1, ReplaceOldest: true, OnAuth: named})
	c := livetest.DialV1(t, h.Endpoint.With("user=ann"))
	w := httptest.NewRecorder() // cannot be hijacked
	h.Handler().ServeHTTP(w, handshakeRequest(t, h.Endpoint.HTTP()+"/?user=ann"))
	if w.Code != http.StatusInternalServerError {
		t.Fatal(w.Code)
	}
	c.Say(`{"op":"ping"}`)
	if f := c.Next(); f.Op != "pong" {
		t.Errorf("got %s", &f)
	}
	c.Leave()
	livetest.Eventually(t, "its end", func() bool { return h.Stats().Sessions == 0 })
	livetest.DialV1(t, h.Endpoint.With("user=ann"))
}
