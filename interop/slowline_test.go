package interop

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live"
)

// Close sends what is queued first, also where that takes longer than a peer
// has to answer a close frame. The line is a slow phone's, but it moves: no
// WriteTimeout passes without a byte.
func TestCloseFlushesTheQueueOverASlowLine(t *testing.T) {
	const messages, size, perSecond = 60, 8 << 10, 64 << 10 // 7.5 seconds
	overEachSmall(t, func(t *testing.T, serve func(testing.TB, http.Handler) endpoint) {
		var ended ends
		pad := strings.Repeat("x", size)
		server := newServer(t, live.Options{
			OnMessage: func(_ context.Context, s *live.Session, topic string, _ []byte) {
				for i := range messages {
					s.Send(live.Message{Topic: topic, Data: fmt.Appendf(nil, `"%d %s"`, i, pad)})
				}
				s.Close()
			},
			OnClose: ended.onClose,
		})
		l := through(t, serve(t, server.Handler()))
		l.slow(perSecond)
		c := dial(t, l.endpoint)
		c.send(`{"topic":"t"}`)
		got, code := c.rest()
		if len(got) != messages || code != live.CloseNormal {
			t.Errorf("got %d messages and close code %d (%v), want %d and 1000", len(got), code, c.in.err, messages)
		}
		if err := ended.only(t); err != nil {
			t.Errorf("OnClose got %v, want nil", err)
		}
	})
}
