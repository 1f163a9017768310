package live_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Every Go snippet of docs/presence.md is also in this file, where it is compiled.
func TestSnippetsOfThePresencePageCompile(t *testing.T) {
	livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "../docs/presence.md"), 4, "go"), "presence_page_test.go")
}

// Every JavaScript snippet is also in a page that the tests of the client run in browsers.
func TestScriptsOfThePresencePageAreRun(t *testing.T) {
	for _, snippet := range livetest.Snippets(t, livetest.ReadFile(t, "../docs/presence.md"), 2, "js") {
		livetest.InFiles(t, strings.Split(snippet, "\n\n"), "../examples/testserver/presence.html")
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
