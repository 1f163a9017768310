package live_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// bus is a messaging system in memory, to which several servers connect.
type bus struct {
	call func(b *bus, s *busSubscription, data []byte) // how a handler is called

	mu       sync.RWMutex
	subs     map[string][]*busSubscription
	refusing bool
	running  sync.WaitGroup
}

type busSubscription struct {
	bus     *bus
	subject string
	handler func([]byte)
	queue   chan []byte // of asynchronous ones
}

// busKinds are the ways in which messaging systems call their subscribers.
var busKinds = map[string]func() *bus{
	"in the publisher's goroutine, locked": func() *bus {
		return &bus{call: func(_ *bus, s *busSubscription, data []byte) { s.handler(data) }}
	},
	"in a goroutine of the subscription": func() *bus {
		return &bus{call: func(_ *bus, s *busSubscription, data []byte) { s.queue <- data }}
	},
}

func eachBus(t *testing.T, test func(t *testing.T, b *bus)) {
	for name, make := range busKinds {
		t.Run(name, func(t *testing.T) {
			b := make()
			b.subs = map[string][]*busSubscription{}
			test(t, b)
		})
	}
}

// connection is one server's to the bus.
type connection struct{ *bus }

func (b *bus) Publish(subject string, data []byte) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.refusing {
		return errors.New("the bus refuses")
	}
	for _, s := range b.subs[subject] {
		b.call(b, s, slices.Clone(data))
	}
	return nil
}

func (b *bus) Subscribe(subject string, handler func([]byte)) (live.Subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refusing {
		return nil, errors.New("the bus refuses")
	}
	s := &busSubscription{bus: b, subject: subject, handler: handler, queue: make(chan []byte, 10_000)}
	b.subs[subject] = append(b.subs[subject], s)
	b.running.Go(func() { // ends with the subscription
		for data := range s.queue {
			s.handler(data)
		}
	})
	return s, nil
}

func (s *busSubscription) Unsubscribe() error {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	subs := s.bus.subs[s.subject]
	i := slices.Index(subs, s)
	if i < 0 {
		return errors.New("unsubscribed twice")
	}
	s.bus.subs[s.subject] = slices.Delete(slices.Clone(subs), i, i+1)
	close(s.queue)
	return nil
}

func (connection) Close() error { return nil }

func (b *bus) interest(subject string) int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.subs[subject])
}

func (b *bus) refuse(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusing = yes
}

// joined returns two servers that share a bus, and where they are.
func joined(t *testing.T, b *bus) (servers [2]*live.Server, at [2]livetest.Endpoint) {
	for i := range servers {
		opts := livetest.Permissive()
		opts.QueueSize = livetest.PatientQueue
		opts.Broker = live.FromPubSub(connection{b})
		servers[i] = livetest.NewServer(t, opts)
		at[i] = livetest.Serve(t, servers[i].Handler())
	}
	return servers, at
}

func TestServersShareTopicsOverAPubSub(t *testing.T) {
	t.Parallel()
	eachBus(t, func(t *testing.T, b *bus) {
		servers, at := joined(t, b)
		c := [2]*livetest.Client{livetest.DialV1(t, at[0]), livetest.DialV1(t, at[1])}
		var heard ear
		listening := listen(t, servers[1], "t", heard.hear)
		for i := range c {
			livetest.Same(t, "subscribe", c[i].Do(livetest.SubscribeTo(1, "t")).Raw, `{"op":"reply","id":1}`)
		}
		for i := range c {
			livetest.PublishNumbers(t, servers[i], "t", 1, 100)
			c[0].Hears("t", livetest.Numbers(1, 100)...)
			c[1].Hears("t", livetest.Numbers(1, 100)...)
		}
		heard.wants(t, append(livetest.Numbers(1, 100), livetest.Numbers(1, 100)...)...)

		c[0].Send(`{"op":"publish","id":2,"topic":"t","data":"from a client"}`)
		c[1].Hears("t", `"from a client"`)
		if f, before := c[0].Answer(); f.At != "" || f.Op != "reply" {
			t.Errorf("answered by %s, after %d frames", f.Raw, len(before))
		} else if len(before) == 0 {
			c[0].Hears("t", `"from a client"`)
		}
		servers[0].Publish("t", nil) // without data
		for i := range c {
			livetest.Same(t, "without data", c[i].Next().Raw, `{"topic":"t"}`)
		}

		listening.Unsubscribe()
		for i := range c {
			if n := b.interest("t"); n != 2-i {
				t.Errorf("%d servers are subscribed, want %d", n, 2-i)
			}
			c[i].Must(livetest.UnsubscribeFrom(3, "t"))
			livetest.Eventually(t, "the interest's end", func() bool { return b.interest("t") == 1-i })
		}
	})
}

func TestPubSubKeepsNoHistory(t *testing.T) {
	t.Parallel()
	eachBus(t, func(t *testing.T, b *bus) {
		servers, at := joined(t, b)
		c := livetest.DialV1(t, at[0])
		for _, test := range []struct{ send, want string }{ // "chat" would keep some
			{`{"op":"subscribe","id":1,"topic":"chat"}`, `{"op":"reply","id":1}`},
			{`{"op":"subscribe","id":2,"topic":"chat","since":"abcdefgh.1"}`, `{"op":"reply","id":2,"recovered":false}`},
			{`{"op":"subscribe","id":3,"topic":"chat","last":5}`, `{"op":"reply","id":3,"messages":[]}`},
			{`{"op":"history","id":4,"topic":"chat","limit":5}`, `{"op":"error","id":4,"topic":"chat","code":"no_history","message":"the topic keeps no history"}`},
		} {
			livetest.Same(t, test.send, c.Do(test.send).Raw, test.want)
		}
		servers[1].Publish("chat", []byte(`1`))
		livetest.Same(t, "a publication", c.Next().Raw, `{"topic":"chat","data":1}`)
	})
}

func TestExceptLeavesOutASessionOfAnotherServer(t *testing.T) {
	t.Parallel()
	eachBus(t, func(t *testing.T, b *bus) {
		sessions := make(chan *live.Session, 4)
		var servers [2]*live.Server
		var all []*livetest.Client
		for i := range servers {
			opts := livetest.Permissive()
			opts.Broker = live.FromPubSub(connection{b})
			opts.OnRequest = func(_ context.Context, s *live.Session, _ string, _ []byte) (any, error) {
				sessions <- s
				return nil, nil
			}
			servers[i] = livetest.NewServer(t, opts)
			at := livetest.Serve(t, servers[i].Handler())
			for range 2 {
				c := livetest.DialV1(t, at)
				c.Must(livetest.SubscribeTo(1, "t"))
				c.Must(`{"op":"request","id":2,"topic":"who"}`)
				all = append(all, c)
			}
		}
		for i, left := range all {
			s := <-sessions
			if s.ID() != left.Hello.Session {
				t.Fatalf("session %s is not %s", s.ID(), left.Hello.Session)
			}
			for k, server := range servers {
				data := fmt.Sprintf(`{"except":%d,"from":%d}`, i, k)
				server.Publish("t", []byte(data), live.Except(s))
				server.Publish("t", []byte(`"all"`))
				for _, c := range all {
					if c != left {
						c.Hears("t", data)
					}
					c.Hears("t", `"all"`)
				}
			}
		}
	})
}

// Others may publish to the same subject. What is JSON is delivered, and what is not
// harms nobody.
func TestPubSubWithForeignPublications(t *testing.T) {
	t.Parallel()
	eachBus(t, func(t *testing.T, b *bus) {
		_, at := joined(t, b)
		c := [2]*livetest.Client{livetest.DialV1(t, at[0]), livetest.DialV1(t, at[1])}
		for i := range c {
			c[i].Must(livetest.SubscribeTo(1, "t"))
		}
		for _, junk := range []string{
			"hello", "{", `{"a":1}}`, "\xff", `"` + "\xff" + `"`, "\x00", "\x00\x00", "\x00x", "\x00x\x00{", "\x00x\x00\x00y\x001", " ", "\n",
		} {
			b.Publish("t", []byte(junk))
		}
		b.Publish("t", []byte(` {"foreign": true} `))
		for i := range c {
			f := c[i].Next()
			for f.Topic == "t" && len(f.Data) == 0 { // "\x00\x00" says that there is no data
				f = c[i].Next()
			}
			if string(f.Data) != `{"foreign": true}` {
				t.Errorf("got %s", f.Raw)
			}
			if extra := c[i].Settled(); len(extra) != 0 {
				t.Errorf("then came %s", extra[0].Raw)
			}
		}
	})
}

func TestPubSubThatRefuses(t *testing.T) {
	t.Parallel()
	eachBus(t, func(t *testing.T, b *bus) {
		servers, at := joined(t, b)
		c := livetest.DialV1(t, at[0])
		b.refuse(true)
		livetest.Refused(t, "subscribe", c.Do(livetest.SubscribeTo(1, "t")), 1, "internal")
		livetest.Refused(t, "publish", c.Do(`{"op":"publish","id":2,"topic":"t","data":1}`), 2, "internal")
		if err := servers[0].Publish("t", []byte(`1`)); err == nil || !strings.Contains(err.Error(), "the bus refuses") {
			t.Errorf("Publish: %v", err)
		}
		if _, err := servers[0].Listen("t", func(live.Message) {}); err == nil {
			t.Error("Listen: no error")
		}
		silenced(t, servers[0])
		b.refuse(false)
		c.Must(livetest.SubscribeTo(3, "t"))
		servers[1].Publish("t", []byte(`1`))
		c.Hears("t", "1")
	})
}

// Clients that come and go, which makes the servers do so at the bus, while others
// publish: nobody waits for another for ever, and who is there hears all in order.
func TestPubSubUnderLoad(t *testing.T) {
	eachBus(t, func(t *testing.T, b *bus) {
		const clients, rounds = 6, 40
		servers, at := joined(t, b)
		topics := []string{"a", "b", "c"}
		var stops []func() int
		for i, topic := range topics {
			stops = append(stops, count(servers[i%2], topic, 0))
		}
		livetest.Each(clients, func(i int) {
			c := livetest.DialV1(t, at[i%2])
			for round := range rounds {
				topic := topics[(i+round)%len(topics)]
				c.Must(livetest.SubscribeTo(1, topic))
				var data []string
				for range round % 4 {
					data = append(data, string(c.Next().Data))
				}
				c.Send(livetest.UnsubscribeFrom(2, topic))
				_, before := c.Answer()
				for _, f := range before {
					data = append(data, string(f.Data))
				}
				if hole := holeIn(data); hole != "" {
					t.Errorf("client %d, topic %s: %s", i, topic, hole)
				}
			}
		})
		for _, stop := range stops {
			stop()
		}
		for i := range servers {
			silenced(t, servers[i])
		}
		livetest.Eventually(t, "the interest's end", func() bool {
			return b.interest("a")+b.interest("b")+b.interest("c") == 0
		})
	})
}

func TestHandlerOfALogMayPublishToTheTopicThatGotInvalidData(t *testing.T) {
	t.Parallel()
	var server *live.Server
	published := make(chan error, 1)
	system := newRelay()
	server = livetest.NewServer(t, live.Options{
		Broker: live.FromPubSub(system),
		Logger: slog.New(logCalls(func(line slog.Record) {
			if line.Message == "live: broker may have lost deliveries" {
				published <- server.Publish("t", []byte(`1`))
			}
		})),
	})
	heard := make(chan string, 1)
	listening, err := server.Listen("t", func(m live.Message) { heard <- string(m.Data) })
	if err != nil {
		t.Fatal(err)
	}
	go system.Publish("t", []byte("no JSON")) // ends when the handler of the log has returned
	if err := livetest.Receive(t, published); err != nil {
		t.Error(err)
	}
	if data := livetest.Receive(t, heard); data != "1" {
		t.Errorf("%s came", data)
	}
	listening.Unsubscribe()
}
