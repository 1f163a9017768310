package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestWhatOneSaysAllHear(t *testing.T) {
	server := httptest.NewServer(handler())
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()

	var pages [2]*websocket.Conn
	for i := range pages {
		ws, _, err := websocket.Dial(ctx, server.URL+"/live", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		pages[i] = ws
	}
	say := func(ws *websocket.Conn, message string) {
		t.Helper()
		if err := ws.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(ws *websocket.Conn, text string) {
		t.Helper()
		_, heard, err := ws.Read(ctx)
		if want := `{"topic":"chat","data":"` + text + `"}`; err != nil || string(heard) != want {
			t.Fatalf("heard %s, %v, want %s", heard, err, want)
		}
	}
	// Who hears itself is subscribed, and then hears the other too.
	say(pages[1], `{"topic":"say","data":"here"}`)
	hear(pages[1], "here")
	say(pages[0], `{"topic":"anything else","data":"ignored"}`)
	say(pages[0], `{"topic":"say","data":"hello"}`)
	hear(pages[1], "hello")
}

func TestThePageIsServed(t *testing.T) {
	server := httptest.NewServer(handler())
	defer server.Close()
	for path, want := range map[string]string{"/": `from "/live.js"`, "/live.js": "export"} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d, %v", path, resp.StatusCode, err)
		}
	}
}
