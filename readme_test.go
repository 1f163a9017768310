package livetopic_test

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

// Every Go snippet of the README stands here too, where it is compiled, or in a test of
// the chat, whose module has NATS.
func TestSnippetsOfTheReadmeCompile(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, file := range []string{"readme_test.go", "examples/chat/readme_test.go"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, raw...)
	}
	plain := func(code string) string {
		return regexp.MustCompile(`\s+`).ReplaceAllString(strings.TrimSpace(code), " ")
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d snippets found", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(plain(string(source)), plain(block[1])) {
			t.Errorf("not in readme_test.go:\n%s", block[1])
		}
	}
}

func TestTheReadmesServerServes(t *testing.T) {
	server := live.New(live.Options{
		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error {
			return nil // or an error: this session may not have this topic
		},
		Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{History: 100} // who comes back gets what was missed
		},
	})
	http.Handle("GET /live", server.Handler())
	http.Handle("GET /live.js", client.Handler())
	http.HandleFunc("GET /", http.NotFound) // beside an application's front page

	server.Publish("news", []byte(`{"text":"hello"}`))

	past, err := server.History(context.Background(), "news", 10)
	if err != nil || len(past) != 1 || string(past[0].Data) != `{"text":"hello"}` {
		t.Fatal(past, err)
	}
}
