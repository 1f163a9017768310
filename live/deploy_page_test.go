package live_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

// Every Go snippet of docs/deploy.md is also in this file, where it is compiled.
func TestSnippetsOfTheDeployPageCompile(t *testing.T) {
	plain := func(code string) string {
		return regexp.MustCompile(`\s+`).ReplaceAllString(strings.TrimSpace(code), " ")
	}
	source, err := os.ReadFile("deploy_page_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 3 {
		t.Fatalf("%d snippets found", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(plain(string(source)), plain(block[1])) {
			t.Errorf("not compiled anywhere:\n%s", block[1])
		}
	}
}

var _ = func(server *live.Server, mux *http.ServeMux) {
	mux.Handle("GET /ready", server.ReadyHandler())
	web := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	if err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown); err != nil {
		log.Fatal(err)
	}
}

var _ = func(server *live.Server, app interface{ Listen(string) error }) {
	if err := server.Run(context.Background(), func() error { return app.Listen(":8080") }); err != nil {
		log.Fatal(err)
	}
}
