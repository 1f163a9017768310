package live_test

import (
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// serve starts a server of opts on loopback, and returns its URL. Both are ended
// with the test.
func serve(t *testing.T, opts live.Options) (*live.Server, string) {
	t.Helper()
	h := livetest.Hosting{}.Start(t, opts)
	return h.Server, h.HTTP()
}

// dial connects a plain client, which reads only while the test waits for a frame.
func dial(t *testing.T, url string) *livetest.Client {
	t.Helper()
	return livetest.Connect(t, livetest.Endpoint{URL: url}, livetest.Dialing{})
}

// pair returns a client and its session.
func pair(t *testing.T, url string, sessions chan *live.Session) (*livetest.Client, *live.Session) {
	t.Helper()
	c := dial(t, url)
	return c, livetest.Receive(t, sessions)
}

// noGoroutinesLeft checks, at the end of the test, that as many goroutines run as
// do now.
func noGoroutinesLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		for deadline := time.Now().Add(livetest.Patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d at the start:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
		}
	})
}
