package websession_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

// However a handler begins its answer, the cookie goes with it.
func TestTheCookieGoesWithTheHead(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"nothing":     func(http.ResponseWriter) {},
		"Write":       func(w http.ResponseWriter) { w.Write([]byte("x")) },
		"WriteHeader": func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) },
		"Flush":       func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"controller":  func(w http.ResponseWriter) { http.NewResponseController(w).Flush() },
		"ReadFrom":    func(w http.ResponseWriter) { io.Copy(w, strings.NewReader("x")) },
		"103 first": func(w http.ResponseWriter) {
			w.Header().Set("Link", "</live.js>; rel=modulepreload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
		},
		"Hijack": func(w http.ResponseWriter) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n")
			w.Header().Write(conn)
			fmt.Fprint(conn, "\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := websession.New(nil, websession.Options{})
			early := 0
			url := serve(t, m.Middleware(m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := websession.FromRequest(r)
				s.Set("a", 1)
				answer(w)
				if err := s.Set("after", 1); err != nil && name != "nothing" {
					t.Error(err)
				}
			}))))
			req, _ := http.NewRequest("GET", url, nil)
			req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
					early += len(header["Set-Cookie"])
					return nil
				},
			}))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			cookies := resp.Cookies()
			if len(cookies) != 1 || early != 0 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode || cookies[0].Secure {
				t.Fatalf("cookies %v, and %d too early", cookies, early)
			}
			livetest.Eventually(t, "all is in the store", func() bool {
				found, err := m.Find(t.Context(), func(v map[string]any) bool { return v["a"] == 1 && v["after"] == 1 })
				return err == nil && len(found) == 1 && found[0].ID() == cookies[0].Value
			})
		})
	}
}

func TestOverTLSTheCookieIsSecure(t *testing.T) {
	m := websession.New(nil, websession.Options{})
	server := httptest.NewTLSServer(m.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		websession.FromRequest(r).Set("a", 1)
	})))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if cookies := resp.Cookies(); len(cookies) != 1 || !cookies[0].Secure {
		t.Errorf("cookies %v", cookies)
	}
}

// A handler that panics saves nothing, and what it has destroyed is gone.
func TestAPanicSavesNothing(t *testing.T) {
	n, b := start(t, setting{}), newBrowser(t)
	n.handle("/panic", func(_ http.ResponseWriter, r *http.Request, s *websession.Session) {
		s.Set("a", "changed")
		panic(http.ErrAbortHandler)
	})
	b.get(n.url + "/set?a=1")
	if resp, err := b.client.Get(n.url + "/panic"); err == nil {
		resp.Body.Close()
		t.Error("answered")
	}
	if got := b.get(n.url + "/get?key=a"); got != "1" {
		t.Errorf("a is %s", got)
	}
}

// counting is a store that counts its reads.
type counting struct {
	*memstore.MemStore
	reads atomic.Int64
}

func (s *counting) Find(token string) ([]byte, bool, error) {
	s.reads.Add(1)
	return s.MemStore.Find(token)
}

// withCookies makes a request with several cookies of the session's name. Browsers do so if they have
// such cookies with different Paths or Domains. It returns the body and the cookie that is set.
func (n *node) withCookies(path string, tokens ...string) (body, set string) {
	n.t.Helper()
	req, err := http.NewRequest("GET", n.url+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Cookie", cookies(tokens))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		n.t.Fatal(resp.StatusCode, err)
	}
	for _, c := range resp.Cookies() {
		set = c.Value
	}
	return string(raw), set
}

// dialWith dials with several cookies, as withCookies does.
func (n *node) dialWith(tokens ...string) (*websocket.Conn, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	return websocket.Dial(ctx, n.url+"/live", &websocket.DialOptions{HTTPHeader: http.Header{"Cookie": {cookies(tokens)}}})
}

func cookies(tokens []string) string {
	pairs := make([]string, 0, len(tokens))
	for _, token := range tokens {
		pairs = append(pairs, "session="+token)
	}
	return strings.Join(pairs, "; ")
}

func TestOfSeveralCookiesTheOneWithASessionCounts(t *testing.T) {
	for name, sm := range map[string]func() *scs.SessionManager{"memory": memory, "hashed tokens": hashed} {
		t.Run(name, func(t *testing.T) {
			n := start(t, setting{sm: sm(), live: signedIn()})
			tokenOf := func(user string) string {
				_, token := n.withCookies("/login?user=" + user)
				return token
			}
			ana, bo, out, renewed := tokenOf("ana"), tokenOf("bo"), tokenOf("ana"), tokenOf("ana")
			n.withCookies("/logout", out)
			n.withCookies("/login?user=ana", renewed)
			for name, c := range map[string]struct {
				tokens []string
				user   string
			}{
				"a made-up one first":      {[]string{"made-up", ana}, "ana"},
				"a made-up one last":       {[]string{ana, "made-up"}, "ana"},
				"a signed-out one first":   {[]string{out, ana}, "ana"},
				"a renewed one first":      {[]string{renewed, ana}, "ana"},
				"an empty one first":       {[]string{"", ana}, "ana"},
				"two that exist":           {[]string{"made-up", bo, ana}, "bo"},
				"the same ones many times": {append(slices.Repeat([]string{"made-up", out}, 20), ana), "ana"},
				"seven others first":       {[]string{"1", "2", "3", "4", "5", "6", out, ana}, "ana"},
				"none that exists":         {[]string{"made-up", out}, ""},
			} {
				if user, _ := n.withCookies("/get?key=username", c.tokens...); user != c.user {
					t.Errorf("%s: the request is of %q", name, user)
				}
				ws, resp, err := n.dialWith(c.tokens...)
				if (err == nil) != (c.user != "") {
					t.Errorf("%s: the handshake was answered with %v", name, resp)
				}
				if err == nil {
					if l := livetest.Receive(t, n.opened); l.Value() != c.user {
						t.Errorf("%s: the socket is of %v", name, l.Value())
					}
					ws.CloseNow()
				}
			}
			logs := n.logs.String()
			if !strings.Contains(logs, "several cookies") {
				t.Error("the log does not tell of them")
			}
			for _, token := range []string{ana, bo, out, renewed} {
				if strings.Contains(logs, token) {
					t.Error("a token is in the log")
				}
			}
		})
	}
}

// A sign-out or a renewal ends the session that counts, and no token of it stays valid.
func TestOfSeveralCookiesTheRightSessionEnds(t *testing.T) {
	n := start(t, setting{live: signedIn()})
	_, ana := n.withCookies("/login?user=ana")
	_, bo := n.withCookies("/login?user=bo")
	ws, _, err := n.dialWith("stale", ana)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	_, next := n.withCookies("/login?user=ana", "stale", ana)
	if _, _, err := ws.Read(t.Context()); int(websocket.CloseStatus(err)) != live.CloseSignInExpired {
		t.Errorf("the renewal ended the socket with %v", err)
	}
	if user, _ := n.withCookies("/get?key=username", ana); user != "" {
		t.Error("the old token is alive")
	}
	if user, _ := n.withCookies("/get?key=username", "stale", ana, next); user != "ana" || next == ana {
		t.Errorf("the new token is of %q", user)
	}
	n.withCookies("/logout", "stale", ana, next)
	for token, want := range map[string]string{next: "", bo: "bo"} {
		if user, _ := n.withCookies("/get?key=username", token); user != want {
			t.Errorf("after the sign-out it is of %q, want %q", user, want)
		}
	}
}

// A change is saved in the session that counts. If that session ends during a request, the response
// sets no cookie.
func TestOfSeveralCookiesTheRightSessionIsSaved(t *testing.T) {
	n := start(t, setting{})
	_, ana := n.withCookies("/login?user=ana")
	entered, goOn := make(chan bool), make(chan bool)
	n.handle("/slow", func(_ http.ResponseWriter, _ *http.Request, s *websession.Session) {
		entered <- true
		<-goOn
		n.check(s.Set("late", true))
	})
	n.withCookies("/set?theme=dark", "stale", ana)
	if theme, _ := n.withCookies("/get?key=theme", ana); theme != "dark" {
		t.Errorf("the theme is %q", theme)
	}
	done := make(chan string)
	go func() {
		_, set := n.withCookies("/slow", "stale", ana)
		done <- set
	}()
	livetest.Receive(t, entered)
	n.withCookies("/logout", ana)
	goOn <- true
	if set := livetest.Receive(t, done); set != "" {
		t.Error("the cookie is back")
	}
	found, err := n.sessions.Find(t.Context(), func(map[string]any) bool { return true })
	if len(found) > 0 || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
}

// However many cookies a client sends, the store is read a few times, and the log grows by a few lines.
func TestManyCookiesCostLittle(t *testing.T) {
	store := &counting{MemStore: memstore.New()}
	sm := scs.New()
	sm.Store = store
	n := start(t, setting{sm: sm})
	tokens := make([]string, 500)
	for i := range tokens {
		tokens[i] = fmt.Sprint("made-up-", i)
	}
	for range 30 {
		before := store.reads.Load()
		n.withCookies("/get?key=a", tokens...)
		if reads := store.reads.Load() - before; reads > 8 {
			t.Fatalf("%d reads of the store", reads)
		}
	}
	if lines := strings.Count(n.logs.String(), "several cookies"); lines == 0 || lines > 15 {
		t.Errorf("%d lines were logged", lines)
	}
}
