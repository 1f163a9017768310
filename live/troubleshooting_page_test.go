package live_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// docs/troubleshooting.md has a row for each close code, and quotes texts that the server sends.
func TestTroubleshootingPageQuotesTheServer(t *testing.T) {
	page := livetest.ReadFile(t, "../docs/troubleshooting.md")
	codes := []int{live.CloseRefused, live.CloseTooBig, live.ClosePanic, live.CloseRestart, live.CloseRevoked, live.CloseProtocol,
		live.CloseReplaced, live.CloseQueueFull, live.ClosePingTimeout, live.CloseUserBytes, live.CloseSignInExpired}
	for _, code := range codes {
		if !strings.Contains(page, fmt.Sprintf("\n| %d", code)) {
			t.Errorf("code %d has no row", code)
		}
	}
	var source string
	for _, file := range []string{"refusal.go", "origin.go", "handshake.go"} {
		source += livetest.ReadFile(t, file)
	}
	rows, _, _ := strings.Cut(page, "## It connects, and is closed")
	quotes := regexp.MustCompile(`\*([a-zA-Z][^*|]+)\*`).FindAllStringSubmatch(rows, -1)
	quotes = append(quotes, regexp.MustCompile("`(client refused[^`]*|page of another[^`]*)`").FindAllStringSubmatch(rows, -1)...)
	if len(quotes) < 12 {
		t.Fatalf("%d quotes found", len(quotes))
	}
	for _, quote := range quotes {
		if quote[1] != "WS" && !strings.Contains(source, quote[1]) {
			t.Errorf("the server does not say %q", quote[1])
		}
	}
}
