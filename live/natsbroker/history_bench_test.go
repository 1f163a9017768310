package natsbroker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
)

// The worst case of a stream: a million publications of 200 bytes, of ten thousand
// topics in turn, on disk.
const benchMessages, benchTopics = 1_000_000, 10_000

func fillStream(b *testing.B, broker *Broker) {
	b.Helper()
	js, err := jetstream.New(broker.NATSConn(), jetstream.WithPublishAsyncMaxPending(4000), jetstream.WithPublishAsyncTimeout(10*time.Second))
	if err != nil {
		b.Fatal(err)
	}
	data := []byte(`"` + strings.Repeat("x", 198) + `"`)
	for i := range benchMessages {
		tokens, _ := encode(fmt.Sprint("long:", i%benchTopics))
		if _, err := js.PublishAsync(broker.storedSubject(tokens), data); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
}

// A cold topic is one that no session has: what is asked of a live one comes from the
// server's memory.
func BenchmarkColdTopic(b *testing.B) {
	broker := open(b, Options{StoreDir: b.TempDir(), Streams: suiteStreams()})
	broker.Start(devNull{})
	fillStream(b, broker)
	ctx := context.Background()
	i := 0
	next := func() string { i++; return fmt.Sprint("long:", i*7919%benchTopics) }
	for _, n := range []int{1, 50, 100} {
		b.Run(fmt.Sprint("Tail-", n), func(b *testing.B) {
			for b.Loop() {
				page, err := broker.Tail(ctx, next(), n)
				if err != nil || len(page.Publications) != n {
					b.Fatal(len(page.Publications), err)
				}
			}
		})
	}
	b.Run("Last", func(b *testing.B) {
		for b.Loop() {
			if _, err := broker.Last(ctx, next()); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, missed := range []int{0, 10, 50} {
		b.Run(fmt.Sprint("Read-", missed), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				topic := next()
				last, err := broker.Last(ctx, topic)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				page, err := broker.Read(ctx, topic, last.Offset-uint64(missed*benchTopics), last.Offset, 1000)
				if err != nil || len(page.Publications) != missed || !page.Complete {
					b.Fatal(len(page.Publications), page.Complete, err)
				}
			}
		})
	}
}

func BenchmarkPublish(b *testing.B) {
	broker := open(b, Options{StoreDir: b.TempDir(), Streams: suiteStreams()})
	broker.Start(devNull{})
	data := []byte(`"` + strings.Repeat("x", 126) + `"`)
	for _, c := range []struct{ name, topic string }{{"stored", "long:1"}, {"plain", "t"}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := broker.Publish(context.Background(), c.topic, data, live.PublishOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// devNull is a server to which nothing matters.
type devNull struct{}

func (devNull) Deliver(*live.Publication) {}
func (devNull) Lost(string, error)        {}
