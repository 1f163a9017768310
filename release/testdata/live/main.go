// A program that uses package live alone.
package main

import (
	"context"
	"log"

	"github.com/livetopic/livetopic/live"
)

func main() {
	server := live.New(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10} },
	})
	defer server.Shutdown(context.Background())
	if err := server.Publish("news", []byte(`"hello"`)); err != nil {
		log.Fatal(err)
	}
	past, err := server.History(context.Background(), "news", 10)
	if err != nil || len(past) != 1 || string(past[0].Data) != `"hello"` {
		log.Fatalf("history %v, error %v", past, err)
	}
}
