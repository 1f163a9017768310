package websession_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

func TestOnlyWhoHasSignedInIsLetIn(t *testing.T) {
	n, b := start(t, setting{live: signedIn()}), newBrowser(t)
	if _, resp, err := b.tryDial(n); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a stranger: %v", resp)
	}
	b.get(n.url + "/login?user=ana")
	_, l := b.dial(n)
	if l.Value() != "ana" || websession.FromLive(l).GetString("username") != "ana" {
		t.Errorf("the socket is of %v", l.Value())
	}
}

// The cookie that lets a socket in lets its page publish over HTTP, and no page of another site.
func TestWhoHasSignedInPublishesOverHTTP(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	callers := make(chan any, 10)
	n.mux.Handle("/publish", n.live.PublishHandler(live.PublishHandlerOptions{
		Auth: websession.Authenticate("username"),
		OnPublish: func(_ context.Context, caller any, _ *live.HTTPPublication) error {
			callers <- caller
			return nil
		},
	}))
	publish := func(origin string) int {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, n.url+"/publish", strings.NewReader(`{"topic":"t","data":1}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Origin", origin)
		resp, err := b.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if status := publish(n.url); status != http.StatusUnauthorized {
		t.Errorf("a stranger: %d", status)
	}
	b.get(n.url + "/login?user=ana")
	if status := publish("https://evil.example"); status != http.StatusForbidden {
		t.Errorf("a page of another site: %d", status)
	}
	if status := publish(n.url); status != http.StatusAccepted {
		t.Errorf("the own page: %d", status)
	}
	if len(callers) != 1 || <-callers != "ana" {
		t.Error("OnPublish was not called for ana alone")
	}
}

func TestWhatIsSetInTheHandshakeIsSavedAndItsCookieSet(t *testing.T) {
	fromContext := make(chan string, 1)
	n, b := start(t, setting{live: live.Options{
		OnAuth: func(_ context.Context, r *http.Request) (any, error) {
			return nil, websession.FromRequest(r).Set("visits", 1)
		},
		OnConnect: func(ctx context.Context, s *live.Session) error {
			fromContext <- websession.FromContext(ctx).ID()
			return websession.FromLive(s).Set("connected", true)
		},
	}}), newBrowser(t)
	_, l := b.dial(n)
	s := websession.FromLive(l)
	if b.cookie(n.url) == "" || b.cookie(n.url) != s.ID() || livetest.Receive(t, fromContext) != s.ID() {
		t.Errorf("the cookie is %q, the ID %q", b.cookie(n.url), s.ID())
	}
	if s.GetInt("visits") != 1 || !s.GetBool("connected") {
		t.Errorf("there are %v", s.Keys())
	}
}

// A handshake must not confuse a store that is down with a sign-out.
func TestAHandshakeTellsSignOutFromAStoreThatIsDown(t *testing.T) {
	store := &failing{MemStore: memstore.New()}
	sm := scs.New()
	sm.Store = store
	n, b := start(t, setting{sm: sm, live: signedIn()}), newBrowser(t)
	b.get(n.url + "/login?user=ana")
	alive := b.cookie(n.url)
	b.get(n.url + "/login?user=ana")
	renewed := alive
	alive = b.cookie(n.url)
	store.fails.Store(true)
	for name, c := range map[string]struct {
		token  string
		status int
	}{"alive": {alive, http.StatusInternalServerError}, "renewed": {renewed, http.StatusUnauthorized}} {
		b.setCookie(n.url, c.token)
		if _, resp, err := b.tryDial(n); err == nil || resp.StatusCode != c.status {
			t.Errorf("%s: answered with %v", name, resp)
		}
	}
	if logs := n.logs.String(); !strings.Contains(logs, "a call of the session store failed") || !strings.Contains(logs, errStore.Error()) {
		t.Error("the log does not tell of the store")
	}
}

func TestTheLiveServerMustBeBehindTheMiddleware(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	n.mux.Handle("/", http.NotFoundHandler())
	bare := http.NewServeMux()
	bare.Handle("/live", n.live.Handler())
	n.url = serve(t, bare)
	if _, resp, err := b.tryDial(n); err == nil || resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("answered %v", resp)
	}
	if !strings.Contains(n.logs.String(), "behind Manager.Middleware") {
		t.Error("the log does not say why")
	}
}

func TestNothingIsLeftOfClosedSockets(t *testing.T) {
	n := start(t, setting{live: live.Options{
		OnConnect: func(_ context.Context, s *live.Session) error {
			if websession.FromLive(s).GetString("refused") != "" {
				return errors.New("refused")
			}
			return nil
		},
	}})
	_, before, _ := n.sessions.Open()
	for i := range 20 {
		b := newBrowser(t)
		switch i % 4 {
		case 0:
			b.get(n.url + "/set?a=1")
		case 1:
			b.get(n.url + "/set?refused=1")
			s, _, err := b.tryDial(n)
			if err != nil {
				t.Fatal(err)
			}
			s.endsWith(live.CloseRefused)
			continue
		}
		one, l := b.dial(n)
		two, _ := b.dial(n)
		if groups, _, running := n.sessions.Open(); i%4 == 0 && (groups == 0 || !running) {
			t.Errorf("%d groups, running: %v", groups, running)
		}
		one.ws.CloseNow()
		two.ws.CloseNow()
		if i%4 == 3 {
			l.Close()
		}
	}
	livetest.Eventually(t, "all is forgotten", func() bool {
		groups, sockets, running := n.sessions.Open()
		return groups == 0 && sockets <= before && !running
	})
}

// A request extends a session and the expiry of its sockets. So does a change on a socket.
func TestUseOfASessionExtendsItsSockets(t *testing.T) {
	sm := scs.New()
	sm.IdleTimeout = time.Hour
	n, b := start(t, setting{sm: sm}), newBrowser(t)
	b.get(n.url + "/set?a=1")
	_, l := b.dial(n)
	s := websession.FromLive(l)
	for what, use := range map[string]func(){
		"a request": func() { b.get(n.url + "/get?key=a") },
		"a change":  func() { n.check(s.Set("a", "2")) },
	} {
		before := n.sessions.Expiry(s.Fingerprint())
		use()
		if after := n.sessions.Expiry(s.Fingerprint()); before.IsZero() || !after.After(before) {
			t.Errorf("%s: %v before, %v after", what, before, after)
		}
	}
}
