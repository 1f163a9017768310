// A program with spans of OpenTelemetry.
package main

import (
	"context"
	"log"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetrace"
)

func main() {
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	server := live.New(livetrace.Wrap(live.Options{}, livetrace.Options{}))
	heard := make(chan string, 1)
	listener := livetrace.Listener(livetrace.Options{}, func(_ context.Context, m live.Message) { heard <- m.TraceParent })
	if _, err := server.Listen("t", listener); err != nil {
		log.Fatal(err)
	}
	ctx := livetrace.Extract(context.Background(), live.Message{TraceParent: trace})
	if _, err := server.PublishContext(ctx, "t", []byte("1")); err != nil {
		log.Fatal(err)
	}
	if got := <-heard; got != trace {
		log.Fatalf("the trace is %q", got)
	}
}
