package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live/livetest"
)

func TestWhatOneSaysAllHear(t *testing.T) {
	server := livetest.Serve(t, routes(newServer()))
	ana, bo := server.Dial(livetest.Name("ana")), server.Dial(livetest.Name("bo"))
	ana.Subscribe("chat", livetest.Last(50))
	bo.Subscribe("chat", livetest.Last(50))
	ana.Publish("chat", "hello")
	ana.Expect("chat", "hello")
	bo.Expect("chat", "hello")

	late := server.Dial(livetest.Name("late"))
	late.Subscribe("chat", livetest.Last(50))
	late.Expect("chat", "hello")
	late.ExpectError("forbidden", func() { late.Publish("elsewhere", "hello") })
	late.ExpectError("forbidden", func() { late.Subscribe("elsewhere") })
	ana.ExpectNothing()
}

func TestThePageIsServed(t *testing.T) {
	server := livetest.Serve(t, routes(newServer()))
	for path, want := range map[string]string{"/": `from "/live.js"`, "/live.js": "export"} {
		resp, err := server.Client().Get(server.URL + path)
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
