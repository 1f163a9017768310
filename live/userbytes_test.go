package live_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// The slowest session of a user that holds too much is closed, and the others go on. Other users hold as
// much as they did. Pings may be off.
func TestUserThatHoldsTooMuchLosesItsSlowestSession(t *testing.T) {
	t.Parallel()
	for name, interval := range map[string]time.Duration{"with pings": 0, "without": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const most, each = 400_000, 10_000
			ends := make(chan error, 10)
			opts, sessions := livetest.Connected(live.Options{
				PingInterval: interval, MaxBytesPerUser: most, OnAuth: named,
				OnClose: func(s *live.Session, err error) { ends <- err },
			})
			h := livetest.Hosting{Buffer: 16 << 10}.Start(t, opts)
			stalled := func(user string, bytes int) *live.Session {
				c, err := livetest.Try(t, h.Endpoint.With("user="+user), livetest.Dialing{V1: true, Buffer: 16 << 10})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(c.Drop)
				c.Line.Stall()
				s := livetest.Receive(t, sessions)
				for range bytes / each {
					if err := s.Send(live.Message{Data: []byte(livetest.Padded(1, each-100))}); err != nil {
						t.Fatal(err)
					}
				}
				return s
			}
			a1 := stalled("ann", 300_000)
			slowest := stalled("ann", 380_000)
			stalled("bob", 350_000)
			stalled("", 350_000)
			stalled("", 350_000)
			if err := livetest.Receive(t, ends); !errors.Is(err, live.ErrUserBytes) {
				t.Errorf("OnClose got %v", err)
			}
			if a1.IsClosed() || !slowest.IsClosed() {
				t.Errorf("closed: %v, %v; want the slowest alone", a1.IsClosed(), slowest.IsClosed())
			}
			time.Sleep(2200 * time.Millisecond) // two more measurements
			if st := h.Stats(); st.UserBytes != 1 || st.Sessions != 4 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// Messages that wait for the application count, too.
func TestInboxCountsForMaxBytesPerUser(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	ends := make(chan error, 10)
	h := livetest.Hosting{}.Start(t, live.Options{
		MaxBytesPerUser: 150_000, OnAuth: named, InboundRate: -1,
		OnMessage: func(context.Context, *live.Session, string, []byte) { <-hold },
		OnClose:   func(s *live.Session, err error) { ends <- err },
	})
	for range 2 {
		c, err := livetest.Try(t, h.Endpoint.With("user=ann"), livetest.Dialing{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Drop)
		for range 10 { // 100 KB, less than one session may have
			c.Say(`{"topic":"t","data":` + livetest.Padded(1, 10_000) + `}`)
		}
	}
	livetest.Eventually(t, "one session's end", func() bool { return h.Stats().UserBytes == 1 })
	close(hold)
	if err := livetest.Receive(t, ends); !errors.Is(err, live.ErrUserBytes) {
		t.Errorf("OnClose got %v", err)
	}
	if st := h.Stats(); st.Sessions != 1 {
		t.Errorf("%+v", st)
	}
}
