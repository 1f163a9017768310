package websession_test

import (
	"errors"
	"io"
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

func TestSignOutClosesEverySocketOfTheSession(t *testing.T) {
	n, ana, bo := start(t, setting{live: signedIn()}), newBrowser(t), newBrowser(t)
	ana.get(n.url + "/login?user=ana")
	bo.get(n.url + "/login?user=bo")
	one, l := ana.dial(n)
	two, _ := ana.dial(n)
	other, _ := bo.dial(n)
	began := time.Now()
	ana.get(n.url + "/logout")
	one.endsWith(live.CloseRevoked)
	two.endsWith(live.CloseRevoked)
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	if ana.cookie(n.url) != "" {
		t.Error("the cookie is left")
	}
	if err := websession.FromLive(l).Set("a", 1); !errors.Is(err, websession.ErrNoSession) {
		t.Errorf("the ended session can be set: %v", err)
	}
	if _, resp, err := ana.tryDial(n); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("it may come back: %v", resp)
	}
	select {
	case <-other.ended:
		t.Error("another's socket was closed")
	default:
	}
	livetest.Eventually(t, "the sockets are forgotten", func() bool { return websession.FromLive(l) == nil })
}

func TestSignOutFromASocket(t *testing.T) {
	n, b := start(t, setting{live: signedIn()}), newBrowser(t)
	b.get(n.url + "/login?user=ana")
	one, l := b.dial(n)
	two, _ := b.dial(n)
	if err := websession.FromLive(l).Destroy(); err != nil {
		t.Fatal(err)
	}
	one.endsWith(live.CloseRevoked)
	two.endsWith(live.CloseRevoked)
	if got := b.get(n.url + "/get?key=username"); got != "" {
		t.Errorf("the session is still of %s", got)
	}
}

func TestRenewalHasSocketsComeBack(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	b.get(n.url + "/set?cart=full")
	old := b.cookie(n.url)
	c, _ := b.dial(n)
	b.get(n.url + "/login?user=ana")
	c.endsWith(live.CloseSignInExpired)
	_, l := b.dial(n)
	s := websession.FromLive(l)
	if s.GetString("username") != "ana" || s.GetString("cart") != "full" || s.ID() == old {
		t.Errorf("it came back with %v", s.Keys())
	}

	// A client that dials with the old cookie must be refused. Otherwise it would stay connected as a
	// stranger.
	b.setCookie(n.url, old)
	if _, resp, err := b.tryDial(n); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("who dials too early gets %v", resp)
	}
	if !strings.Contains(n.logs.String(), "do not arrive") {
		t.Error("the log does not say what to look for")
	}
}

// If the response of a renewal is lost, the browser has a token without a session: it is signed out.
func TestALostRenewalIsASignOut(t *testing.T) {
	for name, sm := range map[string]func() *scs.SessionManager{"memory": memory, "hashed tokens": hashed} {
		t.Run(name, func(t *testing.T) {
			n, b := start(t, setting{sm: sm(), live: signedIn()}), newBrowser(t)
			b.get(n.url + "/login?user=ana")
			old := b.cookie(n.url)
			b.get(n.url + "/login?user=ana")
			b.setCookie(n.url, old) // the second response was lost
			if _, resp, err := b.tryDial(n); err == nil || resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("Retry-After") != "" {
				t.Errorf("the handshake was answered with %v", resp)
			}
			if status, body, header := b.ask(n.url + "/get?key=username"); status != http.StatusOK || body != "" || header.Get("Set-Cookie") != "" {
				t.Errorf("a request was answered with %d %q, cookie %q", status, body, header.Get("Set-Cookie"))
			}
			b.get(n.url + "/login?user=ana")
			if _, l := b.dial(n); l.Value() != "ana" {
				t.Errorf("after signing in again the socket is of %v", l.Value())
			}
		})
	}
}

// This is also so on another server, even if that server has not heard of the renewal.
func TestALostRenewalIsASignOutOnTheOtherServer(t *testing.T) {
	x, here, there := twoNodes(t, websession.Options{}, true)
	for _, deaf := range []bool{false, true} {
		x.deaf.Store(deaf)
		b := newBrowser(t)
		b.get(here.url + "/login?user=ana")
		old := b.cookie(here.url)
		b.get(here.url + "/login?user=ana")
		b.setCookie(here.url, old)
		if _, resp, err := b.tryDial(there); err == nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("deaf %v: the handshake was answered with %v", deaf, resp)
		}
		if got := b.get(there.url + "/get?key=username"); got != "" {
			t.Errorf("deaf %v: %s is signed in", deaf, got)
		}
	}
}

func TestATokenCannotBeRenewedOnASocket(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	n.handle("/late", func(w http.ResponseWriter, _ *http.Request, s *websession.Session) {
		io.WriteString(w, "head")
		if err := s.RenewToken(); !errors.Is(err, websession.ErrHeadSent) {
			t.Errorf("after the head: %v", err)
		}
	})
	b.get(n.url + "/set?a=1")
	_, l := b.dial(n)
	if err := websession.FromLive(l).RenewToken(); !errors.Is(err, websession.ErrHeadSent) {
		t.Errorf("on a socket: %v", err)
	}
	b.get(n.url + "/late")
}

func TestExpiryClosesSockets(t *testing.T) {
	for name, configure := range map[string]func(*scs.SessionManager){
		"lifetime": func(sm *scs.SessionManager) { sm.Lifetime = time.Second },
		"idle":     func(sm *scs.SessionManager) { sm.IdleTimeout = time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sm := scs.New()
			configure(sm)
			n, b := start(t, setting{sm: sm, options: websession.Options{Revalidate: 100 * time.Millisecond}}), newBrowser(t)
			b.get(n.url + "/set?a=1")
			c, _ := b.dial(n)
			c.endsWith(live.CloseSignInExpired)
			if b.get(n.url+"/get?key=a") != "" {
				t.Error("the session has not expired")
			}
		})
	}
}

// A program may also end or renew sessions through scs itself.
func TestWhatScsEndsEndsSocketsToo(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	sm := n.sessions.SCS()
	n.mux.HandleFunc("/scs/destroy", func(_ http.ResponseWriter, r *http.Request) { n.check(sm.Destroy(r.Context())) })
	n.mux.HandleFunc("/scs/renew", func(_ http.ResponseWriter, r *http.Request) { n.check(sm.RenewToken(r.Context())) })
	b.get(n.url + "/set?a=1")
	c, _ := b.dial(n)
	b.get(n.url + "/scs/renew")
	c.endsWith(live.CloseSignInExpired)
	c, _ = b.dial(n)
	b.get(n.url + "/scs/destroy")
	c.endsWith(live.CloseRevoked)
}

func TestWhatAnotherProgramDeletesEndsSockets(t *testing.T) {
	store := memstore.New()
	sm := scs.New()
	sm.Store = store
	n, b := start(t, setting{sm: sm, options: websession.Options{Revalidate: 20 * time.Millisecond}}), newBrowser(t)
	other := newBrowser(t)
	b.get(n.url + "/set?a=1")
	other.get(n.url + "/set?a=1")
	c, _ := b.dial(n)
	stays, _ := other.dial(n)
	store.Delete(b.cookie(n.url))
	c.endsWith(live.CloseRevoked)
	select {
	case <-stays.ended:
		t.Error("another's socket was closed")
	default:
	}
}

func TestSignOutOnOneServerClosesOnTheOther(t *testing.T) {
	_, here, there := twoNodes(t, websession.Options{}, true)
	b := newBrowser(t)
	b.get(here.url + "/login?user=ana")
	one, _ := b.dial(here)
	two, _ := b.dial(there)
	began := time.Now()
	b.get(here.url + "/logout")
	one.endsWith(live.CloseRevoked)
	two.endsWith(live.CloseRevoked)
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestRenewalOnOneServerHasSocketsOfTheOtherComeBack(t *testing.T) {
	_, here, there := twoNodes(t, websession.Options{}, false)
	b := newBrowser(t)
	b.get(here.url + "/set?a=1")
	two, _ := b.dial(there)
	b.get(here.url + "/login?user=ana")
	two.endsWith(live.CloseSignInExpired)
	_, l := b.dial(there)
	if got := websession.FromLive(l).GetString("username"); got != "ana" {
		t.Errorf("it came back as %q", got)
	}
}

func TestALostBroadcastIsMadeGood(t *testing.T) {
	x, here, there := twoNodes(t, websession.Options{Revalidate: 20 * time.Millisecond}, true)
	b := newBrowser(t)
	b.get(here.url + "/login?user=ana")
	two, _ := b.dial(there)
	x.deaf.Store(true)
	b.get(here.url + "/logout")
	two.endsWith(live.CloseRevoked)
	livetest.Eventually(t, "it is logged", func() bool { return strings.Contains(here.logs.String(), "do not know yet") })
}

func TestNoTokenLeavesTheProcess(t *testing.T) {
	x, here, there := twoNodes(t, websession.Options{Revalidate: 5 * time.Millisecond}, true)
	b := newBrowser(t)
	tokens := make(map[string]bool)
	note := func() { tokens[b.cookie(here.url)] = true }
	b.get(here.url + "/set?a=1")
	note()
	b.get(here.url + "/login?user=ana")
	note()
	_, l := b.dial(there)
	s := websession.FromLive(l)
	printed := make([]string, 0, 3)
	for _, format := range []string{"%v", "%+v", "%#v"} {
		printed = append(printed, sprintf(format, s))
	}
	b.get(here.url + "/login?user=bo")
	note()
	c, _ := b.dial(there)
	x.deaf.Store(true)
	b.get(here.url + "/logout")
	c.endsWith(live.CloseRevoked)
	delete(tokens, "")
	if len(tokens) != 3 {
		t.Fatalf("there were %d tokens", len(tokens))
	}
	out := here.logs.String() + there.logs.String() + strings.Join(printed, "\n")
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range x.nodes {
		for _, sent := range n.sent {
			out += string(sent)
		}
	}
	for token := range tokens {
		if strings.Contains(out, token) {
			t.Errorf("a token is in what is logged, printed or broadcast")
		}
	}
	if !strings.Contains(out, s.Fingerprint()) {
		t.Error("nothing was looked at")
	}
}
