//go:build soak && unix

package live_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

// TestStormOfHandshakesIsWorkedOff with 20,000 clients and the default options, as many of them at once as
// the process may open files for: go test -tags soak -timeout 10m -v -run 20000 ./live
func TestStormOf20000HandshakesIsWorkedOff(t *testing.T) {
	const clients = 20_000
	stormOfHandshakes(t, storm{
		clients: clients,
		atOnce:  min(clients, (fileLimit(t)-500)/3), // both ends are here, and the server closes its end later
		auth:    500 * time.Millisecond,
		opts:    live.Options{MaxAuthsAtOnce: 1000, MaxAuthsWaiting: 4096},
	})
}

// fileLimit lets the process open as many files as it ever may, and returns how many that is.
func fileLimit(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(limit.Cur, 1<<20))
}
