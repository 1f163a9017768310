package websession_test

import (
	"context"
	"fmt"
	"html"
	"log"
	"net/http"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

// Sign-in, sign-out, and sockets that are closed when their session ends.
func Example() {
	sessions := websession.New(nil, websession.Options{}) // in memory
	server := sessions.NewServer(live.Options{
		OnAuth: websession.Authenticate("username"),
	})

	mux := http.NewServeMux()
	mux.Handle("/live", server.Handler())
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		s := websession.FromRequest(r)
		if r.FormValue("password") != "secret" {
			s.Set("flash", "Wrong name or password.")
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		}
		s.RenewToken() // first, against session fixation
		s.Set("username", r.FormValue("username"))
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		flash := websession.FromRequest(r).PopString("flash") // read once
		fmt.Fprintf(w, "<p>%s</p><form method=post>…</form>", html.EscapeString(flash))
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		websession.FromRequest(r).Destroy() // and every tab's socket is closed
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	})

	web := &http.Server{
		Addr:              "localhost:8080",
		Handler:           http.NewCrossOriginProtection().Handler(sessions.Middleware(mux)),
		ReadHeaderTimeout: 5 * time.Second,
	}
	if err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}

// On a socket the same methods read and write the store.
func ExampleFromLive() {
	sessions := websession.New(nil, websession.Options{})
	sessions.NewServer(live.Options{
		OnRequest: func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
			session := websession.FromLive(s)
			if err := session.Set("theme", string(data)); err != nil {
				return nil, err // signed out meanwhile, or the store is down
			}
			return session.GetString("theme"), nil
		},
	})
}

// Update changes values in one step that other calls cannot interrupt.
func ExampleSession_Update() {
	addToCart := func(s *websession.Session, article string) error {
		return s.Update(func(values map[string]any) error {
			n, _ := values[article].(int)
			values[article] = n + 1
			return nil
		})
	}
	fmt.Println(addToCart(nil, "tea"))
	// Output: websession: there is no session, or it has ended
}

// Sign out everywhere: every device of a user.
func ExampleManager_Find() {
	sessions := websession.New(nil, websession.Options{})
	found, err := sessions.Find(context.Background(), func(values map[string]any) bool {
		return values["username"] == "ana"
	})
	if err != nil {
		fmt.Println(err)
	}
	for _, s := range found {
		s.Destroy()
	}
	// Output:
}
