package livetest_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	inner "github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetest"
)

// Every Go snippet of docs/testing.md is also in this file, where it runs.
func TestSnippetsOfThePageCompile(t *testing.T) {
	inner.InFiles(t, inner.Snippets(t, inner.ReadFile(t, "../../docs/testing.md"), 5, "go"), "page_test.go")
}

// chat returns the options of a chat with rooms.
func chat() live.Options {
	rooms := func(topic string) error {
		if !strings.HasPrefix(topic, "room:") {
			return errors.New("there are rooms only")
		}
		return nil
	}
	return live.Options{
		OnSubscribe: func(_ context.Context, _ *live.Session, topic string) error { return rooms(topic) },
		OnPublish: func(_ context.Context, s *live.Session, topic string, data []byte) ([]byte, error) {
			said, err := json.Marshal(map[string]any{"by": s.UserID(), "text": json.RawMessage(data)})
			return said, errors.Join(err, rooms(topic))
		},
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10} },
	}
}

func TestOthersHearWhoSpeaks(t *testing.T) {
	srv := livetest.New(t, chat()) // the application's live.Options
	alice := srv.Dial(livetest.Value("alice"))
	bob := srv.Dial(livetest.Value("bob"))
	alice.Subscribe("room:1")
	bob.Subscribe("room:2")

	bob.Publish("room:1", "hi")

	alice.Expect("room:1", map[string]string{"by": "bob", "text": "hi"})
	bob.ExpectNothing()
	bob.ExpectError("forbidden", func() { bob.Subscribe("admins") })
}

func TestClientThatComesBackHearsAll(t *testing.T) {
	srv := livetest.New(t, chat())
	alice := srv.Dial(livetest.Value("alice"))
	alice.Subscribe("room:1")
	alice.Cut() // no close frame
	srv.Publish("room:1", "missed")
	alice.Reconnect() // as live.js does
	srv.Publish("room:1", "new")
	alice.ExpectAll("room:1", "missed", "new")
	alice.ExpectNothing()
}

func TestDeadClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := livetest.New(t, chat())
		alice := srv.Dial(livetest.Value("alice"))
		alice.StopReading()          // and answers no ping
		time.Sleep(36 * time.Second) // PingInterval and PingTimeout, and a second more
		alice.ExpectEnd(live.ErrPingTimeout)
	})
}

// store is where the page's application keeps who is typing.
type store struct {
	mu     sync.Mutex // guards typing
	typing map[string]bool
}

func (s *store) isTyping(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.typing[user]
}

func TestApplicationsStateIsThereAfterSync(t *testing.T) {
	store := &store{typing: make(map[string]bool)}
	opts := chat()
	opts.OnMessage = func(_ context.Context, s *live.Session, topic string, data []byte) {
		store.mu.Lock()
		defer store.mu.Unlock()
		store.typing[s.UserID()] = topic == "typing" && string(data) == "true"
	}
	srv := livetest.New(t, opts)
	bob := srv.Dial(livetest.Value("bob"))
	bob.Send("typing", true) // OnMessage stores it
	srv.Sync()
	if !store.isTyping("bob") {
		t.Error("it was not stored")
	}
}

// program is an application with a page for signing in.
type program struct{ live *live.Server }

func (p program) Routes() http.Handler { return mounted(p.live) }

func TestBrowserSignsIn(t *testing.T) {
	opts := chat()
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		cookie, err := r.Cookie("user")
		if err != nil {
			return nil, err
		}
		return cookie.Value, nil
	}
	app := program{live.New(opts)}
	t.Cleanup(func() { app.live.Shutdown(context.Background()) })
	srv := livetest.Serve(t, app.Routes()) // any http.Handler, with its middlewares
	browser := srv.Client()                // an *http.Client with cookies
	browser.PostForm(srv.URL+"/login", url.Values{"user": {"ana"}})
	ana := srv.Dial(livetest.As(browser))
	srv.ExpectRefused(http.StatusUnauthorized)
	ana.Subscribe("room:1")
	ana.Publish("room:1", "hi")
	ana.Expect("room:1", map[string]string{"by": "ana", "text": "hi"})
}
