// Command stream shows an answer that grows word by word, in every tab that looks at it. A page that
// is loaded anew, and a program that was killed, go on where the answer is.
//
//	go run ./examples/stream
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

//go:embed page.html
var page string

// Answer is what a model has said so far. It is in a file, so that a restart goes on with it.
type Answer struct {
	file string
	mu   sync.Mutex // guards what follows
	text string
	word int // how many words text has
}

// State is the answer so far. Its JSON is what a page begins with.
type State struct {
	Text string `json:"text"`
	Word int    `json:"word"`
}

// Word is one more word of the answer.
type Word struct {
	Text string `json:"text"`
	Word int    `json:"word"` // how many there are with it
}

func open(file string) (*Answer, error) {
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return &Answer{file: file, text: string(b), word: strings.Count(string(b), " ")}, nil
}

func (a *Answer) state() State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return State{a.text, a.word}
}

// add stores a word. It is published afterwards, so whatever a page has been told is stored.
func (a *Answer) add(text string) (Word, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := os.OpenFile(a.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Word{}, err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return Word{}, err
	}
	a.text += text
	a.word++
	return Word{text, a.word}, nil
}

// speak has the model say what is missing of its answer, until ctx ends.
func speak(server *live.Server, a *Answer, pause time.Duration) error {
	for {
		word, err := a.add(model(a.state().Word) + " ")
		if err != nil {
			return err
		}
		if err := live.Publish(server, "answer", word); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

// model is a made-up one: it says the n-th word of an answer that never ends.
func model(n int) string {
	words := strings.Fields(`A live topic is a name. Whoever publishes to it need not know who listens,
		and whoever listens need not ask again. A page that was away is told what it missed.`)
	return words[n%len(words)]
}

func newServer(a *Answer) *live.Server {
	return live.New(live.Options{
		OnSubscribe: func(_ context.Context, _ *live.Session, topic string) error {
			if topic != "answer" {
				return errors.New("there is one answer")
			}
			return nil
		},
		Topics: func(string) live.TopicOptions {
			return live.TopicOptions{
				History:  200,
				Snapshot: func(context.Context, string) (any, error) { return a.state(), nil },
			}
		},
	})
}

func routes(server *live.Server) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /live", server.Handler())
	mux.Handle("GET /live.js", client.Handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })
	return mux
}

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	file := flag.String("file", "answer.txt", "`file` of the answer")
	flag.Parse()
	a, err := open(*file)
	if err != nil {
		log.Fatal("stream: ", err)
	}
	server := newServer(a)
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal("stream: ", err)
	}
	web := &http.Server{Handler: routes(server), ReadHeaderTimeout: 5 * time.Second}
	fmt.Printf("Stream: http://%s\n", listener.Addr())
	serve := func() error {
		go func() { // ends with the server
			if err := speak(server, a, 150*time.Millisecond); !errors.Is(err, live.ErrServerClosed) {
				log.Fatal("stream: ", err)
			}
		}()
		return web.Serve(listener)
	}
	if err := server.Run(context.Background(), serve, web.Shutdown); err != nil {
		log.Fatal("stream: ", err)
	}
}
