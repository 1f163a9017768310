package liveclient_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

// startServer starts a server for the examples. All topics keep history, and tell who is present.
func startServer() (server *live.Server, url string, stop func()) {
	server = live.New(live.Options{
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		OnPublish: func(_ context.Context, _ *live.Session, topic string, data []byte) ([]byte, error) {
			if topic == "read-only" {
				return nil, errors.New("no")
			}
			return data, nil
		},
		OnRequest: func(_ context.Context, _ *live.Session, _ string, data []byte) (any, error) {
			return "you asked " + string(data), nil
		},
		Topics: func(string) live.TopicOptions {
			return live.TopicOptions{History: 100, Presence: live.PresenceVisible}
		},
		OnPresence: func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil },
	})
	web := httptest.NewServer(server.Handler())
	return server, web.URL, func() {
		server.Shutdown(context.Background())
		web.Close()
	}
}

func Example() {
	_, url, stop := startServer()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	client, err := liveclient.Connect(ctx, url, liveclient.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	type item struct{ Text string }
	heard := make(chan item)
	sub, err := liveclient.Subscribe(client, "news", func(i item, m liveclient.Message) { heard <- i })
	if err != nil {
		log.Fatal(err)
	}
	if err := sub.Wait(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := client.Publish(ctx, "news", item{"hello"}); err != nil {
		log.Fatal(err)
	}
	fmt.Println((<-heard).Text)

	answer, err := liveclient.Request[string](ctx, client, "anything", 42)
	fmt.Println(answer, err)
	// Output:
	// hello
	// you asked 42 <nil>
}

// A program that was away goes on where it was.
func ExampleSince() {
	server, url, stop := startServer()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client, err := liveclient.Connect(ctx, url, liveclient.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	at, err := client.Publish(ctx, "orders", "first")
	if err != nil {
		log.Fatal(err)
	}
	live.Publish(server, "orders", "second")
	live.Publish(server, "orders", "third")

	heard := make(chan string)
	liveclient.Subscribe(client, "orders", func(order string, m liveclient.Message) { heard <- order }, liveclient.Since(at))
	fmt.Println(<-heard, <-heard)
	// Output: second third
}

// The error of a publication tells whether it may have been made.
func ExampleSent() {
	_, url, stop := startServer()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client, err := liveclient.Connect(ctx, url, liveclient.Options{})
	if err != nil {
		log.Fatal(err)
	}

	_, err = client.Publish(ctx, "read-only", 1)
	fmt.Println(liveclient.Code(err))

	client.Close()
	_, err = client.Publish(ctx, "news", 1, liveclient.ID("order 7"))
	fmt.Println(errors.Is(err, liveclient.ErrClosed), liveclient.Sent(err))
	// Output:
	// forbidden
	// true false
}

func ExampleOnJoin() {
	_, url, stop := startServer()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	watcher, err := liveclient.Connect(ctx, url, liveclient.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer watcher.Close()
	known, joined := make(chan int, 10), make(chan liveclient.Member, 10)
	watcher.Subscribe("room", nil, liveclient.Unseen(),
		liveclient.OnPresence(func(p liveclient.Presence) { known <- p.Count }),
		liveclient.OnJoin(func(m liveclient.Member) { joined <- m }))
	fmt.Println(<-known)

	guest, err := liveclient.Connect(ctx, url, liveclient.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer guest.Close()
	guest.Subscribe("room", nil, liveclient.Info("hello, I am new"))
	fmt.Println(string((<-joined).Sessions[0]))
	// Output:
	// 0
	// "hello, I am new"
}
