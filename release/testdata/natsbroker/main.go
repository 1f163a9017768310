// A program with a NATS server inside, which keeps the history.
package main

import (
	"context"
	"log"
	"log/slog"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/natsbroker"
)

func main() {
	broker, err := natsbroker.New(natsbroker.Options{
		Streams: []natsbroker.StreamConfig{{Name: "NEWS", Subjects: []string{"news"}, MaxMsgsPerTopic: 10}},
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	server := live.New(live.Options{Broker: broker})
	defer server.Shutdown(context.Background())
	if err := server.Publish("news", []byte(`"hello"`)); err != nil {
		log.Fatal(err)
	}
	past, err := server.History(context.Background(), "news", 10)
	if err != nil || len(past) != 1 || string(past[0].Data) != `"hello"` {
		log.Fatalf("history %v, error %v", past, err)
	}
}
