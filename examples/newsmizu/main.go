// Command newsmizu is the README's program for mizu.
package main

import (
	"context"
	"log"

	"github.com/go-mizu/mizu"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

func main() {
	server := live.New(live.Options{
		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error { return nil },
		Topics:      func(topic string) live.TopicOptions { return live.TopicOptions{History: 100} },
	})
	app := mizu.New()
	app.Compat.HandleMethod("GET", "/live", server.Handler())
	app.Compat.HandleMethod("GET", "/live.js", client.Handler())
	app.Post("/news", func(c *mizu.Ctx) error {
		return live.Publish(server, "news", map[string]string{"text": c.Request().FormValue("text")})
	})

	// Run serves until SIGTERM. Then it tells the pages to come back to the next process, and returns.
	if err := server.Run(context.Background(), func() error { return app.Listen("localhost:8080") }); err != nil {
		log.Fatal(err)
	}
}
