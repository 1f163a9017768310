package live_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live"
)

// Every Go snippet of docs/presence.md is also in this file, where it is compiled.
func TestSnippetsOfThePresencePageCompile(t *testing.T) {
	plain := func(code string) string {
		return regexp.MustCompile(`\s+`).ReplaceAllString(strings.TrimSpace(code), " ")
	}
	source, err := os.ReadFile("presence_page_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/presence.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 4 {
		t.Fatalf("%d snippets found", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(plain(string(source)), plain(block[1])) {
			t.Errorf("not compiled anywhere:\n%s", block[1])
		}
	}
}

// Every JavaScript snippet is also in a page that the tests of the client run in browsers.
func TestScriptsOfThePresencePageAreRun(t *testing.T) {
	page, err := os.ReadFile("../docs/presence.md")
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.ReadFile("../examples/testserver/presence.html")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```js\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d snippets found", len(blocks))
	}
	squeeze := func(code string) string { return strings.Join(strings.Fields(code), " ") }
	for _, block := range blocks {
		for part := range strings.SplitSeq(strings.TrimSpace(block[1]), "\n\n") {
			if !strings.Contains(squeeze(string(run)), squeeze(part)) {
				t.Errorf("not run anywhere:\n%s", part)
			}
		}
	}
}

var _ = func(
	whoIsIt func(context.Context, *http.Request) (any, error),
	mayJoin func(context.Context, *live.Session, string) error,
) *live.Server {
	server := live.New(live.Options{
		OnAuth:      whoIsIt, // whose name is the user of the session
		OnSubscribe: mayJoin,
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{Presence: live.PresenceVisible}
		},
		OnPresence: func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) {
			return info, nil // "is typing", "is away": whatever the page says
		},
	})
	return server
}

var _ = func(colourOf func(user string) string) live.Options {
	return live.Options{
		OnSubscribe: func(_ context.Context, s *live.Session, topic string) error {
			return s.SetPresence(topic, map[string]string{"colour": colourOf(s.UserID())})
		},
	}
}

var _ = func(server *live.Server) {
	for _, member := range server.Presence("room") {
		fmt.Println(member.UserID, len(member.Sessions))
	}
	fmt.Println(server.PresenceCount("room")) // costs the same for any number
	server.ListenPresence("room", func(c live.PresenceChange) {
		for _, member := range c.Joined {
			fmt.Println(member.UserID, "is here")
		}
		for _, member := range c.Left {
			fmt.Println(member.UserID, "has gone")
		}
	})
}
