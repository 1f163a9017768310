// Command step4 of the getting-started page: each room shows who is in it.
package main

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"html/template"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("").Parse(pageText))

func main() {
	db, err := openDB("wall.db")
	if err != nil {
		log.Fatal(err)
	}
	manager, err := websession.NewSQLiteSessionManager(db) // cookie sessions that survive a restart
	if err != nil {
		log.Fatal(err)
	}
	sessions := websession.New(manager, websession.Options{})
	server := sessions.NewServer(options(db))
	web := &http.Server{Addr: "localhost:8080", Handler: routes(server, sessions, db), ReadHeaderTimeout: 5 * time.Second}
	if err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}

func options(db *sql.DB) live.Options {
	return live.Options{
		OnAuth: websession.Authenticate("name"), // 401 for a page that has not signed in
		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error {
			room, ok := strings.CutPrefix(topic, "wall:")
			if !ok || !mayEnter(s.UserID(), room) {
				return errors.New("not your room")
			}
			return nil
		},
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{
				Presence: live.PresenceVisible,
				Snapshot: func(ctx context.Context, topic string) (any, error) {
					return notesOf(ctx, db, strings.TrimPrefix(topic, "wall:"))
				},
			}
		},
	}
}

// mayEnter is the rule: everybody may enter the lobby, and only Ana the office.
func mayEnter(user, room string) bool {
	return room == "lobby" || (room == "office" && user == "ana")
}

func routes(server *live.Server, sessions *websession.Manager, db *sql.DB) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /live", server.Handler())
	mux.Handle("GET /live.js", client.Handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		page.Execute(w, websession.FromRequest(r).GetString("name"))
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		s := websession.FromRequest(r)
		s.RenewToken()                     // first, against session fixation
		s.Set("name", r.FormValue("name")) // a real application asks for a password
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		websession.FromRequest(r).Destroy() // this closes the user's sockets too
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("POST /notes", func(w http.ResponseWriter, r *http.Request) {
		name := websession.FromRequest(r).GetString("name")
		note := Note{Room: r.FormValue("room"), By: name, Text: r.FormValue("text")}
		if name == "" {
			http.Error(w, "please sign in again", http.StatusUnauthorized)
			return
		}
		if !mayEnter(name, note.Room) {
			http.Error(w, "not your room", http.StatusForbidden)
			return
		}
		if err := addNote(r.Context(), db, &note); err != nil { // first the database
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if err := live.Publish(server, "wall:"+note.Room, note); err != nil { // then the pages
			log.Print(err)
		}
	})
	return http.NewCrossOriginProtection().Handler(sessions.Middleware(mux))
}
