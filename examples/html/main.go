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
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

//go:embed notes.css
var style string

var templates = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Notes</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/notes.css">
<script type="module" src="/livetopic/element.js"></script>
{{with .HTMX}}<script src="{{.}}"></script>{{end}}
<main>
<h1>Notes</h1>
<form method="post" action="/notes" hx-post="/notes" hx-swap="none" hx-on::after:request="this.reset()">
	<input name="text" aria-label="Note" required pattern=".*\S.*" title="Some text" maxlength="200"> <button>Add</button>
</form>
<ul id="notes">{{range .Notes}}{{template "note" .}}{{end}}</ul>
<live-topic topic="notes" keyed html target="#notes"></live-topic>
</main>
</html>

{{define "note"}}<li data-key="{{.ID}}">{{.Text}}
	<form method="post" action="/notes/{{.ID}}/done" hx-post="/notes/{{.ID}}/done" hx-swap="none"><button aria-label="Done: {{.Text}}">Done</button></form>
</li>{{end}}`))

// maxText is how many bytes a note has at most: the page lets a person type 200 characters.
const maxText = 800

// Note is something to remember.
type Note struct {
	ID   int
	Text string
}

// board has the notes.
type board struct {
	live *live.Server
	htmx string // the address of htmx; "": the page has none

	mu    sync.Mutex // guards the fields below
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
	mux.HandleFunc("GET /notes.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css")
		io.WriteString(w, style)
	})
	mux.HandleFunc("GET /{$}", b.page)
	mux.HandleFunc("POST /notes", b.add)
	mux.HandleFunc("POST /notes/{id}/done", b.done)
	return http.NewCrossOriginProtection().Handler(mux)
}

func (b *board) page(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	notes := slices.Clone(b.notes) // a browser may take its page slowly, and must not hold the lock meanwhile
	b.mu.Unlock()
	templates.Execute(w, map[string]any{"Notes": notes, "HTMX": b.htmx})
}

func (b *board) add(w http.ResponseWriter, r *http.Request) {
	text := strings.TrimSpace(r.FormValue("text")) // reads the request, which may come slowly
	if text == "" || len(text) > maxText {
		http.Error(w, "a note has some text, but not too much", http.StatusBadRequest)
		return
	}
	if err := b.addNote(text); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, r)
}

// addNote publishes a note as the page shows it.
func (b *board) addNote(text string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	note := Note{ID: b.last + 1, Text: text}
	var html strings.Builder
	if err := templates.ExecuteTemplate(&html, "note", note); err != nil {
		return err
	}
	if err := live.Publish(b.live, "notes", html.String(), live.Key(strconv.Itoa(note.ID))); err != nil {
		return err // the topic may have all the keys that it can have
	}
	b.last++
	b.notes = append(b.notes, note)
	return nil
}

// done removes a note from every page.
func (b *board) done(w http.ResponseWriter, r *http.Request) {
	if err := b.removeNote(r.PathValue("id")); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, r)
}

func (b *board) removeNote(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, note := range b.notes {
		if strconv.Itoa(note.ID) == id {
			if err := b.live.Remove("notes", id); err != nil {
				return err
			}
			b.notes = slices.Delete(b.notes, i, i+1)
			return nil
		}
	}
	return nil // another tab has removed it
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
