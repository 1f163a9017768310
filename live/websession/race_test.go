package websession_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

// rounds is how often a test runs a sign-out against a change.
const rounds = 1000

// signIn makes a session as a sign-in does, and returns the context and the token.
func signIn(t *testing.T, n *node) (context.Context, string) {
	t.Helper()
	sm := n.sessions.SCS()
	ctx, err := sm.Load(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	sm.Put(ctx, "username", "ana")
	token, _, err := sm.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return ctx, token
}

// Sessions that have ended stay ended, whatever is under way.
func TestSignOutWinsAgainstASocketsSet(t *testing.T) {
	n, b := start(t, setting{live: signedIn()}), newBrowser(t)
	for i := range rounds {
		_, token := signIn(t, n)
		b.setCookie(n.url, token)
		c, l := b.dial(n)

		var running sync.WaitGroup
		begin := make(chan bool)
		running.Go(func() {
			<-begin
			for {
				if err := websession.FromLive(l).Set("last", i); err != nil {
					if !errors.Is(err, websession.ErrNoSession) {
						t.Error(err)
					}
					return
				}
			}
		})
		running.Go(func() { <-begin; b.get(n.url + "/logout") })
		close(begin)
		running.Wait()
		if all, err := n.sessions.Find(context.Background(), func(map[string]any) bool { return true }); len(all) > 0 || err != nil {
			t.Fatalf("round %d: found %v, %v", i, all, err)
		}
		c.endsWith(live.CloseRevoked)
		c.ws.CloseNow()
	}
}

// A copy in a context that did not come through Middleware is not saved either.
func TestSignOutWinsAgainstAStaleCopy(t *testing.T) {
	n := start(t, setting{})
	ctx := context.Background()
	sm := n.sessions.SCS()
	for i := range rounds / 4 {
		request, token := signIn(t, n)
		found, err := n.sessions.Find(ctx, func(v map[string]any) bool { return true })
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		s := found[0]
		var running sync.WaitGroup
		begin := make(chan bool)
		for range 2 {
			running.Go(func() {
				<-begin
				for s.Set("last", i) == nil {
				}
			})
		}
		running.Go(func() { <-begin; n.check(s.Destroy()) })
		running.Go(func() { <-begin; sm.Commit(request) }) // of a stale copy
		close(begin)
		running.Wait()
		sm.Commit(request)
		if _, back, err := sm.Store.Find(token); back || err != nil {
			t.Fatalf("round %d: the session is back, %v", i, err)
		}
		if all, err := sm.Store.(interface {
			AllCtx(context.Context) (map[string][]byte, error)
		}).AllCtx(ctx); len(all) > 0 || err != nil {
			t.Fatalf("round %d: the store has %d, %v", i, len(all), err)
		}
	}
}

// A request that is running when its session ends does not save the session, and its response sets no
// cookie.
func TestALateResponseBringsNothingBack(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	n.sessions.SCS().IdleTimeout = 1 << 40 // every request saves
	entered, goOn := make(chan bool), make(chan bool)
	n.handle("/slow", func(_ http.ResponseWriter, r *http.Request, s *websession.Session) {
		entered <- true
		<-goOn
		n.check(s.Set("late", true))
	})
	b.get(n.url + "/login?user=ana")
	token := b.cookie(n.url)
	done := make(chan bool)
	go func() { b.get(n.url + "/slow"); close(done) }()
	livetest.Receive(t, entered)
	b.get(n.url + "/logout")
	goOn <- true
	livetest.Receive(t, done)
	if b.cookie(n.url) != "" {
		t.Error("the cookie is back")
	}
	if _, found, _ := n.sessions.SCS().Store.Find(token); found {
		t.Error("the session is back")
	}
}

// A renewal that is running when its session ends does not keep the old values under a new token.
func TestALateRenewalBringsNothingBack(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	entered, goOn := make(chan bool), make(chan bool)
	n.handle("/slow", func(_ http.ResponseWriter, r *http.Request, s *websession.Session) {
		entered <- true
		<-goOn
		n.check(s.RenewToken())
		n.check(s.Set("late", "yes"))
		n.check(s.RenewToken())
	})
	b.get(n.url + "/login?user=ana")
	done := make(chan bool)
	go func() { b.get(n.url + "/slow"); close(done) }()
	livetest.Receive(t, entered)
	b.get(n.url + "/logout")
	goOn <- true
	livetest.Receive(t, done)
	if name, late := b.get(n.url+"/get?key=username"), b.get(n.url+"/get?key=late"); name != "" || late != "yes" {
		t.Errorf("%q is signed in, and late is %q", name, late)
	}
}

// This is also so if scs's own middleware is around ours.
func TestALateResponseBringsNothingBackBehindLoadAndSave(t *testing.T) {
	m := websession.New(nil, websession.Options{})
	sm := m.SCS()
	entered, goOn := make(chan bool), make(chan bool)
	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(_ http.ResponseWriter, r *http.Request) { websession.FromRequest(r).Set("username", "ana") })
	mux.HandleFunc("/logout", func(_ http.ResponseWriter, r *http.Request) { websession.FromRequest(r).Destroy() })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) {
		entered <- true
		<-goOn
		websession.FromRequest(r).Set("late", true)
	})
	url, b := serve(t, sm.LoadAndSave(m.Middleware(mux))), newBrowser(t)
	b.get(url + "/login")
	token := b.cookie(url)
	done := make(chan bool)
	go func() { b.get(url + "/slow"); close(done) }()
	livetest.Receive(t, entered)
	b.get(url + "/logout")
	goOn <- true
	livetest.Receive(t, done)
	if _, found, _ := sm.Store.Find(token); found {
		t.Error("the session is back")
	}
	found, err := m.Find(context.Background(), func(map[string]any) bool { return true })
	if len(found) > 0 || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
}

// The request's copy, still in the context of a socket's callbacks, cannot be saved.
func TestTheCopyOfTheHandshakeCannotBeSaved(t *testing.T) {
	contexts := make(chan context.Context, 1)
	n, b := start(t, setting{live: live.Options{OnConnect: func(ctx context.Context, _ *live.Session) error {
		contexts <- ctx
		return nil
	}}}), newBrowser(t)
	b.get(n.url + "/set?a=1")
	_, l := b.dial(n)
	ctx := livetest.Receive(t, contexts)
	sm := n.sessions.SCS()
	sm.Put(ctx, "a", "stale")
	if _, _, err := sm.Commit(ctx); !errors.Is(err, websession.ErrHeadSent) {
		t.Errorf("commit returned %v", err)
	}
	if got := websession.FromLive(l).GetString("a"); got != "1" {
		t.Errorf("a is %s", got)
	}
	if got := websession.FromContext(ctx).GetString("a"); got != "1" {
		t.Errorf("a is %s", got)
	}
}

// If a session ends during a handshake, the new socket is closed.
func TestSignOutDuringAHandshake(t *testing.T) {
	entered, goOn := make(chan bool), make(chan bool)
	n, b := start(t, setting{live: live.Options{OnAuth: func(ctx context.Context, r *http.Request) (any, error) {
		value, err := websession.Authenticate("username")(ctx, r)
		entered <- true
		<-goOn
		return value, err
	}}}), newBrowser(t)
	b.get(n.url + "/login?user=ana")
	dialled := make(chan *socket, 1)
	go func() {
		s, _, err := b.tryDial(n)
		if err != nil {
			t.Error(err)
		}
		dialled <- s
	}()
	livetest.Receive(t, entered)
	b.get(n.url + "/logout")
	goOn <- true
	livetest.Receive(t, dialled).endsWith(live.CloseRevoked)
	if len(n.opened) > 0 {
		t.Error("OnConnect was called")
	}
}

// late is a store that cannot compare. Just after its first deletion, the write of another server
// puts the session back.
type late struct {
	*memstore.MemStore
	mu      sync.Mutex
	written bool
}

func (s *late) Delete(token string) error {
	b, found, _ := s.MemStore.Find(token)
	s.MemStore.Delete(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	if found && !s.written {
		s.written = true
		return s.MemStore.Commit(token, b, time.Now().Add(time.Hour))
	}
	return nil
}

// A write just before the news of a sign-out can put the row back. The server that has a socket of the
// session deletes the row again, and until then no server accepts it as a session.
func TestAWriteJustBeforeTheNewsIsUndone(t *testing.T) {
	store := &late{MemStore: memstore.New()}
	x := &exchange{}
	node := func() *node {
		sm := scs.New()
		sm.Store = store
		return start(t, setting{sm: sm, live: live.Options{OnAuth: websession.Authenticate("username"), Broker: x.node()}})
	}
	here, there := node(), node()
	b := newBrowser(t)
	b.get(here.url + "/login?user=ana")
	token := b.cookie(here.url)
	c, _ := b.dial(there)
	b.get(here.url + "/logout")
	b.setCookie(here.url, token)
	if got := b.get(here.url + "/get?key=username"); got != "" {
		t.Errorf("%s is signed in", got)
	}
	c.endsWith(live.CloseRevoked)
	livetest.Eventually(t, "it is deleted again", func() bool { _, found, _ := store.Find(token); return !found })
	if got := b.get(there.url + "/get?key=username"); got != "" {
		t.Errorf("%s is signed in", got)
	}
}
