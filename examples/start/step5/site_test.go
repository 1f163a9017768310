package main

import (
	"net/http"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/livetopic/livetopic/live/livetest"
	"github.com/livetopic/livetopic/live/websession"
)

// The whole site: a user who has signed in follows the wall, is seen there, and posts. After the sign-out none of it works.
func TestSite(t *testing.T) {
	db, err := openDB(filepath.Join(t.TempDir(), "wall.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	manager, err := websession.NewSQLiteSessionManager(db)
	if err != nil {
		t.Fatal(err)
	}
	sessions := websession.New(manager, websession.Options{})
	server := sessions.NewServer(options(db))
	t.Cleanup(func() { server.Shutdown(t.Context()) })
	srv := livetest.Serve(t, routes(server, sessions, db))
	srv.ExpectRefused(http.StatusUnauthorized)

	browser := srv.Client()
	post := func(path string, form url.Values, want int) {
		t.Helper()
		answer, err := browser.PostForm(srv.URL+path, form)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Fatalf("POST %s: %s, want %d", path, answer.Status, want)
		}
	}
	post("/login", url.Values{"name": {"ben"}}, http.StatusOK)
	note := func(id int64, text string) Note { return Note{ID: id, Room: "lobby", By: "ben", Text: text} }
	post("/notes", url.Values{"room": {"lobby"}, "text": {"before"}}, http.StatusOK)
	ben := srv.Dial(livetest.As(browser))
	ben.Subscribe("wall:lobby")
	ben.ExpectState("wall:lobby", []Note{note(1, "before")})
	ben.ExpectMembers("wall:lobby", "ben")
	post("/notes", url.Values{"room": {"lobby"}, "text": {"hi"}}, http.StatusOK)
	ben.Expect("wall:lobby", note(2, "hi"))
	post("/notes", url.Values{"room": {"office"}, "text": {"hi"}}, http.StatusForbidden)
	post("/logout", nil, http.StatusOK)
	ben.ExpectClosed(4001)
	post("/notes", url.Values{"room": {"lobby"}, "text": {"from a tab that is still open"}}, http.StatusUnauthorized)
}
