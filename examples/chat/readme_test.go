package main

import (
	"log"
	"testing"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/natsbroker"
)

// The README's snippet with NATS, which its own test looks for here.
func TestTheReadmesBrokerKeepsHistory(t *testing.T) {
	t.Chdir(t.TempDir())
	start := func() *live.Server {
		broker, err := natsbroker.New(natsbroker.Options{
			StoreDir: "data",
			Streams:  []natsbroker.StreamConfig{{Name: "NEWS", Subjects: []string{"news"}, MaxMsgsPerTopic: 100}},
		})
		if err != nil {
			log.Fatal(err)
		}
		server := live.New(live.Options{Broker: broker}) // and the rest as before
		return server
	}
	server := start()
	if err := server.Publish("news", []byte(`{"text":"hello"}`)); err != nil {
		t.Fatal(err)
	}
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	server = start()
	defer server.Shutdown(t.Context())
	past, err := server.History(t.Context(), "news", 10)
	if err != nil || len(past) != 1 {
		t.Error(past, err)
	}
}
