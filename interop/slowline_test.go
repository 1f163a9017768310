package interop

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// Close sends what is queued first, also where that takes longer than a peer
// has to answer a close frame. The line is a slow phone's, but it moves: no
// WriteTimeout passes without a byte.
func TestCloseFlushesTheQueueOverASlowLine(t *testing.T) {
	const messages, size, perSecond = 60, 8 << 10, 64 << 10 // 7.5 seconds
	livetest.OverEachSmall(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
		var ended livetest.Ends
		pad := strings.Repeat("x", size)
		server := livetest.NewServer(t, live.Options{
			OnMessage: func(_ context.Context, s *live.Session, topic string, _ []byte) {
				for i := range messages {
					s.Send(live.Message{Topic: topic, Data: fmt.Appendf(nil, `"%d %s"`, i, pad)})
				}
				s.Close()
			},
			OnClose: ended.OnClose,
		})
		l := livetest.Through(t, serve(t, server.Handler()))
		l.Slow(perSecond)
		c := livetest.Dial(t, l.Endpoint)
		c.Send(`{"topic":"t"}`)
		got, code := c.Rest()
		if len(got) != messages || code != live.CloseNormal {
			t.Errorf("got %d messages and close code %d (%v), want %d and 1000", len(got), code, c.Err(), messages)
		}
		if err := ended.Only(t); err != nil {
			t.Errorf("OnClose got %v, want nil", err)
		}
	})
}
