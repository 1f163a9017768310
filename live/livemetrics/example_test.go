package livemetrics_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livemetrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func Example() {
	server := live.New(live.Options{})
	mux := http.NewServeMux()
	registry := prometheus.NewRegistry()
	registry.MustRegister(livemetrics.New(server, nil))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	if err := server.Publish("news", []byte(`"hello"`)); err != nil {
		log.Fatal(err)
	}
	answer := httptest.NewRecorder() // in the place of Prometheus
	mux.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(answer.Body.String()) {
		if strings.HasPrefix(line, "live_publications_total") {
			fmt.Print(line)
		}
	}
	// Output: live_publications_total 1
}

var _ = func(registry *prometheus.Registry, chat, news *live.Server) {
	registry.MustRegister(livemetrics.New(chat, prometheus.Labels{"server": "chat"}))
	registry.MustRegister(livemetrics.New(news, prometheus.Labels{"server": "news"}))
}

// Every Go snippet of docs/operations.md is also in this file, where it is compiled. Those under "Traces" are
// in that of package livetrace.
func TestSnippetsOfTheOperationsPageCompile(t *testing.T) {
	plain := func(code string) string {
		return regexp.MustCompile(`\s+`).ReplaceAllString(strings.TrimSpace(code), " ")
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	own := regexp.MustCompile("(?s)\n## Traces\n.*?\n## ").ReplaceAllString(string(page), "\n## ")
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(own, -1)
	if len(blocks) < 2 {
		t.Fatalf("%d snippets found", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(plain(string(source)), plain(block[1])) {
			t.Errorf("not compiled anywhere:\n%s", block[1])
		}
	}
}
