// Command news is the README's program: a page that shows what is posted, as it is posted.
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

const page = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>News</title>
<link rel="icon" href="data:,"><style>:root { color-scheme: light dark; font: 1.1rem/1.6 system-ui } input, button { font: inherit }</style>
<form><input name="text" aria-label="News" required> <button>Post</button></form><ul></ul>
<script type="module">
	import { connect } from "/live.js";
	const live = connect("/live"), form = document.forms[0], list = document.querySelector("ul");
	live.subscribe("news", (item) => list.appendChild(document.createElement("li")).append(item.text), { last: 20 });
	form.onsubmit = () => {
		fetch("/news", { method: "POST", body: new URLSearchParams(new FormData(form)) }).then(() => form.reset(), () => alert("Not posted"));
		return false;
	};
</script>`

func main() {
	server := live.New(live.Options{
		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error {
			return nil // or an error: this session may not have this topic
		},
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{History: 100} // a client that comes back gets what it missed
		},
	})
	http.Handle("GET /live", server.Handler())
	http.Handle("GET /live.js", client.Handler())
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, page) })
	http.HandleFunc("POST /news", func(w http.ResponseWriter, r *http.Request) {
		live.Publish(server, "news", map[string]string{"text": r.FormValue("text")})
	})

	web := &http.Server{Addr: "localhost:8080", ReadHeaderTimeout: 5 * time.Second}
	// Run serves until SIGTERM. Then it tells the pages to come back to the next process, and returns.
	if err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}
