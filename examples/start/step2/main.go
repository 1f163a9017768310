// Command step2 of the getting-started page: pages show what the database has, whatever happens.
package main

import (
	"context"
	"database/sql"
	_ "embed"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

//go:embed page.html
var page []byte

func main() {
	db, err := openDB("wall.db")
	if err != nil {
		log.Fatal(err)
	}
	server := live.New(options(db))
	web := &http.Server{Addr: "localhost:8080", Handler: routes(server, db), ReadHeaderTimeout: 5 * time.Second}
	if err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}

func options(db *sql.DB) live.Options {
	return live.Options{
		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error {
			return nil // every page may follow every topic
		},
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{
				Snapshot: func(ctx context.Context, topic string) (any, error) {
					return notesOf(ctx, db, strings.TrimPrefix(topic, "wall:"))
				},
			}
		},
	}
}

func routes(server *live.Server, db *sql.DB) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /live", server.Handler())
	mux.Handle("GET /live.js", client.Handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	mux.HandleFunc("POST /notes", func(w http.ResponseWriter, r *http.Request) {
		note := Note{Room: "lobby", By: "somebody", Text: r.FormValue("text")}
		if err := addNote(r.Context(), db, &note); err != nil { // first the database
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if err := live.Publish(server, "wall:"+note.Room, note); err != nil { // then the pages
			log.Print(err)
		}
	})
	return http.NewCrossOriginProtection().Handler(mux) // forms of other sites may not post
}
