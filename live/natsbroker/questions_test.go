package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
)

// Clients ask for the history of topics without sessions. This measures the effect on
// publications and on other clients.

// archive is a server with many topics on disk.
type archive struct {
	testing.TB
	*live.Server
	broker   *Broker
	topics   int
	messages int // of each topic
	url      string
}

// openArchive stores that many messages of each topic in a stream ROOMS, with the topics in
// turn.
func openArchive(tb testing.TB, topics, messages int, streams ...StreamConfig) *archive {
	tb.Helper()
	if len(streams) == 0 {
		streams = []StreamConfig{{Name: "ROOMS", Subjects: []string{"room.>"}}}
	}
	b := open(tb, Options{StoreDir: tb.TempDir(), Streams: streams})
	s := live.New(live.Options{
		Broker:      b,
		Logger:      quiet(),
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
	})
	hs := httptest.NewServer(s.Handler())
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		s.Shutdown(ctx)
		hs.Close()
	})
	js, err := jetstream.New(b.NATSConn(), jetstream.WithPublishAsyncMaxPending(4000), jetstream.WithPublishAsyncTimeout(10*time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	a := &archive{tb, s, b, topics, messages, hs.URL}
	data := []byte(`"` + strings.Repeat("x", 198) + `"`)
	for i := range topics * messages {
		tokens, _ := encode(a.topic(i))
		if _, err := js.PublishAsync(b.storedSubject(tokens), data); err != nil {
			tb.Fatal(err)
		}
		if i%2000 == 1999 { // JetStream refuses more at once
			<-js.PublishAsyncComplete()
		}
	}
	<-js.PublishAsyncComplete()
	_, st := b.streamOf(a.topic(0))
	if _, err := st.stateSince(context.Background(), time.Now()); err != nil { // as after a second
		tb.Fatal(err)
	}
	return a
}

func (a *archive) topic(i int) string { return fmt.Sprint("room.", i%a.topics) }

// position returns the position of an offset in the present epoch.
func (a *archive) position(offset uint64) string {
	a.Helper()
	last, err := a.broker.Last(context.Background(), a.topic(0))
	if err != nil {
		a.Fatal(err)
	}
	return live.Position{Epoch: last.Epoch, Offset: offset}.String()
}

// asker is a client that sends one request after another.
type asker struct {
	ws *websocket.Conn
	id int
}

func (a *archive) dial(ctx context.Context) (*asker, error) {
	ws, _, err := websocket.Dial(ctx, a.url, &websocket.DialOptions{Subprotocols: []string{"live.v1"}})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	return &asker{ws: ws}, nil
}

// ask sends an operation, and returns the last part of the answer.
func (c *asker) ask(ctx context.Context, op map[string]any) (frameOfNow, error) {
	c.id++
	op["id"] = c.id
	raw, err := json.Marshal(op)
	if err != nil {
		return frameOfNow{}, err
	}
	if err := c.ws.Write(ctx, websocket.MessageText, raw); err != nil {
		return frameOfNow{}, err
	}
	for {
		_, raw, err := c.ws.Read(ctx)
		if err != nil {
			return frameOfNow{}, err
		}
		var f struct {
			frameOfNow
			More bool
		}
		if err := json.Unmarshal(raw, &f); err != nil {
			return frameOfNow{}, err
		}
		switch {
		case f.Op == "ping":
			c.ws.Write(ctx, websocket.MessageText, []byte(`{"op":"pong"}`))
		case f.ID == uint64(c.id) && !f.More:
			return f.frameOfNow, nil
		}
	}
}

// flood makes that many clients ask without a pause, until end is called. end returns how many
// answers they got.
func (a *archive) flood(clients int, question func(c *asker, topic string) error) (end func() int64) {
	a.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	var answers atomic.Int64
	for i := range clients {
		c, err := a.dial(ctx)
		if err != nil {
			a.Fatal(err)
		}
		choices := rand.New(rand.NewPCG(uint64(i), 0))
		asking.Go(func() { // ends with ctx
			defer c.ws.CloseNow()
			for ctx.Err() == nil {
				if err := question(c, a.topic(choices.IntN(a.topics))); err != nil && !errors.Is(err, context.Canceled) {
					return
				}
				answers.Add(1)
			}
		})
	}
	return func() int64 {
		cancel()
		asking.Wait()
		return answers.Load()
	}
}

// newcomers makes one client after another open a page with three topics, each with the newest
// 50 publications, until end is called. end returns the median wait and the longest wait for an
// answer.
func (a *archive) newcomers() (end func() (median, slowest time.Duration)) {
	ctx, cancel := context.WithCancel(context.Background())
	var waits []time.Duration
	ended := make(chan struct{})
	go func() { // ends with ctx
		defer close(ended)
		for i := 0; sleep(ctx, 100*time.Millisecond); i += 21 {
			took, err := a.openPage(ctx, a.topic(i), a.topic(i+7), a.topic(i+14))
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				a.Error(err)
				return
			}
			waits = append(waits, took...)
		}
	}()
	return func() (median, slowest time.Duration) {
		cancel()
		<-ended
		if len(waits) == 0 {
			return 0, 0
		}
		slices.Sort(waits)
		return waits[len(waits)/2], waits[len(waits)-1]
	}
}

// openPage makes a client subscribe to topics, one after another.
func (a *archive) openPage(ctx context.Context, topics ...string) (waits []time.Duration, err error) {
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.ws.CloseNow()
	for _, topic := range topics {
		began := time.Now()
		f, err := c.ask(ctx, map[string]any{"op": "subscribe", "topic": topic, "last": 50})
		if err != nil {
			return nil, err
		}
		if f.Op != "reply" || len(f.Messages) == 0 {
			return nil, fmt.Errorf("the newest of %s: %d, %s %s", topic, len(f.Messages), f.Op, f.Code)
		}
		waits = append(waits, time.Since(began))
	}
	return waits, nil
}

// The waits of a publication and of a newcomer, while a hundred clients ask for the history of
// topics without sessions.
func BenchmarkPublishBesideQuestions(b *testing.B) {
	a := openArchive(b, 2000, 120)
	forged, ahead := a.position(1), a.position(1<<40)
	for _, load := range []struct {
		name     string
		clients  int
		question func(c *asker, topic string) error
	}{
		{"quiet", 0, nil},
		{"history", 100, func(c *asker, topic string) error {
			_, err := c.ask(context.Background(), map[string]any{"op": "history", "topic": topic, "limit": 50})
			return err
		}},
		{"since", 100, func(c *asker, topic string) error {
			_, err := c.ask(context.Background(), map[string]any{"op": "subscribe", "topic": topic, "since": forged})
			if err == nil {
				_, err = c.ask(context.Background(), map[string]any{"op": "unsubscribe", "topic": topic})
			}
			return err
		}},
		{"ahead", 100, func(c *asker, topic string) error {
			_, err := c.ask(context.Background(), map[string]any{"op": "subscribe", "topic": topic, "since": ahead})
			return err
		}},
		{"nothing", 100, func(c *asker, topic string) error {
			_, err := c.ask(context.Background(), map[string]any{"op": "subscribe", "topic": topic})
			if err == nil {
				_, err = c.ask(context.Background(), map[string]any{"op": "unsubscribe", "topic": topic})
			}
			return err
		}},
		{"history-of-one", 100, func(c *asker, topic string) error {
			_, err := c.ask(context.Background(), map[string]any{"op": "history", "topic": "room.5", "limit": 1})
			return err
		}},
	} {
		b.Run(load.name, func(b *testing.B) {
			began := time.Now()
			endFlood := a.flood(load.clients, load.question)
			if load.clients > 0 {
				time.Sleep(5 * time.Second) // each client has asked by then
			}
			endNewcomers := a.newcomers()
			var waits []time.Duration
			for b.Loop() {
				time.Sleep(2 * time.Millisecond)
				before := time.Now()
				if err := a.Publish(a.topic(len(waits)), []byte("1")); err != nil {
					b.Fatal(err)
				}
				waits = append(waits, time.Since(before))
			}
			median, slowest := endNewcomers()
			answers := endFlood()
			slices.Sort(waits)
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
			sum := time.Duration(0)
			for _, w := range waits {
				sum += w
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ms(sum/time.Duration(len(waits))), "ms/publish")
			b.ReportMetric(ms(waits[len(waits)*99/100]), "ms/publish-p99")
			b.ReportMetric(ms(median), "ms/last-50")
			b.ReportMetric(ms(slowest), "ms/last-50-slowest")
			b.ReportMetric(float64(answers)/time.Since(began).Seconds(), "answers/s")
		})
	}
}
