package websession_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

// node is a server of an application: handlers and a live server that share sessions.
type node struct {
	t        testing.TB
	sessions *websession.Manager
	live     *live.Server
	url      string
	mux      *http.ServeMux
	opened   chan *live.Session
	logs     *livetest.LockedBuffer
}

// setting is what a test sets differently for its node.
type setting struct {
	sm      *scs.SessionManager
	options websession.Options
	live    live.Options
}

// start starts a node, which ends with the test. It has handlers for /login, /logout, /set and /get.
func start(t testing.TB, s setting) *node {
	t.Helper()
	n := &node{t: t, mux: http.NewServeMux(), opened: make(chan *live.Session, 10_000), logs: &livetest.LockedBuffer{}}
	logger := slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.options.Logger, s.live.Logger = logger, logger
	n.sessions = websession.New(s.sm, s.options)
	onConnect := s.live.OnConnect
	s.live.OnConnect = func(ctx context.Context, l *live.Session) error {
		if onConnect != nil {
			if err := onConnect(ctx, l); err != nil {
				return err
			}
		}
		n.opened <- l
		return nil
	}
	n.live = n.sessions.NewServer(s.live)
	n.mux.Handle("/live", n.live.Handler())
	n.handle("/login", func(w http.ResponseWriter, r *http.Request, s *websession.Session) {
		n.check(s.RenewToken())
		n.check(s.Set("username", r.URL.Query().Get("user")))
	})
	n.handle("/logout", func(_ http.ResponseWriter, _ *http.Request, s *websession.Session) { n.check(s.Destroy()) })
	n.handle("/set", func(_ http.ResponseWriter, r *http.Request, s *websession.Session) {
		for key := range r.URL.Query() {
			n.check(s.Set(key, r.URL.Query().Get(key)))
		}
	})
	n.handle("/get", func(w http.ResponseWriter, r *http.Request, s *websession.Session) {
		io.WriteString(w, s.GetString(r.URL.Query().Get("key")))
	})
	server := httptest.NewServer(n.sessions.Middleware(n.mux))
	n.url = server.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		n.live.Shutdown(ctx)
		server.Close()
	})
	return n
}

func (n *node) check(err error) {
	if err != nil {
		n.t.Errorf("a handler failed: %v", err)
	}
}

// handle adds a handler that gets its session.
func (n *node) handle(path string, h func(http.ResponseWriter, *http.Request, *websession.Session)) {
	n.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { h(w, r, websession.FromRequest(r)) })
}

// browser has a cookie jar, which all of its tabs and nodes share: cookies know no ports.
type browser struct {
	t      testing.TB
	client *http.Client
}

func newBrowser(t testing.TB) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, &http.Client{Jar: jar, Timeout: livetest.Patience}}
}

// get returns the body of a page.
func (b *browser) get(address string) string {
	b.t.Helper()
	status, body, _ := b.ask(address)
	if status != http.StatusOK {
		b.t.Fatalf("%s: %d %s", address, status, body)
	}
	return body
}

func (b *browser) ask(address string) (status int, body string, header http.Header) {
	b.t.Helper()
	resp, err := b.client.Get(address)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(raw), resp.Header
}

func (b *browser) cookie(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == "session" {
			return c.Value
		}
	}
	return ""
}

func (b *browser) setCookie(address, token string) {
	u, err := url.Parse(address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "session", Value: token, Path: "/"}})
}

// socket is a tab's connection. What it is sent is read all the time.
type socket struct {
	t     testing.TB
	ws    *websocket.Conn
	ended chan websocket.CloseError
}

// dial opens a socket to a node, and returns both of its ends.
func (b *browser) dial(n *node) (*socket, *live.Session) {
	b.t.Helper()
	s, resp, err := b.tryDial(n)
	if err != nil {
		b.t.Fatal(err, resp)
	}
	return s, livetest.Receive(b.t, n.opened)
}

func (b *browser) tryDial(n *node) (*socket, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, n.url+"/live", &websocket.DialOptions{HTTPClient: b.client})
	if err != nil {
		return nil, resp, err
	}
	s := &socket{b.t, ws, make(chan websocket.CloseError, 1)}
	b.t.Cleanup(func() { ws.CloseNow() })
	go func() { // ends with the connection
		for {
			if _, _, err := ws.Read(context.Background()); err != nil {
				code := websocket.CloseStatus(err)
				_, reason, _ := strings.Cut(err.Error(), "reason = ")
				s.ended <- websocket.CloseError{Code: code, Reason: strings.Trim(reason, `"`)}
				return
			}
		}
	}()
	return s, resp, nil
}

// endsWith waits for the server's close frame.
func (s *socket) endsWith(code int) {
	s.t.Helper()
	if got := livetest.Receive(s.t, s.ended); int(got.Code) != code {
		s.t.Fatalf("closed with %d %q, want %d", got.Code, got.Reason, code)
	}
}

// signedIn returns the options of a live server that admits only clients who have signed in.
func signedIn() live.Options { return live.Options{OnAuth: websession.Authenticate("username")} }

// exchange is a broker that several servers share.
type exchange struct {
	mu    sync.Mutex
	nodes []*busNode
	deaf  atomic.Bool // if true, broadcasts are lost
}

func (x *exchange) node() *busNode {
	n := &busNode{live.NewMemoryBroker(live.MemoryOptions{}), x, nil, nil}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.nodes = append(x.nodes, n)
	return n
}

type busNode struct {
	*live.MemoryBroker
	exchange *exchange
	hear     func([]byte)
	sent     [][]byte
}

func (n *busNode) OnBroadcast(f func([]byte)) { n.hear = f }

func (n *busNode) Broadcast(_ context.Context, b []byte) error {
	n.exchange.mu.Lock()
	n.sent = append(n.sent, b)
	nodes := n.exchange.nodes
	n.exchange.mu.Unlock()
	if n.exchange.deaf.Load() {
		return errors.New("nobody hears")
	}
	for _, other := range nodes {
		other.hear(b)
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

var sprintf = fmt.Sprintf

// serve serves a handler until the test ends.
func serve(t *testing.T, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func memory() *scs.SessionManager { return nil }

func hashed() *scs.SessionManager {
	sm := scs.New()
	sm.HashTokenInStore = true
	return sm
}
