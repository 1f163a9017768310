package natsbroker_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/natsbroker"
)

// The zero Options are a NATS server in this process, without a port. A stream keeps
// what is said in rooms.
func Example() {
	broker, err := natsbroker.New(natsbroker.Options{
		Streams: []natsbroker.StreamConfig{{Name: "ROOMS", Subjects: []string{"room.>"}, MaxMsgsPerTopic: 100}},
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	server := live.New(live.Options{Broker: broker})
	defer server.Shutdown(context.Background())

	for _, text := range []string{"hello", "anybody here?"} {
		if err := live.Publish(server, "room.42", text); err != nil {
			log.Fatal(err) // it is stored when there is no error
		}
	}
	texts, err := live.History[string](context.Background(), server, "room.42", 10)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(texts)
	// Output: [hello anybody here?]
}

// What is stored by topic can be read with any NATS client.
func ExampleBroker_JetStream() {
	broker, err := natsbroker.New(natsbroker.Options{
		Streams: []natsbroker.StreamConfig{{Name: "ROOMS", Subjects: []string{"room.>"}}},
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	server := live.New(live.Options{Broker: broker})
	defer server.Shutdown(context.Background())
	if err := live.Publish(server, "room.42", "hello"); err != nil {
		log.Fatal(err)
	}

	stream, err := broker.JetStream().Stream(context.Background(), "ROOMS")
	if err != nil {
		log.Fatal(err)
	}
	message, err := stream.GetLastMsgForSubject(context.Background(), "live.s.room.42")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(message.Sequence, string(message.Data))
	// Output: 1 "hello"
}
