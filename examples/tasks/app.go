package main

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"strings"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

// topic is the topic of the list.
const topic = "tasks"

// maxName is how many bytes a name has at most: the page lets a person type 40 characters.
const maxName = 160

// App is the list, and the live server through which its pages follow it.
type App struct {
	list     *List
	sessions *websession.Manager
	live     *live.Server
}

// NewApp returns an app that keeps the list and the sign-ins in a database.
func NewApp(db *sql.DB) (*App, error) {
	list, err := OpenList(db)
	if err != nil {
		return nil, err
	}
	sm, err := websession.NewSQLiteSessionManager(db)
	if err != nil {
		return nil, err
	}
	a := &App{list: list, sessions: websession.New(sm, websession.Options{})}
	a.live = a.sessions.NewServer(live.Options{
		OnAuth: websession.Authenticate("name"), // 401 for clients that have not signed in
		OnSubscribe: func(_ context.Context, _ *live.Session, asked string) error {
			if asked != topic {
				return errors.New("there is one list")
			}
			return nil
		},
		Topics: func(string) live.TopicOptions {
			return live.TopicOptions{
				History: 100, // a page that was away for fewer changes gets these
				Snapshot: func(ctx context.Context, _ string) (any, error) { // any other gets the list anew
					return list.State(ctx)
				},
			}
		},
	})
	return a, nil
}

// Routes is everything that the program serves.
func (a *App) Routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /live", a.live.Handler())
	mux.Handle("GET /live.js", client.Handler())
	mux.HandleFunc("GET /tasks.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		w.Write(script)
	})
	mux.HandleFunc("GET /{$}", a.page)
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("POST /logout", a.logout)
	mux.HandleFunc("POST /tasks", a.save)
	return http.NewCrossOriginProtection().Handler(a.sessions.Middleware(mux))
}

var (
	//go:embed page/tasks.html
	html string
	//go:embed page/tasks.js
	script []byte

	pages = template.Must(template.New("").Parse(html))
)

// page shows the list. The position is taken before the list is read: whatever the list lacks is
// published after the position, so the page misses nothing when it follows from there.
func (a *App) page(w http.ResponseWriter, r *http.Request) {
	name := websession.FromRequest(r).GetString("name")
	at, err := a.live.Position(r.Context(), topic)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	state, err := a.list.State(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	inPage, _ := json.Marshal(state) // strings and numbers
	w.Header().Set("Cache-Control", "no-store")
	pages.Execute(w, map[string]any{"Name": name, "At": at.String(), "State": string(inPage)})
}

// save stores a task, publishes it when that is committed, and answers with it.
func (a *App) save(w http.ResponseWriter, r *http.Request) {
	name := websession.FromRequest(r).GetString("name")
	var t Task
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&t)
	switch {
	case name == "":
		http.Error(w, "sign in first", http.StatusUnauthorized)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	t.By = name
	if err := t.check(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := a.list.Save(r.Context(), &t); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if err := live.Publish(a.live, topic, t); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(t)
}

func (a *App) login(w http.ResponseWriter, r *http.Request) {
	s := websession.FromRequest(r)
	if name := strings.TrimSpace(r.FormValue("name")); name != "" && len(name) <= maxName {
		s.RenewToken() // first, against session fixation
		s.Set("name", name)
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (a *App) logout(w http.ResponseWriter, r *http.Request) {
	websession.FromRequest(r).Destroy() // and its sockets are closed
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
