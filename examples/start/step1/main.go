// Command step1 of the getting-started page: what is posted appears in every open page.
package main

import (
	"context"
	_ "embed"
	"log"
	"net/http"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

//go:embed page.html
var page []byte

type Note struct {
	Text string `json:"text"`
}

func main() {
	server := live.New(live.Options{
		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error {
			return nil // every page may follow every topic
		},
	})

	mux := http.NewServeMux()
	mux.Handle("GET /live", server.Handler())
	mux.Handle("GET /live.js", client.Handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	mux.HandleFunc("POST /notes", func(w http.ResponseWriter, r *http.Request) {
		if err := live.Publish(server, "wall", Note{Text: r.FormValue("text")}); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})

	web := &http.Server{Addr: "localhost:8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	if err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}
