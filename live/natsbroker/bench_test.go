package natsbroker

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live/broker"
)

// The worst case of a stream: a million publications of 200 bytes, on disk. They belong to ten
// thousand topics in turn.
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

// No session has the topic. For a topic with a session, the live server would answer from its
// memory.
func BenchmarkColdTopic(b *testing.B) {
	br := open(b, Options{StoreDir: b.TempDir(), Streams: suiteStreams()})
	br.Start(devNull{})
	fillStream(b, br)
	ctx := context.Background()
	i := 0
	next := func() string { i++; return fmt.Sprint("long:", i*7919%benchTopics) }
	for _, n := range []int{1, 50, 100} {
		b.Run(fmt.Sprint("Tail-", n), func(b *testing.B) {
			for b.Loop() {
				page, err := br.Tail(ctx, next(), n)
				if err != nil || len(page.Publications) != n {
					b.Fatal(len(page.Publications), err)
				}
			}
		})
	}
	b.Run("Last", func(b *testing.B) {
		for b.Loop() {
			if _, err := br.Last(ctx, next()); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, missed := range []int{0, 10, 50} {
		b.Run(fmt.Sprint("Read-", missed), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				topic := next()
				last, err := br.Last(ctx, topic)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				page, err := br.Read(ctx, topic, last.Offset-uint64(missed*benchTopics), last.Offset, 1000)
				if err != nil || len(page.Publications) != missed || !page.Complete {
					b.Fatal(len(page.Publications), page.Complete, err)
				}
			}
		})
	}
}

// Publish returns when a publication without a stream is on its way, and when a publication of
// a stream is stored: on one node, or on two of three.
func BenchmarkPublish(b *testing.B) {
	data := []byte(`"` + strings.Repeat("x", 126) + `"`)
	publish := func(br *Broker, topic string) func(b *testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				if _, err := br.Publish(context.Background(), topic, data, broker.PublishOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	alone := open(b, Options{StoreDir: b.TempDir(), Streams: suiteStreams()})
	alone.Start(devNull{})
	b.Run("plain", publish(alone, "t"))
	b.Run("stored", publish(alone, "long:1"))
	cluster := openCluster(b, 3)
	for _, br := range cluster {
		br.Start(devNull{})
	}
	b.Run("stored-of-three", publish(cluster[0], "long:1"))
}

// The start of an embedded server until its streams exist, and its stop.
func BenchmarkStartAndClose(b *testing.B) {
	var closing time.Duration
	for b.Loop() {
		br, err := New(Options{StoreDir: b.TempDir(), Streams: suiteStreams()[:1], Logger: quiet()})
		if err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		if err := br.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
		closing += time.Since(begin)
	}
	b.ReportMetric(float64(closing.Microseconds())/float64(b.N), "µs-of-it-closing/op")
}

// The cost of a topic: for a node that has a subscriber for it, and for all three nodes of a
// cluster when one node has.
func BenchmarkTopic(b *testing.B) {
	subscribe := func(nodes ...*Broker) func(b *testing.B) {
		for _, br := range nodes {
			br.Start(devNull{})
		}
		return func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			goroutines, known := runtime.NumGoroutine(), nodes[len(nodes)-1].server.srv.NumSubscriptions()
			i := 0
			for ; b.Loop(); i++ {
				if err := nodes[0].Subscribe(context.Background(), fmt.Sprint("room:", i)); err != nil {
					b.Fatal(err)
				}
			}
			waitFor(b, "the other nodes", func() bool {
				return nodes[len(nodes)-1].server.srv.NumSubscriptions() >= known+uint32(i)
			})
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapInuse-before.HeapInuse)/float64(i), "bytes/topic")
			b.ReportMetric(float64(runtime.NumGoroutine()-goroutines), "goroutines-more")
		}
	}
	b.Run("alone", subscribe(open(b, Options{})))
	b.Run("of-three", subscribe(openCluster(b, 3)...))
}

// How long a cluster of three acknowledges nothing after the leader of a stream has died.
func BenchmarkLeaderLost(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		cluster := openCluster(b, 3)
		leader, other := 0, 0
		for i, br := range cluster {
			br.Start(devNull{})
			if br.server.srv.JetStreamIsStreamLeader("$G", "LONG") {
				leader, other = i, (i+1)%3
			}
		}
		if _, err := cluster[other].Publish(context.Background(), "long:1", []byte("1"), broker.PublishOptions{}); err != nil {
			b.Fatal(err)
		}
		go cluster[leader].Close(context.Background())
		for cluster[leader].server.srv.Running() {
			time.Sleep(time.Millisecond)
		}
		b.StartTimer()
		for {
			if _, err := cluster[other].Publish(context.Background(), "long:1", []byte("1"), broker.PublishOptions{}); err == nil {
				break
			}
		}
		b.StopTimer()
		for _, br := range cluster {
			br.Close(context.Background())
		}
		b.StartTimer()
	}
}

// devNull is a sink that ignores everything.
type devNull struct{}

func (devNull) Deliver(*broker.Publication) {}
func (devNull) Lost(string, error)          {}
