// Command nethttp is a chat with one room and the standard library alone.
//
//	go run ./examples/nethttp
package main

import (
	"context"
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

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Chat</title>
<link rel="icon" href="data:,">
<style>
	:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
	body { max-width: 34rem; margin: 1.5rem auto; padding: 0 1rem; }
	form { display: flex; gap: .5rem; }
	input { flex: 1; min-width: 0; }
	input, button { font: inherit; padding: .375rem .75rem; }
	ul { padding: 0; list-style: none; overflow-wrap: anywhere; }
	li { padding: .25rem 0; border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent); }
	#waiting li { opacity: .75; }
	#waiting li::after { content: " – waits for the connection"; }
</style>
<main>
<h1>Chat</h1>
<p id="state" role="status">Connecting …</p>
<form><input id="text" aria-label="Message" maxlength="1000" autocomplete="off" required autofocus> <button>Send</button></form>
<ul id="waiting"></ul>
<ul id="said" aria-live="polite"></ul>
</main>
<script type="module">
	import { connect } from "/live.js";
	const live = connect("/live"), form = document.querySelector("form"), state = document.querySelector("#state");
	const line = (list, text) => {
		const li = document.createElement("li");
		li.append(String(text));
		document.querySelector(list).prepend(li);
		return li;
	};
	live.on("state", (now) => (state.textContent = { open: "Connected", closed: "The server has ended this page" }[now.state] ?? "Connecting …"));
	live.subscribe("chat", (text) => line("#said", text), { last: 50, onGap: () => document.querySelector("#said").replaceChildren() });
	form.onsubmit = async (event) => {
		event.preventDefault();
		const text = form.text.value.trim();
		if (!text) return;
		const waiting = line("#waiting", text);
		form.reset();
		try {
			await live.publish("chat", text, { timeout: Infinity }); // sent again if the connection breaks before the answer
		} catch (error) { // the server does not want it: the person may change it
			form.text.value ||= text;
			state.textContent = error.message;
		}
		waiting.remove();
	};
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
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	flag.Parse()
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal("nethttp: ", err)
	}
	server := newServer()
	web := &http.Server{Handler: routes(server), ReadHeaderTimeout: 5 * time.Second}
	fmt.Printf("Chat: http://%s\n", listener.Addr())
	if err := server.Run(context.Background(), func() error { return web.Serve(listener) }, web.Shutdown); err != nil {
		log.Fatal("nethttp: ", err)
	}
}
