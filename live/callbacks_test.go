package live_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// callbacks has each of the application's callbacks call f once. s is nil where the callback belongs to no
// session.
var callbacks = map[string]func(o *live.Options, f func(s *live.Session)){
	"OnAuth": func(o *live.Options, f func(s *live.Session)) {
		o.OnAuth = func(context.Context, *http.Request) (any, error) { f(nil); return nil, nil }
	},
	"OnConnect": func(o *live.Options, f func(s *live.Session)) {
		o.OnConnect = func(_ context.Context, s *live.Session) error { f(s); return nil }
	},
	"OnMessage": func(o *live.Options, f func(s *live.Session)) {
		o.OnMessage = func(_ context.Context, s *live.Session, _ string, _ []byte) { f(s) }
	},
	"OnSubscribe": func(o *live.Options, f func(s *live.Session)) {
		o.OnSubscribe = func(_ context.Context, s *live.Session, _ string) error { f(s); return nil }
	},
	"OnUnsubscribe": func(o *live.Options, f func(s *live.Session)) {
		o.OnUnsubscribe = func(s *live.Session, _ string) { f(s) }
	},
	"OnPublish": func(o *live.Options, f func(s *live.Session)) {
		o.OnPublish = func(_ context.Context, s *live.Session, _ string, data []byte) ([]byte, error) {
			f(s)
			return data, nil
		}
	},
	"OnRequest": func(o *live.Options, f func(s *live.Session)) {
		o.OnRequest = func(_ context.Context, s *live.Session, _ string, _ []byte) (any, error) { f(s); return 1, nil }
	},
	"OnPresence": func(o *live.Options, f func(s *live.Session)) {
		o.OnPresence = func(_ context.Context, s *live.Session, _ string, info []byte) ([]byte, error) {
			f(s)
			return info, nil
		}
	},
	"OnClose": func(o *live.Options, f func(s *live.Session)) {
		o.OnClose = func(s *live.Session, _ error) { f(s) }
	},
	"TraceParent": func(o *live.Options, f func(s *live.Session)) {
		o.TraceParent = func(context.Context) string { f(nil); return "" }
	},
	"UserID": func(o *live.Options, f func(s *live.Session)) {
		o.UserID = func(any) string { f(nil); return "somebody" }
	},
	"Topics": func(o *live.Options, f func(s *live.Session)) {
		o.Topics = func(topic string) live.TopicOptions { f(nil); return presentAndKept(topic) }
	},
	"Snapshot": func(o *live.Options, f func(s *live.Session)) {
		o.Topics = func(topic string) live.TopicOptions {
			rules := presentAndKept(topic)
			if topic == "s" {
				rules.Snapshot = func(context.Context, string) (any, error) { f(nil); return 1, nil }
			}
			return rules
		}
	},
	"IDGenerator": func(o *live.Options, f func(s *live.Session)) {
		var mu sync.Mutex
		id := ""
		o.IDGenerator = func() string {
			f(nil)
			mu.Lock()
			defer mu.Unlock()
			id += "x"
			return id
		}
	},
	"CheckOrigin": func(o *live.Options, f func(s *live.Session)) {
		o.CheckOrigin = func(*http.Request) bool { f(nil); return true }
	},
}

func presentAndKept(string) live.TopicOptions {
	return live.TopicOptions{History: 10, Presence: live.PresenceVisible}
}

// listeners has each function that listens call f once.
var listeners = map[string]func(server *live.Server, f func()) (live.Subscription, error){
	"Listen": func(server *live.Server, f func()) (live.Subscription, error) {
		return server.Listen("t", func(live.Message) { f() })
	},
	"ListenPresence": func(server *live.Server, f func()) (live.Subscription, error) {
		return server.ListenPresence("t", func(live.PresenceChange) { f() })
	},
	"OnBroadcast": func(server *live.Server, f func()) (live.Subscription, error) {
		server.OnBroadcast("kind", func([]byte) { f() })
		return nil, server.Broadcast(context.Background(), "kind", nil)
	},
}

// everything calls every method of a server, and of a session if there is one. What they return is
// tested elsewhere: here they must return.
func everything(server *live.Server, s *live.Session) {
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	server.Publish("t", []byte(`"from a callback"`), live.ID("x"))
	server.Publish("other", []byte("1"))
	server.Position(ctx, "t")
	server.History(ctx, "t", 10)
	server.Presence("t")
	server.PresenceCount("t")
	server.Subscribers("t")
	server.Stats()
	server.DisconnectUser("nobody", "")
	server.SubscribeUser("nobody", "other")
	server.UnsubscribeUser("nobody", "other")
	server.Broadcast(ctx, "another kind", nil)
	if sub, err := server.Listen("other", func(live.Message) {}); err == nil {
		sub.Unsubscribe()
	}
	if sub, err := server.ListenPresence("other", func(live.PresenceChange) {}); err == nil {
		sub.Unsubscribe()
	}
	if s == nil {
		return
	}
	s.Send(live.Message{Topic: "t", Data: []byte("1")})
	server.Subscribe(s, "other")
	server.Subscribe(s, "t", live.Last(1))
	s.Listen("other", func(live.Message) {})
	s.SetPresence("t", "here")
	s.SetPresence("another", nil)
	s.ClearPresence("t")
	server.Unsubscribe(s, "other")
	server.Unsubscribe(s, "t")
}

// endings are what a callback may do to its own session at last.
var endings = map[string]func(s *live.Session){
	"goes on":     func(*live.Session) {},
	"closes":      func(s *live.Session) { s.Close() },
	"disconnects": func(s *live.Session) { s.Disconnect(live.CloseRevoked, "go away") },
}

// A callback may call everything. It returns, its session ends as usual, and nobody else notices.
func TestCallbackMayCallEverything(t *testing.T) {
	t.Parallel()
	livetest.AtOnce(t, func(g *livetest.Together) {
		for name, set := range callbacks {
			for ending, end := range endings {
				g.Run(name+"/"+ending, func(t *testing.T) {
					called := make(chan struct{})
					var begun atomic.Bool
					var server *live.Server
					opts := livetest.Open(live.Options{
						Logger:     livetest.Quiet,
						Topics:     presentAndKept,
						OnAuth:     func(context.Context, *http.Request) (any, error) { return "somebody", nil },
						OnPresence: func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil },
					})
					var bystands atomic.Bool
					set(&opts, func(s *live.Session) {
						if !bystands.Load() || begun.Swap(true) {
							return
						}
						everything(server, s)
						if s != nil {
							end(s)
						}
						close(called)
					})
					server = livetest.NewServer(t, opts)
					at := livetest.Serve(t, server.Handler())
					bystander := livetest.DialV1(t, at)
					bystander.Must(livetest.SubscribeTo(1, "t"))
					bystands.Store(true)

					c := livetest.DialV1(t, at)
					c.Say(
						`{"topic":"t","data":1}`,
						livetest.SubscribeTo(1, "t"),
						livetest.Operation("present", 2, "t", "info", "here"),
						livetest.Operation("publish", 3, "t", "data", 1),
						livetest.Operation("request", 4, "t", "data", 1),
						livetest.SubscribeTo(5, "s"),
						livetest.UnsubscribeFrom(6, "t"),
					)
					if ending == "goes on" && name != "OnClose" {
						c.Reply(6)
					}
					c.Leave()
					livetest.Receive(t, called)
					hears(t, bystander, server)
				})
			}
		}
		for name, listen := range listeners {
			g.Run(name, func(t *testing.T) {
				called := make(chan struct{})
				var begun atomic.Bool
				server := livetest.NewServer(t, livetest.Open(live.Options{Logger: livetest.Quiet, Topics: presentAndKept}))
				at := livetest.Serve(t, server.Handler())
				sub, err := listen(server, func() {
					if !begun.Swap(true) {
						everything(server, nil)
						close(called)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				bystander := livetest.DialV1(t, at)
				bystander.Must(livetest.SubscribeTo(1, "t"))
				server.Publish("t", []byte("1"))
				livetest.Receive(t, called)
				hears(t, bystander, server)
				if sub != nil {
					sub.Unsubscribe()
				}
			})
		}
	})
}

// hears checks that a client hears what is published last.
func hears(t *testing.T, c *livetest.Client, server *live.Server) {
	t.Helper()
	if err := server.Publish("t", []byte(`"the last"`)); err != nil {
		t.Fatal(err)
	}
	for {
		f := c.Next()
		if f.Op == "gap" || f.Op == "error" {
			t.Fatalf("the bystander got %s", f)
		}
		if f.IsPublication() && string(f.Data) == `"the last"` {
			break
		}
	}
	c.Leave()
	livetest.Eventually(t, "the sessions' end", func() bool { st := server.Stats(); return st.Sessions == 0 && st.Subscriptions == 0 && st.Panics == 0 })
}
