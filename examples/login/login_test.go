package main

import (
	"context"
	"database/sql"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetest"
	"github.com/livetopic/livetopic/live/natsbroker"
)

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
func serve(t *testing.T, file string) *livetest.Server {
	t.Helper()
	return livetest.Serve(t, newRoutes(t, file, Options{}))
}

// newRoutes returns the handler of an app that is shut down when the test ends.
func newRoutes(t *testing.T, file string, o Options) http.Handler {
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
	t.Cleanup(func() {
		app.Shutdown(context.Background())
		db.Close()
	})
	return app.Routes()
}

func newFile(t *testing.T) string { return filepath.Join(t.TempDir(), "login.db") }

// browser keeps its cookies.
type browser struct {
	t      *testing.T
	server *livetest.Server
	client *http.Client
}

func newBrowser(t *testing.T, server *livetest.Server) *browser {
	return &browser{t, server, server.Client()}
}

// get returns where a page is in the end, and its text.
func (b *browser) get(path string) (at, text string) {
	b.t.Helper()
	resp, err := b.client.Get(b.server.URL + path)
	return b.page(resp, err)
}

func (b *browser) post(path string, fields url.Values) (at, text string) {
	b.t.Helper()
	resp, err := b.client.PostForm(b.server.URL+path, fields)
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
func signedIn(t *testing.T, server *livetest.Server, name string) *browser {
	t.Helper()
	b := newBrowser(t, server)
	if at, _ := b.login(name, demoPassword); at != "/" {
		t.Fatalf("the login led to %s", at)
	}
	return b
}

func (b *browser) cookie() string {
	u, _ := url.Parse(b.server.URL)
	for _, c := range b.client.Jar.Cookies(u) {
		return c.Value
	}
	return ""
}

func (b *browser) setCookie(value string) {
	u, _ := url.Parse(b.server.URL)
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "session", Value: value, Path: "/"}})
}

// open opens a page that follows a topic.
func (b *browser) open(topic string) *livetest.Client {
	b.t.Helper()
	page := b.server.Dial(livetest.As(b.client))
	page.Subscribe(topic, livetest.Last(1))
	return page
}

// until waits for a list of ana's devices for which ok returns true.
func until(page *livetest.Client, ok func(list []device) bool) {
	livetest.Await(page, "devices:ana", ok)
}

func TestWrongPasswordFlashesOnce(t *testing.T) {
	b := newBrowser(t, serve(t, newFile(t)))
	for _, try := range []struct{ name, password string }{{"ana", "wrong"}, {"nobody", demoPassword}, {"", ""}, {"ana", strings.Repeat("x", 300)}} {
		at, text := b.login(try.name, try.password)
		if at != "/login" || !strings.Contains(text, "Wrong name or password.") {
			t.Errorf("%q, %q: at %s\n%s", try.name, try.password, at, text)
		}
		if !strings.Contains(text, `class="flash wrong"`) || !strings.Contains(text, `value="`+try.name+`"`) {
			t.Errorf("%q: the page does not show an error, or has lost the name:\n%s", try.name, text)
		}
		if _, text := b.get("/login"); strings.Contains(text, "Wrong name") || !strings.Contains(text, `value=""`) {
			t.Error("it flashes twice, or keeps the name")
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
	b.server.ExpectRefused(http.StatusUnauthorized, livetest.As(b.client))
	b.login("ana", demoPassword)
	if at, text := b.get("/account"); at != "/account" || !strings.Contains(text, "ana") {
		t.Errorf("after the login at %s", at)
	}
	if at, _ := b.get("/login"); at != "/" {
		t.Errorf("who is signed in is led to %s", at)
	}
}

func TestLoginRenewsTheToken(t *testing.T) {
	server := serve(t, newFile(t))
	attacker := newBrowser(t, server)
	attacker.login("ana", "wrong") // a session of no worth
	bait := attacker.cookie()
	for _, token := range []string{bait, "made-up"} {
		victim := newBrowser(t, server)
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
		req, err := http.NewRequest("POST", b.server.URL+"/logout", nil)
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
			server := c.start(newRoutes(t, newFile(t), c.o))
			t.Cleanup(server.Close)
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
	server := serve(t, newFile(t))
	phone := signedIn(t, server, "ana")
	list := phone.open("devices:ana")
	until(list, func(l []device) bool { return len(l) == 1 && l[0].Tabs == 1 })
	second := phone.open("devices:ana")
	until(list, func(l []device) bool { return len(l) == 1 && l[0].Tabs == 2 })
	second.Cut()
	until(list, func(l []device) bool { return len(l) == 1 && l[0].Tabs == 1 })

	laptop := signedIn(t, server, "ana")
	onLaptop := laptop.open("devices:ana")
	until(list, func(l []device) bool { return len(l) == 2 && l[0].Tabs == 1 && l[1].Tabs == 1 })
	onBos := signedIn(t, server, "bo").open("devices:bo")
	livetest.Await(onBos, "devices:bo", func(l []device) bool { return len(l) == 1 })

	laptop.post("/logout", nil)
	onLaptop.ExpectClosed(live.CloseRevoked)
	until(list, func(l []device) bool { return len(l) == 1 })
}

func TestNobodyHearsOfAnothersDevices(t *testing.T) {
	server := serve(t, newFile(t))
	b := signedIn(t, server, "bo")
	page := server.Dial(livetest.As(b.client))
	page.ExpectError("forbidden", func() { page.Subscribe("devices:ana") })
}

func TestSignOutEverywhere(t *testing.T) {
	server := serve(t, newFile(t))
	phone, laptop, bo := signedIn(t, server, "ana"), signedIn(t, server, "ana"), signedIn(t, server, "bo")
	onPhone, onLaptop := phone.open("devices:ana"), laptop.open("devices:ana")
	at, text := phone.post("/logout/everywhere", nil)
	if at != "/login" || !strings.Contains(text, "signed out on all devices") {
		t.Errorf("it led to %s", at)
	}
	onPhone.ExpectClosed(live.CloseRevoked)
	onLaptop.ExpectClosed(live.CloseRevoked)
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
	here := livetest.Serve(t, newRoutes(t, file, Options{Broker: first}))
	there := livetest.Serve(t, newRoutes(t, file, Options{Broker: second}))

	ana := signedIn(t, here, "ana")
	elsewhere := newBrowser(t, there)
	elsewhere.setCookie(ana.cookie())
	page := elsewhere.open("devices:ana")
	until(page, func(list []device) bool { return len(list) == 1 && list[0].Tabs == 1 })
	before := time.Now()
	ana.post("/logout", nil)
	page.ExpectClosed(live.CloseRevoked)
	if took := time.Since(before); took > 10*time.Second {
		t.Errorf("that has taken %v: it was noticed, not told", took) // a look comes within 30 s
	}
	there.ExpectRefused(http.StatusUnauthorized, livetest.As(elsewhere.client))
}

func TestSignOutOfOneDevice(t *testing.T) {
	server := serve(t, newFile(t))
	phone, laptop, bo := signedIn(t, server, "ana"), signedIn(t, server, "ana"), signedIn(t, server, "bo")
	var id string
	laptopsTab := laptop.open("devices:ana")
	until(laptopsTab, func(l []device) bool {
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
	laptopsTab.ExpectClosed(live.CloseRevoked)
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
	until(b.open("devices:ana"), func(l []device) bool { return len(l) == 1 })
}

func TestNoPageIsKept(t *testing.T) {
	b := signedIn(t, serve(t, newFile(t)), "ana")
	resp, err := b.client.Get(b.server.URL + "/")
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
