// Command html is a list of notes that every tab has live. All of its HTML is rendered in Go, and its page has no script of
// its own.
//
//	go run ./examples/html
//
// With htmx, forms and buttons do not load the page again:
//
//	go run ./examples/html -htmx https://cdn.jsdelivr.net/npm/htmx.org@4.0.1/dist/htmx.min.js
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

var templates = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Notes</title>
<script type="module" src="/livetopic/element.js"></script>
{{with .HTMX}}<script src="{{.}}"></script>{{end}}
<h1>Notes</h1>
<form method="post" action="/notes" hx-post="/notes" hx-swap="none">
	<input name="text" aria-label="Note" required maxlength="200"> <button>Add</button>
</form>
<ul id="notes">{{range .Notes}}{{template "note" .}}{{end}}</ul>
<live-topic topic="notes" keyed html target="#notes"></live-topic>
</html>

{{define "note"}}<li data-key="{{.ID}}">{{.Text}}
	<form method="post" action="/notes/{{.ID}}/done" hx-post="/notes/{{.ID}}/done" hx-swap="none"><button>Done</button></form>
</li>{{end}}`))

// Note is something to remember.
type Note struct {
	ID   int
	Text string
}

// board has the notes.
type board struct {
	live *live.Server
	htmx string // the address of htmx; "": the page has none

	mu    sync.Mutex
	notes []Note
	last  int // ID
}

func newBoard(htmx string) *board {
	return &board{htmx: htmx, live: live.New(live.Options{
		OnSubscribe: func(_ context.Context, _ *live.Session, topic string) error {
			if topic != "notes" {
				return errors.New("there is no such topic")
			}
			return nil
		},
		// There is no OnPublish, so no client publishes. All HTML is from here.
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{Keyed: topic == "notes"}
		},
	})}
}

func (b *board) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /live", b.live.Handler())
	mux.Handle("GET /livetopic/", client.Files())
	mux.HandleFunc("GET /{$}", b.page)
	mux.HandleFunc("POST /notes", b.add)
	mux.HandleFunc("POST /notes/{id}/done", b.done)
	return http.NewCrossOriginProtection().Handler(mux)
}

func (b *board) page(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	templates.Execute(w, map[string]any{"Notes": b.notes, "HTMX": b.htmx})
}

// add publishes a note as the page shows it.
func (b *board) add(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	note := Note{ID: b.last, Text: r.FormValue("text")}
	var html strings.Builder
	if err := templates.ExecuteTemplate(&html, "note", note); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	b.notes = append(b.notes, note)
	live.Publish(b.live, "notes", html.String(), live.Key(strconv.Itoa(note.ID)))
	answer(w, r)
}

// done removes a note from every page.
func (b *board) done(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, note := range b.notes {
		if strconv.Itoa(note.ID) == r.PathValue("id") {
			b.notes = append(b.notes[:i], b.notes[i+1:]...)
			b.live.Remove("notes", r.PathValue("id"))
			break
		}
	}
	answer(w, r)
}

// answer has a page without htmx load the notes again. With htmx, the topic brings the change.
func answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("HX-Request") != "" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	htmx := flag.String("htmx", "", "`URL` of htmx; empty: the page works without it")
	flag.Parse()
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal("html: ", err)
	}
	fmt.Printf("Notes: http://%s\n", listener.Addr())
	b := newBoard(*htmx)
	web := &http.Server{Handler: b.routes(), ReadHeaderTimeout: 5 * time.Second}
	if err := b.live.Run(context.Background(), func() error { return web.Serve(listener) }, web.Shutdown); err != nil {
		log.Fatal("html: ", err)
	}
}
