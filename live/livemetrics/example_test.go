package livemetrics_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
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
// in example_test.go of package livetrace.
func TestSnippetsOfTheOperationsPageCompile(t *testing.T) {
	page := livetest.ReadFile(t, "../../docs/operations.md")
	page = strings.Replace(page, livetest.Section(t, page, "Traces"), "", 1)
	livetest.InFiles(t, livetest.Snippets(t, page, 2, "go"), "example_test.go")
}
