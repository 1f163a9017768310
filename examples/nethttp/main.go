// Command nethttp is a chat with one room and the standard library alone.
package main

import (
	"context"
	"io"
	"log"
	"net/http"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

const page = `<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Chat</title>
<form><input id="text" aria-label="Message" autofocus> <button>Send</button></form><ul aria-live="polite"></ul>
<script type="module">
	import { connect } from "/live.js";
	const live = connect("/live"), form = document.querySelector("form"), list = document.querySelector("ul");
	live.subscribe("chat", (text) => list.appendChild(document.createElement("li")).append(String(text)));
	form.onsubmit = () => { live.send("say", form.text.value); form.reset(); return false; };
</script>`

func handler() http.Handler {
	var server *live.Server
	server = live.New(live.Options{
		OnConnect: func(_ context.Context, s *live.Session) error { return server.Subscribe(s, "chat") },
		OnMessage: func(_ context.Context, _ *live.Session, topic string, data []byte) {
			if topic == "say" {
				server.Publish("chat", data)
			}
		},
		ReadLimit: 4096, // bytes: a long message
	})
	mux := http.NewServeMux()
	mux.Handle("/live", server.Handler())
	mux.Handle("/live.js", client.Handler())
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })
	return mux
}

func main() {
	log.Print("Chat: http://localhost:8080")
	log.Fatal(http.ListenAndServe("localhost:8080", handler()))
}
