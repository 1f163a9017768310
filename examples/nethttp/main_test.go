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

	open := func() *websocket.Conn {
		t.Helper()
		ws, _, err := websocket.Dial(ctx, server.URL+"/live", &websocket.DialOptions{Subprotocols: []string{"live.v1"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.CloseNow() })
		return ws
	}
	say := func(ws *websocket.Conn, frame string) {
		t.Helper()
		if err := ws.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(ws *websocket.Conn, want string) {
		t.Helper()
		_, heard, err := ws.Read(ctx)
		if err != nil || !strings.Contains(string(heard), want) {
			t.Fatalf("heard %s, %v, want %s", heard, err, want)
		}
	}

	ana, bo := open(), open()
	for _, ws := range []*websocket.Conn{ana, bo} {
		hear(ws, `"op":"hello"`)
		say(ws, `{"op":"subscribe","id":1,"topic":"chat","last":50}`)
		hear(ws, `"messages":[]`)
	}
	say(ana, `{"op":"publish","id":2,"topic":"chat","data":"hello"}`)
	hear(ana, `{"topic":"chat","data":"hello"`)
	hear(bo, `{"topic":"chat","data":"hello"`)

	late := open()
	hear(late, `"op":"hello"`)
	say(late, `{"op":"subscribe","id":1,"topic":"chat","last":50}`)
	hear(late, `"data":"hello"`)
	say(late, `{"op":"publish","id":2,"topic":"elsewhere","data":"hello"}`)
	hear(late, `"code":"forbidden"`)
	say(late, `{"op":"subscribe","id":3,"topic":"elsewhere"}`)
	hear(late, `"code":"forbidden"`)
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
