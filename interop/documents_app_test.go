package interop

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-mizu/mizu"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/interop/documents"
	"github.com/livetopic/livetopic/live"
)

// quietApp returns a mizu app without the request log that mizu.New installs.
func quietApp() *mizu.App {
	app := mizu.New()
	app.ClearMiddleware()
	return app
}

// mounts are the ways in which an http.Handler gets into a mizu app.
var mounts = []struct {
	name  string
	mount func(app *mizu.App, h http.Handler)
}{
	{"Compat.Handle", func(app *mizu.App, h http.Handler) { app.Compat.Handle("/ws", h) }},
	{"Compat.HandleMethod", func(app *mizu.App, h http.Handler) { app.Compat.HandleMethod("GET", "/ws", h) }},
	{"Mount", func(app *mizu.App, h http.Handler) { app.Mount("/ws", h) }},
	{"Get", func(app *mizu.App, h http.Handler) {
		app.Get("/ws", func(c *mizu.Ctx) error {
			h.ServeHTTP(c.Writer(), c.Request())
			return nil
		})
	}},
}

// "Publishing from HTTP Handlers": a POST to the app reaches the team's clients,
// which are connected to the same app.
func TestHTTPHandlerOfAMizuAppPublishes(t *testing.T) {
	for _, m := range mounts {
		t.Run(m.name, func(t *testing.T) {
			livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
				var db documents.DB
				server := livetest.NewSubscriberServer(t)
				app := quietApp()
				m.mount(app, server.Handler())
				// API endpoint triggers notification
				app.Post("/api/items", func(c *mizu.Ctx) error {
					var item documents.Item
					if err := c.BindJSON(&item, 1<<20); err != nil {
						return c.Text(http.StatusBadRequest, err.Error())
					}
					// Save
					db.Save(item)
					// Notify via WebSocket
					data, _ := json.Marshal(map[string]any{
						"type": "new_item",
						"item": item,
					})
					server.Publish("team:"+item.TeamID, data)
					return c.JSON(http.StatusOK, item)
				})

				at := serve(t, app)
				ws := at
				ws.URL += "/ws"
				red, blue := livetest.Dial(t, ws), livetest.Dial(t, ws)
				red.Subscribe("team:red")
				blue.Subscribe("team:blue")

				const lamp = `{"id":"7","team_id":"red","name":"lamp"}`
				const chair = `{"id":"8","team_id":"blue","name":"chair"}`
				livetest.Check(t, "who posted", post(t, at, "/api/items", lamp), lamp)
				livetest.Check(t, "who posted", post(t, at, "/api/items", chair), chair)
				livetest.Check(t, "team red", red.Read(), `{"topic":"team:red","data":{"item":`+lamp+`,"type":"new_item"}}`)
				livetest.Check(t, "team blue", blue.Read(), `{"topic":"team:blue","data":{"item":`+chair+`,"type":"new_item"}}`)
				if item, ok := db.Item("7"); !ok || item.Name != "lamp" {
					t.Errorf("saved %v", item)
				}
			})
		})
	}
}

// post posts JSON to a path of the endpoint and returns the body of the answer.
func post(t *testing.T, e livetest.Endpoint, path, body string) string {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: e.TLS}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Post(e.HTTP()+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s was answered with %s: %s", path, resp.Status, answer)
	}
	return strings.TrimSpace(string(answer))
}

type contextKey struct{}

// The context that callbacks get carries what middlewares of the app put in.
func TestCallbacksSeeTheValuesOfTheRequest(t *testing.T) {
	server := livetest.NewServer(t, live.Options{
		OnAuth: func(ctx context.Context, r *http.Request) (any, error) {
			return ctx.Value(contextKey{}), nil
		},
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			value, _ := json.Marshal([]any{s.Value(), ctx.Value(contextKey{})})
			s.Send(live.Message{Topic: topic, Data: value})
		},
	})
	app := quietApp()
	app.Compat.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, "tenant 7")))
		})
	})
	app.Compat.Handle("/ws", server.Handler())
	at := livetest.Serve(t, app)
	at.URL += "/ws"
	c := livetest.Dial(t, at)
	livetest.Check(t, "the client", c.Ask(`{"topic":"who"}`), `{"topic":"who","data":["tenant 7","tenant 7"]}`)
}
