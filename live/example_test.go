package live_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	livejs "github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

// A whole program: its clients may subscribe to topics of news, what is posted to it is
// published, and it ends calmly. In a page, live.js (package client) is the client:
//
//	import { connect } from "/live.js";
//	connect("/live").subscribe("news", (item) => console.log(item.text), { last: 20 });
func Example() {
	server := live.New(live.Options{
		OnSubscribe: func(_ context.Context, s *live.Session, topic string) error {
			if !strings.HasPrefix(topic, "news") {
				return errors.New("no such topic") // the client is told "forbidden"
			}
			return nil
		},
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{History: 100} // a client that comes back gets what it missed
		},
	})

	http.Handle("GET /live", server.Handler())
	http.Handle("GET /live.js", livejs.Handler())
	http.HandleFunc("POST /news", func(w http.ResponseWriter, r *http.Request) {
		live.Publish(server, "news", map[string]string{"text": r.FormValue("text")})
	})

	web := &http.Server{Addr: "localhost:8080", ReadHeaderTimeout: 5 * time.Second}
	go web.ListenAndServe()

	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	<-stop.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	server.Shutdown(ctx) // the sessions, which web.Shutdown does not know of
	web.Shutdown(ctx)    // then the rest
}

// The application subscribes every session to the same topic. A page then need not ask for
// it, and hears it with live.js's listen:
//
//	connect("/live").listen("news", (item) => console.log(item.text));
func ExampleServer_Subscribe() {
	var server *live.Server
	server = live.New(live.Options{
		OnConnect: func(_ context.Context, s *live.Session) error {
			return server.Subscribe(s, "news")
		},
	})
	http.Handle("GET /live", server.Handler())
}

// OnAuth decides who may connect and what the session remembers of them.
func ExampleOptions_onAuth() {
	type User struct{ ID string }
	live.New(live.Options{
		OnAuth: func(_ context.Context, r *http.Request) (any, error) {
			token := r.Header.Get("Authorization")
			if token == "" {
				return nil, errors.New("no token") // 401
			}
			if strings.HasPrefix(token, "old ") {
				return nil, live.Refuse(http.StatusForbidden, "this account is closed")
			}
			return User{ID: token}, nil
		},
		OnMessage: func(_ context.Context, s *live.Session, _ string, _ []byte) {
			log.Print("a message of ", s.Value().(User).ID)
		},
	})
}

// Data must be JSON; what is not is an error of the publisher.
func ExampleServer_Publish() {
	server := live.New(live.Options{})
	fmt.Println(server.Publish("news", []byte(`{"text":"hello"}`)))
	fmt.Println(server.Publish("news", []byte(`{"text":`)))
	fmt.Println(server.Publish("", []byte(`1`)))
	// Output:
	// <nil>
	// live: data is not valid JSON: unexpected end of JSON input
	// live: invalid topic: it is empty
}

// Send answers one client alone.
// Everybody's cursor on one page: each user is a key, and only the newest place of a cursor matters.
func ExampleKey() {
	var server *live.Server
	server = live.New(live.Options{
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{Keyed: topic == "cursors", HistoryAge: time.Minute}
		},
		OnMessage: func(_ context.Context, s *live.Session, topic string, data []byte) {
			server.Publish("cursors", data, live.Key(s.UserID()))
		},
		OnClose: func(s *live.Session, err error) {
			server.Remove("cursors", s.UserID())
		},
	})
	server.Publish("cursors", []byte(`[1,2]`), live.Key("ann"))
	server.Publish("cursors", []byte(`[3,4]`), live.Key("bob"))
	server.Publish("cursors", []byte(`[5,6]`), live.Key("ann"))

	places, err := server.History(context.Background(), "cursors", 100)
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range places {
		fmt.Println(m.Key, string(m.Data))
	}
	// Output:
	// bob [3,4]
	// ann [5,6]
}

func ExampleSession_Send() {
	live.New(live.Options{
		OnMessage: func(_ context.Context, s *live.Session, topic string, data []byte) {
			err := s.Send(live.Message{Topic: "echo", Data: data})
			switch err {
			case live.ErrSessionClosed:
				log.Print("gone already")
			case live.ErrQueueFull:
				log.Print("too slow; the session is closed")
			}
		},
	})
}
