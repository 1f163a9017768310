package interop

import (
	"context"
	"fmt"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

func TestListenerThatWrapsItsConnections(t *testing.T) {
	server := livetest.NewSubscriberServer(t)
	livetest.WorksThrough(t, server, livetest.ServeOpaque(t, server.Handler()))
}

func TestServerClosesBehindAListenerThatWrapsItsConnections(t *testing.T) {
	const queued = 200
	server := livetest.NewServer(t, live.Options{OnMessage: func(_ context.Context, s *live.Session, _ string, _ []byte) {
		for i := range queued {
			s.Send(live.Message{Topic: "n", Data: fmt.Appendf(nil, `%d`, i)})
		}
		s.Close()
	}})
	c := livetest.Dial(t, livetest.ServeOpaque(t, server.Handler()))
	c.Send(`{"topic":"go"}`)
	if got, code := c.Rest(); len(got) != queued || code != live.CloseNormal {
		t.Errorf("got %d messages and code %d (%v), want %d and 1000", len(got), code, c.Err(), queued)
	}
}

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
