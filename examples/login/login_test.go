package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/natsbroker"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	// The app logs every request, which is of no use here.
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		log.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = null
	code := m.Run()
	os.Stderr = stderr
	os.Exit(code)
}

// serve starts an app on a file, until the test ends.
func serve(t *testing.T, file string) (address string) {
	t.Helper()
	return serveWith(t, file, Options{}, httptest.NewServer).URL
}

func serveWith(t *testing.T, file string, o Options, start func(http.Handler) *httptest.Server) *httptest.Server {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	o.Iterations = 10
	app, err := NewApp(db, o)
	if err != nil {
		t.Fatal(err)
	}
	server := start(app.Routes())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		app.Shutdown(ctx)
		server.Close()
		db.Close()
	})
	return server
}

func newFile(t *testing.T) string { return filepath.Join(t.TempDir(), "login.db") }

// browser keeps its cookies.
type browser struct {
	t       *testing.T
	address string
	client  *http.Client
}

func newBrowser(t *testing.T, address string) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, address, &http.Client{Jar: jar, Timeout: patience}}
}

// get returns where a page is in the end, and its text.
func (b *browser) get(path string) (at, text string) {
	b.t.Helper()
	resp, err := b.client.Get(b.address + path)
	return b.page(resp, err)
}

func (b *browser) post(path string, fields url.Values) (at, text string) {
	b.t.Helper()
	resp, err := b.client.PostForm(b.address+path, fields)
	return b.page(resp, err)
}

func (b *browser) page(resp *http.Response, err error) (at, text string) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %s", resp.Request.URL, resp.Status)
	}
	return resp.Request.URL.Path, string(raw)
}

func (b *browser) login(name, password string) (at, text string) {
	b.t.Helper()
	return b.post("/login", url.Values{"username": {name}, "password": {password}})
}

// signedIn returns a browser in which someone has signed in.
func signedIn(t *testing.T, address, name string) *browser {
	t.Helper()
	b := newBrowser(t, address)
	if at, _ := b.login(name, demoPassword); at != "/" {
		t.Fatalf("the login led to %s", at)
	}
	return b
}

func (b *browser) cookie() string {
	u, _ := url.Parse(b.address)
	for _, c := range b.client.Jar.Cookies(u) {
		return c.Value
	}
	return ""
}

func (b *browser) setCookie(value string) {
	u, _ := url.Parse(b.address)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "session", Value: value, Path: "/"}})
}

// dial opens a socket as a page does.
func (b *browser) dial() (*websocket.Conn, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, b.address+"/live", &websocket.DialOptions{HTTPClient: b.client, Subprotocols: []string{"live.v1"}})
	if err == nil {
		b.t.Cleanup(func() { ws.CloseNow() })
	}
	return ws, resp, err
}

// tab is a socket that follows a topic.
type tab struct {
	t  *testing.T
	ws *websocket.Conn
}

func (b *browser) open(topic string) *tab {
	b.t.Helper()
	ws, _, err := b.dial()
	if err != nil {
		b.t.Fatal(err)
	}
	p := &tab{b.t, ws}
	frame, _ := json.Marshal(map[string]any{"op": "subscribe", "id": 1, "topic": topic, "last": 1})
	if err := ws.Write(context.Background(), websocket.MessageText, frame); err != nil {
		b.t.Fatal(err)
	}
	return p
}

// frame is what the server sends.
type frame struct {
	Op, Topic, Code string
	Data            []device
	Messages        []struct{ Data []device }
}

// until reads up to a list of devices for which ok.
func (p *tab) until(what string, ok func(list []device) bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, raw, err := p.ws.Read(ctx)
		if err != nil {
			p.t.Fatalf("not in time: %s: %v", what, err)
		}
		var f frame
		if err := json.Unmarshal(raw, &f); err != nil {
			p.t.Fatalf("%s: %v", raw, err)
		}
		for _, past := range f.Messages {
			if ok(past.Data) {
				return
			}
		}
		if f.Op == "" && ok(f.Data) {
			return
		}
	}
}

// closed reads to the end, and returns the code of the close frame.
func (p *tab) closed() int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		if _, _, err := p.ws.Read(ctx); err != nil {
			return int(websocket.CloseStatus(err))
		}
	}
}

func TestWrongPasswordFlashesOnce(t *testing.T) {
	b := newBrowser(t, serve(t, newFile(t)))
	for _, try := range []struct{ name, password string }{{"ana", "wrong"}, {"nobody", demoPassword}, {"", ""}, {"ana", strings.Repeat("x", 300)}} {
		at, text := b.login(try.name, try.password)
		if at != "/login" || !strings.Contains(text, "Wrong name or password.") {
			t.Errorf("%q, %q: at %s\n%s", try.name, try.password, at, text)
		}
		if _, text := b.get("/login"); strings.Contains(text, "Wrong name") {
			t.Error("it flashes twice")
		}
	}
}

func TestPagesAreProtected(t *testing.T) {
	b := newBrowser(t, serve(t, newFile(t)))
	for _, path := range []string{"/", "/account"} {
		if at, text := b.get(path); at != "/login" || !strings.Contains(text, "Please sign in first.") {
			t.Errorf("%s led to %s", path, at)
		}
	}
	for _, path := range []string{"/logout", "/logout/everywhere", "/devices/x/logout"} {
		if at, _ := b.post(path, nil); at != "/login" {
			t.Errorf("%s led to %s", path, at)
		}
	}
	if _, resp, err := b.dial(); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the socket: %v", resp)
	}
	b.login("ana", demoPassword)
	if at, text := b.get("/account"); at != "/account" || !strings.Contains(text, "ana") {
		t.Errorf("after the login at %s", at)
	}
	if at, _ := b.get("/login"); at != "/" {
		t.Errorf("who is signed in is led to %s", at)
	}
}

func TestLoginRenewsTheToken(t *testing.T) {
	address := serve(t, newFile(t))
	attacker := newBrowser(t, address)
	attacker.login("ana", "wrong") // a session of no worth
	bait := attacker.cookie()
	for _, token := range []string{bait, "made-up"} {
		victim := newBrowser(t, address)
		victim.setCookie(token)
		victim.login("ana", demoPassword)
		if victim.cookie() == token {
			t.Error("the token is the attacker's")
		}
		attacker.setCookie(token)
		if at, _ := attacker.get("/account"); at != "/login" {
			t.Error("the attacker is signed in")
		}
		if at, _ := victim.get("/account"); at != "/account" {
			t.Error("the victim is not")
		}
	}
}

func TestOtherSitesCannotPost(t *testing.T) {
	b := signedIn(t, serve(t, newFile(t)), "ana")
	for name, header := range map[string]http.Header{
		"a modern browser": {"Sec-Fetch-Site": {"cross-site"}},
		"an old one":       {"Origin": {"https://evil.example"}},
	} {
		req, err := http.NewRequest("POST", b.address+"/logout", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		resp, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	if at, _ := b.get("/account"); at != "/account" {
		t.Error("signed out by another site")
	}
}

func TestTheCookieIsGuarded(t *testing.T) {
	for name, c := range map[string]struct {
		o      Options
		start  func(http.Handler) *httptest.Server
		secure bool
		cookie string
	}{
		"plain":              {Options{}, httptest.NewServer, false, "session"},
		"TLS":                {Options{}, httptest.NewTLSServer, true, "session"},
		"behind a TLS proxy": {Options{Secure: true}, httptest.NewServer, true, "__Host-session"},
	} {
		t.Run(name, func(t *testing.T) {
			server := serveWith(t, newFile(t), c.o, c.start)
			client := server.Client()
			client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			resp, err := client.PostForm(server.URL+"/login", url.Values{"username": {"ana"}, "password": {demoPassword}})
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			cookies := resp.Cookies()
			if len(cookies) != 1 {
				t.Fatalf("%d cookies", len(cookies))
			}
			got := cookies[0]
			if got.Name != c.cookie || got.Secure != c.secure || !got.HttpOnly || got.SameSite != http.SameSiteLaxMode || got.Path != "/" || got.Domain != "" {
				t.Errorf("the cookie is %v", got.Raw[strings.Index(got.Raw, ";"):])
			}
		})
	}
}

func TestDevicesAreLive(t *testing.T) {
	address := serve(t, newFile(t))
	phone := signedIn(t, address, "ana")
	list := phone.open("devices:ana")
	list.until("one device, one tab", func(l []device) bool { return len(l) == 1 && l[0].Tabs == 1 })
	second := phone.open("devices:ana")
	list.until("two tabs", func(l []device) bool { return len(l) == 1 && l[0].Tabs == 2 })
	second.ws.CloseNow()
	list.until("one tab", func(l []device) bool { return len(l) == 1 && l[0].Tabs == 1 })

	laptop := signedIn(t, address, "ana")
	onLaptop := laptop.open("devices:ana")
	list.until("two devices", func(l []device) bool { return len(l) == 2 && l[0].Tabs == 1 && l[1].Tabs == 1 })
	signedIn(t, address, "bo").open("devices:bo").until("bo's own", func(l []device) bool { return len(l) == 1 })

	laptop.post("/logout", nil)
	if code := onLaptop.closed(); code != live.CloseRevoked {
		t.Errorf("the laptop's socket was closed with %d", code)
	}
	list.until("one device again", func(l []device) bool { return len(l) == 1 })
}

func TestNobodyHearsOfAnothersDevices(t *testing.T) {
	b := signedIn(t, serve(t, newFile(t)), "bo")
	p := b.open("devices:ana")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, raw, err := p.ws.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var f frame
		if json.Unmarshal(raw, &f) == nil && f.Op == "error" {
			if f.Code != "forbidden" {
				t.Errorf("answered %s", raw)
			}
			return
		}
	}
}

func TestSignOutEverywhere(t *testing.T) {
	address := serve(t, newFile(t))
	phone, laptop, bo := signedIn(t, address, "ana"), signedIn(t, address, "ana"), signedIn(t, address, "bo")
	onPhone, onLaptop := phone.open("devices:ana"), laptop.open("devices:ana")
	at, text := phone.post("/logout/everywhere", nil)
	if at != "/login" || !strings.Contains(text, "signed out on all devices") {
		t.Errorf("it led to %s", at)
	}
	for _, p := range []*tab{onPhone, onLaptop} {
		if code := p.closed(); code != live.CloseRevoked {
			t.Errorf("closed with %d", code)
		}
	}
	if at, _ := laptop.get("/account"); at != "/login" {
		t.Error("the laptop is signed in")
	}
	if at, _ := bo.get("/account"); at != "/account" {
		t.Error("bo is signed out")
	}
}

// Two servers share the file, and speak to each other over NATS.
func TestSignOutReachesTheOtherServer(t *testing.T) {
	file, logger := newFile(t), slog.New(slog.DiscardHandler)
	first, err := natsbroker.New(natsbroker.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	second, err := natsbroker.New(natsbroker.Options{Conn: first.NATSConn(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	here := serveWith(t, file, Options{Broker: first}, httptest.NewServer)
	there := serveWith(t, file, Options{Broker: second}, httptest.NewServer)

	ana := signedIn(t, here.URL, "ana")
	elsewhere := newBrowser(t, there.URL)
	elsewhere.setCookie(ana.cookie())
	page := elsewhere.open("devices:ana")
	page.until("the list", func(list []device) bool { return len(list) == 1 && list[0].Tabs == 1 })
	before := time.Now()
	ana.post("/logout", nil)
	if code := page.closed(); code != live.CloseRevoked {
		t.Errorf("closed with %d", code)
	}
	if took := time.Since(before); took > 10*time.Second {
		t.Errorf("that has taken %v: it was noticed, not told", took) // a look comes within 30 s
	}
	if _, resp, err := elsewhere.dial(); err == nil || resp == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the socket comes back: %v", err)
	}
}

func TestSignOutOfOneDevice(t *testing.T) {
	address := serve(t, newFile(t))
	phone, laptop, bo := signedIn(t, address, "ana"), signedIn(t, address, "ana"), signedIn(t, address, "bo")
	var id string
	laptopsTab := laptop.open("devices:ana")
	laptopsTab.until("the list", func(l []device) bool {
		if len(l) == 2 {
			id = l[0].ID // the newest
		}
		return id != ""
	})
	bo.post("/devices/"+id+"/logout", nil) // it is not his
	if at, _ := laptop.get("/account"); at != "/account" {
		t.Fatal("bo has signed ana out")
	}
	phone.post("/devices/"+id+"/logout", nil)
	if code := laptopsTab.closed(); code != live.CloseRevoked {
		t.Errorf("closed with %d", code)
	}
	if at, _ := phone.get("/account"); at != "/account" {
		t.Error("the phone is signed out too")
	}
}

func TestARestartSignsNobodyOut(t *testing.T) {
	file := newFile(t)
	var token string
	t.Run("before", func(t *testing.T) { token = signedIn(t, serve(t, file), "ana").cookie() })
	b := newBrowser(t, serve(t, file))
	b.setCookie(token)
	if at, _ := b.get("/account"); at != "/account" {
		t.Errorf("after the restart at %s", at)
	}
	b.open("devices:ana").until("the device", func(l []device) bool { return len(l) == 1 })
}

func TestNoPageIsKept(t *testing.T) {
	b := signedIn(t, serve(t, newFile(t)), "ana")
	resp, err := b.client.Get(b.address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
	body, _ := io.ReadAll(resp.Body)
	if strings.Contains(string(body), b.cookie()) {
		t.Error("the page has the token in it")
	}
}

func TestDevicesHaveNames(t *testing.T) {
	for agent, want := range map[string]string{
		"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0":                                                           "Firefox on Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0":        "Edge on Windows",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile Safari/604.1": "Safari on iPhone",
		"curl/8.5.0": "curl",
		"":           "Unknown browser",
	} {
		if got := deviceOf(agent); got != want {
			t.Errorf("%s: %s", agent, got)
		}
	}
}
