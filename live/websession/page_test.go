package websession_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"log"
	"net/http"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

// Every Go snippet of docs/sessions.md is also in this file or in an example, where it is compiled.
func TestSnippetsOfThePageCompile(t *testing.T) {
	livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "../../docs/sessions.md"), 9, "go"), "page_test.go", "../../examples/token/token.go")
}

var _ = func(mux *http.ServeMux) http.Handler {
	sessions := websession.New(nil, websession.Options{}) // in memory
	server := sessions.NewServer(live.Options{
		OnAuth: websession.Authenticate("username"), // 401 for a browser that has not signed in
	})
	mux.Handle("GET /live", server.Handler())
	handler := sessions.Middleware(mux) // around everything, in the place of scs's LoadAndSave
	return handler
}

var _ = func(db *sql.DB) *websession.Manager {
	sm, err := websession.NewSQLiteSessionManager(db)
	if err != nil {
		log.Fatal(err)
	}
	sm.Lifetime = 24 * time.Hour
	sm.Cookie.SameSite = http.SameSiteLaxMode
	sessions := websession.New(sm, websession.Options{})
	return sessions
}

func login(w http.ResponseWriter, r *http.Request) {
	s := websession.FromRequest(r)
	if !passwordIsRight(r) {
		s.Set("flash", "Wrong name or password.")
		http.Redirect(w, r, "/login", http.StatusSeeOther)
		return
	}
	s.RenewToken() // first, against session fixation
	s.Set("username", r.FormValue("username"))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func loginPage(w http.ResponseWriter, r *http.Request) {
	flash := websession.FromRequest(r).PopString("flash") // read once
	showLogin(w, flash)
}

func logout(w http.ResponseWriter, r *http.Request) {
	websession.FromRequest(r).Destroy()
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func passwordIsRight(r *http.Request) bool { return r.FormValue("password") == "right" }

func showLogin(w http.ResponseWriter, flash string) { w.Write([]byte("flash: " + flash)) }

var _ = live.Options{
	OnRequest: func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
		session := websession.FromLive(s)
		var theme string
		if err := json.Unmarshal(data, &theme); err != nil {
			return nil, err
		}
		if err := session.Set("theme", theme); err != nil {
			return nil, err // signed out meanwhile, or the store is down
		}
		return session.GetString("theme"), nil
	},
}

func signOutEverywhere(ctx context.Context, sessions *websession.Manager, name string) error {
	found, err := sessions.Find(ctx, func(values map[string]any) bool {
		return values["username"] == name
	})
	if err != nil {
		return err
	}
	for _, s := range found {
		if err := s.Destroy(); err != nil {
			return err
		}
	}
	return nil
}

// The page's handlers do what it says of them.
func TestThePagesLoginWorks(t *testing.T) {
	n, b := start(t, setting{live: signedIn()}), newBrowser(t)
	n.mux.HandleFunc("/page/login", login)
	n.mux.HandleFunc("/{$}", loginPage)
	n.mux.HandleFunc("/page/logout", logout)
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	b.ask(n.url + "/page/login?password=wrong")
	if got := b.get(n.url + "/"); got != "flash: Wrong name or password." {
		t.Error(got)
	}
	if got := b.get(n.url + "/"); got != "flash: " {
		t.Error(got)
	}
	b.ask(n.url + "/page/login?password=right&username=ana")
	c, _ := b.dial(n)
	b.ask(n.url + "/page/logout")
	c.endsWith(live.CloseRevoked)

	b.ask(n.url + "/page/login?password=right&username=ana")
	c, _ = b.dial(n)
	if err := signOutEverywhere(t.Context(), n.sessions, "ana"); err != nil {
		t.Error(err)
	}
	c.endsWith(live.CloseRevoked)

	b.ask(n.url + "/page/login?password=right&username=ana")
	c, _ = b.dial(n)
	server := n.live
	server.DisconnectUser("ana", "banned") // 4001, on every server
	c.endsWith(live.CloseRevoked)
}
