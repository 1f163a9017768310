package main

import (
	"context"
	"database/sql"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetest"
)

// serve starts the app until the test ends.
func serve(t *testing.T) *livetest.Server {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "db")+options)
	if err != nil {
		t.Fatal(err)
	}
	app, err := NewApp(db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		app.live.Shutdown(context.Background())
		db.Close()
	})
	return livetest.Serve(t, app.Routes())
}

// signIn returns a browser in which somebody has signed in.
func signIn(t *testing.T, srv *livetest.Server, name string) *http.Client {
	t.Helper()
	browser := srv.Client()
	post(t, browser, srv.URL+"/login", "application/x-www-form-urlencoded", url.Values{"name": {name}}.Encode())
	return browser
}

func post(t *testing.T, browser *http.Client, url, kind, body string) {
	t.Helper()
	resp, err := browser.Post(url, kind, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, resp.Status)
	}
}

func TestPagesFollowTheList(t *testing.T) {
	srv := serve(t)
	srv.ExpectRefused(http.StatusUnauthorized)
	ana := signIn(t, srv, "ana")
	save := func(body string) { t.Helper(); post(t, ana, srv.URL+"/tasks", "application/json", body) }
	save(`{"id":"a","text":"milk"}`)
	milk := Task{ID: "a", Text: "milk", By: "ana", Rev: 1}

	page := srv.Dial(livetest.As(ana))
	page.Subscribe(topic)
	page.ExpectState(topic, State{Rev: 1, Tasks: []Task{milk}})
	page.ExpectError("forbidden", func() { page.Subscribe("another list") })

	save(`{"id":"b","text":"bread"}`)
	page.Expect(topic, Task{ID: "b", Text: "bread", By: "ana", Rev: 2})
	page.Cut()
	save(`{"id":"a","deleted":true}`)
	page.Reconnect()
	page.Expect(topic, Task{ID: "a", Deleted: true, By: "ana", Rev: 3})
	page.ExpectNothing()

	post(t, ana, srv.URL+"/logout", "", "")
	page.ExpectClosed(live.CloseRevoked)
}
