package interop

import (
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// The client is still writing when the server has had enough. Closing the
// connection then would reset it, and the client lose the reason.
func TestReadLimitBehindAListenerThatWrapsItsConnections(t *testing.T) {
	for _, l := range libraries {
		t.Run(l.name, func(t *testing.T) {
			server := livetest.NewServer(t, live.Options{ReadLimit: 1000})
			c := l.connect(t, livetest.ServeOpaque(t, server.Handler()), nil)
			c.Say(livetest.Fill(1 << 20)) // may fail in the middle
			if _, code := c.Rest(); code != live.CloseTooBig {
				t.Errorf("close code %d (%v), want 1009", code, c.Err())
			}
		})
	}
}
