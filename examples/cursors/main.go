// Command cursors shows everybody's cursor on one page, with a name and a colour. Each cursor is a key of
// a keyed topic: a page that is slow gets the newest place of each, and none of the places between.
//
//	go run ./examples/cursors
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

//go:embed page.html
var page string

// Cursor is where somebody points. X and Y are shares of the window's size.
type Cursor struct {
	Name   string  `json:"name"`
	Colour int     `json:"colour"` // a hue, in degrees
	X      float64 `json:"x"`
	Y      float64 `json:"y"`
}

func newServer() *live.Server {
	var server *live.Server
	server = live.New(live.Options{
		OnSubscribe: func(_ context.Context, _ *live.Session, topic string) error {
			if topic != "cursors" {
				return errors.New("there are cursors, and nothing else")
			}
			return nil
		},
		Topics: func(topic string) live.TopicOptions {
			// A cursor that its OnClose could not remove, since the process was killed, goes after a minute.
			return live.TopicOptions{Keyed: topic == "cursors", HistoryAge: time.Minute}
		},
		OnMessage: func(_ context.Context, s *live.Session, topic string, data []byte) {
			var c Cursor
			if err := json.Unmarshal(data, &c); err != nil || len(c.Name) > 40 {
				return
			}
			live.Publish(server, "cursors", c, live.Key(s.ID()))
		},
		OnClose: func(s *live.Session, _ error) {
			server.Remove("cursors", s.ID())
		},
	})
	return server
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
	flag.Parse()
	server := newServer()
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal("cursors: ", err)
	}
	web := &http.Server{Handler: routes(server), ReadHeaderTimeout: 5 * time.Second}
	fmt.Printf("Cursors: http://%s\n", listener.Addr())
	if err := server.Run(context.Background(), func() error { return web.Serve(listener) }, web.Shutdown); err != nil {
		log.Fatal("cursors: ", err)
	}
}
