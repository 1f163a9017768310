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

// A message that never comes completely counts, too. Otherwise a user could hold ReadLimit with each connection.
func TestMessageThatComesCountsForMaxBytesPerUser(t *testing.T) {
	t.Parallel()
	const most, each = 150_000, 100_000
	ends := make(chan error, 10)
	h := livetest.Hosting{}.Start(t, live.Options{
		MaxBytesPerUser: most, OnAuth: named, InboundRate: -1,
		OnClose: func(s *live.Session, err error) { ends <- err },
	})
	half := livetest.Masked(livetest.TextFrame, `{"topic":"t","data":`+livetest.Padded(1, 2*each)+`}`)[:each]
	for _, user := range []string{"ann", "bob"} {
		// This one has one message after another, which is handled at once. Nothing of them may stay in the count.
		c := livetest.Connect(t, h.Endpoint.With("user="+user), livetest.Dialing{})
		for range 3 {
			c.Say(`{"topic":"t","data":` + livetest.Padded(1, each) + `}`)
		}
	}
	livetest.Eventually(t, "whole messages", func() bool { return h.Stats().Received == 6 })
	for range 2 {
		livetest.Connect(t, h.Endpoint.With("user=ann"), livetest.Dialing{}).Write(half)
	}
	livetest.Connect(t, h.Endpoint.With("user=bob"), livetest.Dialing{}).Write(half)
	if err := livetest.Receive(t, ends); !errors.Is(err, live.ErrUserBytes) {
		t.Errorf("OnClose got %v", err)
	}
	time.Sleep(2200 * time.Millisecond) // two more measurements
	if st := h.Stats(); st.UserBytes != 1 || st.Sessions != 4 {
		t.Errorf("%+v", st)
	}
}

// A topic without history keeps its newest publication for a client whose queue is full. It waits for the client as well.
func TestNewestPublicationCountsForMaxBytesPerUser(t *testing.T) {
	t.Parallel()
	const queue, most, newest = 100_000, 120_000, 50_000
	ends := make(chan error, 10)
	opts, sessions := livetest.Connected(live.Options{
		QueueBytes: queue, MaxBytesPerUser: most, OnAuth: named,
		Topics:  func(string) live.TopicOptions { return live.TopicOptions{Overflow: live.OverflowLatest} },
		OnClose: func(s *live.Session, err error) { ends <- err },
	})
	h := livetest.Hosting{Buffer: 16 << 10}.Start(t, opts)
	c := livetest.Connect(t, h.Endpoint.With("user=ann"), livetest.Dialing{V1: true, Buffer: 16 << 10})
	c.Line.Stall()
	s := livetest.Receive(t, sessions)
	if err := s.Subscribe("t"); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "the end", func() bool {
		switch {
		case s.Stats().QueuedBytes < queue*4/5: // the socket takes some first
			s.Send(live.Message{Data: []byte(livetest.Padded(1, 10_000))})
		case h.Stats().CatchingUp == 0: // it does not fit
			h.Publish("t", []byte(livetest.Padded(1, newest)))
		}
		return len(ends) > 0
	})
	if err := livetest.Receive(t, ends); !errors.Is(err, live.ErrUserBytes) {
		t.Errorf("OnClose got %v", err)
	}
}
