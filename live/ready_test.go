package live_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// unready is a broker that may not be ready.
type unready struct {
	*live.MemoryBroker
	err error
}

func (m *unready) Ready(context.Context) error { return m.err }

func TestReadySaysWhetherNewClientsAreTaken(t *testing.T) {
	t.Parallel()
	b := &unready{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
	server := livetest.NewServer(t, live.Options{Broker: b, Logger: livetest.Quiet})
	at := livetest.Serve(t, server.ReadyHandler())
	check := func(what string, wrapped error, status int) {
		t.Helper()
		if err := server.Ready(t.Context()); !errors.Is(err, wrapped) || (err == nil) != (wrapped == nil) {
			t.Errorf("%s: Ready says %v", what, err)
		}
		resp, err := http.Get(at.HTTP())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != status || (resp.Header.Get("Retry-After") != "") != (status == 503) || strings.Contains(string(body), "secret") {
			t.Errorf("%s: %s, %q, Retry-After %q", what, resp.Status, body, resp.Header.Get("Retry-After"))
		}
	}
	check("at first", nil, 200)
	b.err = errors.New("a secret of the broker")
	check("broker away", b.err, 503)
	b.err = nil
	check("broker back", nil, 200)
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("after Shutdown", live.ErrServerClosed, 503)
}
