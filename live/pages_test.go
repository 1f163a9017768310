package live_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Every Go snippet of these pages is also in this file, where it is compiled.
func TestSnippetsOfThePagesCompile(t *testing.T) {
	for _, name := range []string{"from-your-database.md", "topics.md", "delivery.md", "moving-from-others.md"} {
		livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "../docs/"+name), 1, "go"), "pages_test.go")
	}
}

type (
	task struct{}
	app  struct {
		live  *live.Server
		db    *sql.DB
		pages *template.Template
	}
	pendingRow struct {
		ID, Topic string
		Data      []byte
	}
)

var (
	mayRead  func(ctx context.Context, s *live.Session, topic string) error
	tasksOf  func(ctx context.Context, db *sql.DB, topic string) ([]task, error)
	pending  func(ctx context.Context, db *sql.DB) ([]pendingRow, error)
	forget   func(ctx context.Context, db *sql.DB, row pendingRow) error
	isMember func(ctx context.Context, user, chat string) bool
	whoIsIt  func(ctx context.Context, r *http.Request) (any, error)
	userOf   func(r *http.Request) (struct{ Name string }, error)
)

var _ = func(db *sql.DB) *live.Server {
	server := live.New(live.Options{
		OnSubscribe: mayRead,
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{
				Snapshot: func(ctx context.Context, topic string) (any, error) {
					return tasksOf(ctx, db, topic) // anything that encodes to JSON
				},
			}
		},
	})
	return server
}

var _ = (*app).page

func (a *app) page(w http.ResponseWriter, r *http.Request) {
	at, err := a.live.Position(r.Context(), "tasks:7") // first the position
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	tasks, err := tasksOf(r.Context(), a.db, "tasks:7") // then the rows
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	a.pages.Execute(w, map[string]any{"At": at.String(), "Tasks": tasks})
}

var _ = func(tx *sql.Tx, server *live.Server, task task) error {
	if err := tx.Commit(); err != nil {
		return err
	}
	return live.Publish(server, "tasks:7", task)
}

var _ = publishPending

// publishPending publishes the rows of the table outbox. Call it at the start, and after each commit.
func publishPending(ctx context.Context, server *live.Server, db *sql.DB) error {
	rows, err := pending(ctx, db)
	if err != nil {
		return err
	}
	for _, row := range rows {
		_, err := server.PublishContext(ctx, row.Topic, row.Data, live.ID("outbox:"+row.ID))
		if err != nil {
			return err // the next call goes on here
		}
		if err := forget(ctx, db, row); err != nil {
			return err
		}
	}
	return nil
}

var _ = func(server *live.Server, data []byte) {
	server.Publish("prices", data, live.Key("EURUSD"))
	server.Remove("prices", "EURUSD")
}

var _ = func() live.Options {
	opts := live.Options{
		OnAuth: func(ctx context.Context, r *http.Request) (any, error) {
			user, err := userOf(r) // from a cookie or a token
			if err != nil {
				return nil, err // 401
			}
			return user.Name, nil // the session's Value and UserID
		},
		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error {
			kind, id, _ := strings.Cut(topic, ":")
			switch kind {
			case "news":
				return nil
			case "inbox":
				if id == s.UserID() {
					return nil
				}
			case "chat":
				if isMember(ctx, s.UserID(), id) {
					return nil
				}
			}
			return errors.New("not yours") // the client is told "forbidden"
		},
		OnPublish: func(ctx context.Context, s *live.Session, topic string, data []byte) ([]byte, error) {
			id, isChat := strings.CutPrefix(topic, "chat:")
			if !isChat || !isMember(ctx, s.UserID(), id) {
				return nil, errors.New("not yours")
			}
			return json.Marshal(map[string]any{"by": s.UserID(), "text": json.RawMessage(data)})
		},
	}
	return opts
}

var _ = live.Options{
	OnConnect: func(ctx context.Context, s *live.Session) error {
		return s.Subscribe("inbox:" + s.UserID())
	},
}

var _ = (&signedIn{name: "ana", chats: map[string]bool{}}).UserID

type signedIn struct {
	name  string
	chats map[string]bool
}

func (v *signedIn) UserID() string { return v.name }

var _ = publishOnce

func publishOnce(ctx context.Context, server *live.Server, order string, data []byte) error {
	for {
		_, err := server.PublishContext(ctx, "orders", data, live.ID("order-"+order))
		if !errors.Is(err, live.ErrUnavailable) {
			return err // nil, or an error that another attempt would not change
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		}
	}
}

var _ = func() {
	server := live.New(live.Options{
		OnAuth:      whoIsIt,
		OnSubscribe: func(ctx context.Context, s *live.Session, room string) error { return nil },
		OnPublish: func(ctx context.Context, s *live.Session, room string, text []byte) ([]byte, error) {
			return json.Marshal(map[string]any{"by": s.UserID(), "text": json.RawMessage(text)})
		},
		Topics: func(room string) live.TopicOptions { return live.TopicOptions{History: 100} },
	})
	http.Handle("GET /live", server.Handler())
}

// The README's.
var _ = func(db *sql.DB) live.Options {
	return live.Options{
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{
				Snapshot: func(ctx context.Context, topic string) (any, error) {
					return tasksOf(ctx, db, topic) // a query of yours
				},
			}
		},
		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error {
			if topic == "news" || topic == "inbox:"+s.UserID() {
				return nil
			}
			return errors.New("not yours") // the client is told "forbidden"
		},
	}
}
