package websession_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

// signedIn returns the options of a live server that admits only clients who have signed in.
func signedIn() live.Options { return live.Options{OnAuth: websession.Authenticate("username")} }

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
	if b.cookie(n.url) == "" || b.cookie(n.url) != s.ID() || receive(t, fromContext) != s.ID() {
		t.Errorf("the cookie is %q, the ID %q", b.cookie(n.url), s.ID())
	}
	if s.GetInt("visits") != 1 || !s.GetBool("connected") {
		t.Errorf("there are %v", s.Keys())
	}
}

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
	eventually(t, "the sockets are forgotten", func() bool { return websession.FromLive(l) == nil })
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

// failing is a store that can fail.
type failing struct {
	*memstore.MemStore
	fails atomic.Bool
}

var errStore = errors.New("the store is down")

func (f *failing) Find(token string) ([]byte, bool, error) {
	if f.fails.Load() {
		return nil, false, errStore
	}
	return f.MemStore.Find(token)
}

func (f *failing) Delete(token string) error {
	if f.fails.Load() {
		return errStore
	}
	return f.MemStore.Delete(token)
}

func (f *failing) Commit(token string, b []byte, expiry time.Time) error {
	if f.fails.Load() {
		return errStore
	}
	return f.MemStore.Commit(token, b, expiry)
}

func startFailing(t *testing.T, o websession.Options) (*node, *failing) {
	store := &failing{MemStore: memstore.New()}
	sm := scs.New()
	sm.Store = store
	sm.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusTeapot)
	}
	return start(t, setting{sm: sm, options: o}), store
}

func TestErrorsOfTheStoreAreTold(t *testing.T) {
	n, store := startFailing(t, websession.Options{Revalidate: 5 * time.Millisecond})
	b := newBrowser(t)
	b.get(n.url + "/set?a=1")
	c, l := b.dial(n)
	store.fails.Store(true)
	s := websession.FromLive(l)
	for name, err := range map[string]error{
		"Set": s.Set("a", 2), "Delete": s.Delete("a"), "Clear": s.Clear(), "Destroy": s.Destroy(),
	} {
		if !errors.Is(err, errStore) {
			t.Errorf("%s returned %v", name, err)
		}
	}
	for name, read := range map[string]func(s *websession.Session){
		"Get":      func(s *websession.Session) { s.Get("a") },
		"Pop":      func(s *websession.Session) { s.Pop("a") },
		"Exists":   func(s *websession.Session) { s.Exists("a") },
		"Keys":     func(s *websession.Session) { s.Keys() },
		"Deadline": func(s *websession.Session) { s.Deadline() },
	} {
		s := websession.FromLive(l)
		if read(s); !errors.Is(s.Err(), errStore) {
			t.Errorf("%s left %v", name, s.Err())
		}
	}
	if status, body, _ := b.ask(n.url + "/get?key=a"); status != http.StatusTeapot || !strings.Contains(body, "down") {
		t.Errorf("a request got %d %q", status, body)
	}
	// The sockets stay open meanwhile, and the failed sign-out has changed nothing.
	eventually(t, "it was noticed", func() bool { return strings.Count(n.logs.String(), "not looked up") > 2 })
	store.fails.Store(false)
	if got := websession.FromLive(l).GetString("a"); got != "1" {
		t.Errorf("a is %q", got)
	}
	select {
	case <-c.ended:
		t.Error("the socket was closed")
	default:
	}
}

func TestASessionThatCannotBeSavedIsAnError(t *testing.T) {
	n, store := startFailing(t, websession.Options{})
	b := newBrowser(t)
	n.handle("/fail", func(w http.ResponseWriter, _ *http.Request, s *websession.Session) {
		n.check(s.Set("a", 1))
		store.fails.Store(true)
		if _, err := io.WriteString(w, "all is well"); !errors.Is(err, errStore) {
			t.Errorf("the handler was told %v", err)
		}
		w.WriteHeader(http.StatusOK)
	})
	if status, body, _ := b.ask(n.url + "/fail"); status != http.StatusTeapot || strings.Contains(body, "well") {
		t.Errorf("answered %d %q", status, body)
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

// exchange is a broker that several servers share.
type exchange struct {
	mu    sync.Mutex
	nodes []*busNode
	deaf  atomic.Bool // if true, broadcasts are lost
}

type busNode struct {
	*live.MemoryBroker
	exchange *exchange
	hear     map[string]func(string, []byte)
	sent     [][]byte
}

func (x *exchange) node() *busNode {
	n := &busNode{live.NewMemoryBroker(live.MemoryOptions{}), x, make(map[string]func(string, []byte)), nil}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.nodes = append(x.nodes, n)
	return n
}

func (n *busNode) OnBroadcast(kind string, f func(string, []byte)) { n.hear[kind] = f }

func (n *busNode) Broadcast(_ context.Context, kind string, b []byte) error {
	n.exchange.mu.Lock()
	n.sent = append(n.sent, b)
	nodes := n.exchange.nodes
	n.exchange.mu.Unlock()
	if n.exchange.deaf.Load() {
		return errors.New("nobody hears")
	}
	for _, other := range nodes {
		other.hear[kind]("node", b)
	}
	return nil
}

// twoNodes are two servers of one application, with one store.
func twoNodes(t *testing.T, o websession.Options, authenticate bool) (x *exchange, a, b *node) {
	x = &exchange{}
	store := memstore.New()
	node := func() *node {
		sm := scs.New()
		sm.Store = store
		s := setting{sm: sm, options: o}
		if authenticate {
			s.live = signedIn()
		}
		s.live.Broker = x.node()
		return start(t, s)
	}
	return x, node(), node()
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
	eventually(t, "it is logged", func() bool { return strings.Contains(here.logs.String(), "do not know yet") })
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
	eventually(t, "all is forgotten", func() bool {
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
