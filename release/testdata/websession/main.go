// A program with cookie sessions in SQLite, which serves live.js.
package main

import (
	"database/sql"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

func main() {
	folder, err := os.MkdirTemp("", "consumer")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(folder, "app.db"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	manager, err := websession.NewSQLiteSessionManager(db)
	if err != nil {
		log.Fatal(err)
	}
	sessions := websession.New(manager, websession.Options{})
	server := sessions.NewServer(live.Options{OnAuth: websession.Authenticate("username")})

	mux := http.NewServeMux()
	mux.Handle("GET /live", server.Handler())
	mux.Handle("GET /live.js", client.Handler())
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		websession.FromRequest(r).Set("username", "alice")
	})
	mux.HandleFunc("GET /name", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, websession.FromRequest(r).GetString("username"))
	})
	handler := sessions.Middleware(mux)

	if script := get(handler, "/live.js", nil).Body.String(); len(script) < 1000 {
		log.Fatalf("live.js is %q", script)
	}
	cookies := get(handler, "/login", nil).Result().Cookies()
	if name := get(handler, "/name", cookies).Body.String(); name != "alice" {
		log.Fatalf("the session has the name %q", name)
	}
}

func get(handler http.Handler, path string, cookies []*http.Cookie) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	for _, cookie := range cookies {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		log.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	return w
}
