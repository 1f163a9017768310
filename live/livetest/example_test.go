package livetest_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetest"
)

// exampleTB stands for the *testing.T of a test: it prints failures.
type exampleTB struct {
	testing.TB
	cleanups *[]func()
}

func newExampleTB() exampleTB { return exampleTB{cleanups: new([]func())} }

func (t exampleTB) Helper()                           {}
func (t exampleTB) Output() io.Writer                 { return io.Discard }
func (t exampleTB) Cleanup(f func())                  { *t.cleanups = append(*t.cleanups, f) }
func (t exampleTB) Fatalf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (t exampleTB) end() {
	for _, cleanup := range *t.cleanups {
		cleanup()
	}
}

// Whatever a client sends is published to the others.
func Example() {
	t := newExampleTB() // in a test: its *testing.T
	defer t.end()

	var server *live.Server
	srv := livetest.New(t, live.Options{
		OnConnect: func(_ context.Context, s *live.Session) error { return s.Subscribe("chat") },
		OnMessage: func(_ context.Context, s *live.Session, topic string, data []byte) {
			live.Publish(server, "chat", s.UserID()+" is here", live.Except(s))
		},
	})
	server = srv.Live

	alice := srv.Dial(livetest.Value("alice"))
	bob := srv.Dial(livetest.Value("bob"), livetest.Plain())
	bob.Send("hello", nil)
	alice.Expect("chat", "bob is here")
	bob.ExpectNothing()
	fmt.Println("passed")
	// Output: passed
}

// A failure says what came instead, and where it differs.
func ExampleClient_Expect() {
	t := newExampleTB() // in a test: its *testing.T
	defer t.end()

	srv := livetest.New(t, live.Options{
		OnConnect: func(_ context.Context, s *live.Session) error { return s.Subscribe("news") },
	})
	alice := srv.Dial(livetest.Value("alice"))
	srv.Publish("news", map[string]any{"id": 41, "text": "good"})
	alice.Expect("news", map[string]any{"id": livetest.Any, "text": "bad"})
	// Output:
	// alice: the next message of "news" is another one:
	// 	.text: got "good", want "bad"
	// got  {"id":41,"text":"good"}
	// want {"id":livetest.Any,"text":"bad"}
}

// A client that was away gets what it missed, as far as the history reaches.
func ExampleClient_Reconnect() {
	t := newExampleTB() // in a test: its *testing.T
	defer t.end()

	srv := livetest.New(t, live.Options{
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		Topics:      func(string) live.TopicOptions { return live.TopicOptions{History: 2} },
	})
	alice := srv.Dial(livetest.Value("alice"))
	alice.Subscribe("news")
	alice.Cut()
	srv.Publish("news", 1)
	srv.Publish("news", 2)
	alice.Reconnect()
	alice.ExpectAll("news", 1, 2)

	alice.Cut()
	for n := range 3 {
		srv.Publish("news", n)
	}
	alice.Reconnect()
	alice.ExpectGap("news")
	fmt.Println("passed")
	// Output: passed
}
