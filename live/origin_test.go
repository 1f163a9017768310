package live_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live"
)

// Behind a proxy that does not pass on Host every browser is refused: whoever runs the server
// sees it, and what to do.
func TestForeignOriginIsSeen(t *testing.T) {
	logger, l := logging()
	_, url := serve(t, live.Options{Logger: logger})
	for range 100 {
		resp := upgrade(t, url, func(r *http.Request) {
			r.Host = "backend:8080"
			r.Header.Set("Origin", "https://app.example"+strings.Repeat("x", 1000))
		})
		body, _ := io.ReadAll(resp.Body)
		for _, want := range []string{"https://app.example", `called "backend:8080"`, "Options.Origins", "proxy_set_header Host"} {
			if !strings.Contains(string(body), want) || len(body) > 1000 {
				t.Fatalf("%s: %.2000s", resp.Status, body)
			}
		}
	}
	for _, want := range []string{"origin=https://app.example", "host=backend:8080", "Options.Origins"} {
		if n := l.with(want); n == 0 || n > 20 {
			t.Errorf("%d lines have %q", n, want)
		}
	}
}
