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

// A load balancer asks every second. The log has a line only when the answer changes.
func TestReadyLogsChangesOnly(t *testing.T) {
	t.Parallel()
	b := &unready{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
	logger, all := logging()
	server := livetest.NewServer(t, live.Options{Broker: b, Logger: logger})
	ask := func(err error, lost, back int) {
		t.Helper()
		b.err = err
		for range 5 {
			server.Ready(t.Context())
		}
		if st := server.Stats(); st.NotReady != (err != nil) || all.with("live: not ready") != lost || all.with("live: ready again") != back {
			t.Errorf("%v: %d and %d lines, NotReady is %v", err, all.with("live: not ready"), all.with("live: ready again"), st.NotReady)
		}
	}
	ask(nil, 0, 0)
	ask(errors.New("gone"), 1, 0)
	ask(nil, 1, 1)
	ask(errors.New("gone again"), 2, 1)
}
