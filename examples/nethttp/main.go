// Command nethttp is a chat with one room and the standard library alone.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

const page = `<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Chat</title>
<form><input id="text" aria-label="Message" autofocus> <button>Send</button></form><ul aria-live="polite"></ul>
<script type="module">
	import { connect } from "/live.js";
	const live = connect("/live"), form = document.querySelector("form"), list = document.querySelector("ul");
	live.subscribe("chat", (text) => list.appendChild(document.createElement("li")).append(String(text)), { last: 50 });
	form.onsubmit = () => { live.publish("chat", form.text.value).catch(alert); form.reset(); return false; };
</script>`

func newServer() *live.Server {
	return live.New(live.Options{
		OnSubscribe: func(_ context.Context, _ *live.Session, topic string) error { return only(topic) },
		OnPublish: func(_ context.Context, _ *live.Session, topic string, data []byte) ([]byte, error) {
			return data, only(topic)
		},
		Topics:    func(string) live.TopicOptions { return live.TopicOptions{History: 50} },
		ReadLimit: 4096, // bytes: a long message
	})
}

func routes(server *live.Server) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/live", server.Handler())
	mux.Handle("/live.js", client.Handler())
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })
	return mux
}

// only allows everyone the one topic that there is.
func only(topic string) error {
	if topic != "chat" {
		return live.ErrInvalidTopic
	}
	return nil
}

func main() {
	server := newServer()
	listener, err := net.Listen("tcp", "localhost:8080")
	if err != nil {
		log.Fatal(err)
	}
	web := &http.Server{Handler: routes(server), ReadHeaderTimeout: 5 * time.Second}
	fmt.Println("Chat: http://localhost:8080")
	if err := server.Run(context.Background(), func() error { return web.Serve(listener) }, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}
