package live_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"strings"
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
	if err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown); err != nil {
		log.Fatal(err)
	}
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

// Send answers one client alone. A page hears it with live.js's listen:
//
//	live.listen("echo", (data) => console.log(data));
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

// A page gets the rows of a database, and then every change of them:
//
//	live.subscribe("tasks", apply, { onState: replace });
//
// Store a change first, and publish it then.
func ExampleTopicOptions_snapshot() {
	var db *sql.DB
	server := live.New(live.Options{
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{
				Snapshot: func(ctx context.Context, topic string) (any, error) {
					var open int
					err := db.QueryRowContext(ctx, "SELECT count(*) FROM tasks WHERE NOT done").Scan(&open)
					return map[string]int{"open": open}, err
				},
			}
		},
	})
	http.HandleFunc("POST /tasks", func(w http.ResponseWriter, r *http.Request) {
		if _, err := db.ExecContext(r.Context(), "INSERT INTO tasks (text) VALUES (?)", r.FormValue("text")); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		live.Publish(server, "tasks", map[string]string{"text": r.FormValue("text")})
	})
}

// A template prints the position at which the page was rendered, and the page follows from there:
//
//	live.subscribe("tasks", apply, { since: list.dataset.since });
func ExampleServer_Position() {
	server := live.New(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 100} },
	})
	at, err := server.Position(context.Background(), "tasks") // before the rows are read
	if err != nil {
		log.Fatal(err)
	}
	server.Publish("tasks", []byte(`{"text":"later"}`))
	fmt.Println("nothing was published before:", at.Offset == 0)
	// Output: nothing was published before: true
}

// A publication that is repeated with the same ID is there once.
func ExampleID() {
	server := live.New(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 100} },
	})
	ctx := context.Background()
	first, _ := server.PublishContext(ctx, "orders", []byte(`{"order":17}`), live.ID("order-17"))
	again, _ := server.PublishContext(ctx, "orders", []byte(`{"order":17}`), live.ID("order-17"))
	all, _ := server.History(ctx, "orders", 10)
	fmt.Println(first == again, len(all))
	// Output: true 1
}

// A page publishes, and the application writes into it who it was:
//
//	await live.publish("chat:42", "hello");
func ExampleOptions_onPublish() {
	live.New(live.Options{
		OnPublish: func(ctx context.Context, s *live.Session, topic string, data []byte) ([]byte, error) {
			if !strings.HasPrefix(topic, "chat:") {
				return nil, errors.New("chats only") // the client is told "forbidden"
			}
			return json.Marshal(map[string]any{"by": s.UserID(), "text": json.RawMessage(data)})
		},
	})
}

// A page asks a question, and waits for its answer:
//
//	const { sum } = await live.request("add", [1, 2]);
func ExampleOptions_onRequest() {
	live.New(live.Options{
		OnRequest: func(ctx context.Context, s *live.Session, topic string, data []byte) (any, error) {
			var numbers []int
			if err := json.Unmarshal(data, &numbers); err != nil {
				return nil, &live.ClientError{Code: "bad_request", Message: "a list of numbers, please"}
			}
			sum := 0
			for _, n := range numbers {
				sum += n
			}
			return map[string]int{"sum": sum}, nil
		},
	})
}

// Go code subscribes as pages do. What does not decode is logged.
func ExampleListen() {
	type item struct{ Text string }
	server := live.New(live.Options{})
	heard := make(chan item)
	subscription, err := live.Listen(server, "news", func(i item) { heard <- i })
	if err != nil {
		log.Fatal(err)
	}
	defer subscription.Unsubscribe()
	live.Publish(server, "news", item{"hello"})
	fmt.Println((<-heard).Text)
	// Output: hello
}

func ExampleHistory() {
	type item struct{ Text string }
	server := live.New(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 2} },
	})
	for _, text := range []string{"one", "two", "three"} {
		live.Publish(server, "news", item{text})
	}
	items, err := live.History[item](context.Background(), server, "news", 10)
	fmt.Println(items, err)
	// Output: [{two} {three}] <nil>
}

// A user was banned. OnAuth must say no from now on, because the page may connect again.
func ExampleServer_DisconnectUser() {
	server := live.New(live.Options{
		OnAuth: func(_ context.Context, r *http.Request) (any, error) { return r.Header.Get("X-User"), nil },
	})
	http.HandleFunc("POST /ban/{user}", func(w http.ResponseWriter, r *http.Request) {
		if err := server.DisconnectUser(r.PathValue("user"), "banned"); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable) // other servers may not know
		}
	})
}

// Pages see who is in a room, and the application too:
//
//	live.subscribe("room", fn, { onPresence: ({ members }) => show([...members.keys()]) });
func ExampleServer_Presence() {
	server := live.New(live.Options{
		OnAuth:      func(_ context.Context, r *http.Request) (any, error) { return r.Header.Get("X-User"), nil },
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		Topics:      func(string) live.TopicOptions { return live.TopicOptions{Presence: live.PresenceVisible} },
	})
	for _, member := range server.Presence("room") {
		fmt.Println(member.UserID)
	}
	fmt.Println(server.PresenceCount("room"))
	// Output: 0
}

// Two lines end a program in order: they wait for SIGTERM or Ctrl-C.
func ExampleServer_Run() {
	server := live.New(live.Options{})
	web := &http.Server{Addr: "localhost:8080", Handler: server.Handler(), ReadHeaderTimeout: 5 * time.Second}
	if err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}
