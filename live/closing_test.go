package live_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Each way in which a session ends has a figure of its own, and a line in the log that names its
// reason.
func TestClosingsAreCountedAndLoggedByReason(t *testing.T) {
	t.Parallel()
	type end struct {
		want   live.Closings
		line   string // "": it is logged for debugging only, as what happens every day
		opts   live.Options
		finish func(h *livetest.Host, c *livetest.Client, s *live.Session)
	}
	publish := func(size int) func(*livetest.Host, *livetest.Client, *live.Session) {
		return func(h *livetest.Host, _ *livetest.Client, s *live.Session) {
			s.Subscribe("t")
			for range 1000 {
				h.PublishNumbers(t, "t", 1, 1, size)
			}
		}
	}
	say := func(text string) func(*livetest.Host, *livetest.Client, *live.Session) {
		return func(_ *livetest.Host, c *livetest.Client, _ *live.Session) { c.Send(text) }
	}
	for _, tt := range []end{
		{live.Closings{Client: 1}, "", live.Options{}, func(_ *livetest.Host, c *livetest.Client, _ *live.Session) { c.Close(1000, "") }},
		{live.Closings{Lost: 1}, "", live.Options{}, func(_ *livetest.Host, c *livetest.Client, _ *live.Session) { c.Drop() }},
		{live.Closings{Protocol: 1}, "broke the protocol", live.Options{}, say("no JSON")},
		{live.Closings{TooBig: 1}, "ReadLimit reached", live.Options{ReadLimit: 100}, say(strings.Repeat("x", 101))},
		{live.Closings{Application: 1}, "", live.Options{}, func(_ *livetest.Host, _ *livetest.Client, s *live.Session) { s.Close() }},
		{live.Closings{Application: 1}, "", live.Options{}, func(_ *livetest.Host, _ *livetest.Client, s *live.Session) { s.Disconnect(3000, "") }},
		{live.Closings{User: 1}, "", live.Options{}, func(h *livetest.Host, _ *livetest.Client, s *live.Session) { h.DisconnectUser("ann", "") }},
		{live.Closings{Expired: 1}, "", live.Options{}, func(_ *livetest.Host, _ *livetest.Client, s *live.Session) { s.ExpireAt(time.Unix(1, 0)) }},
		{live.Closings{Shutdown: 1}, "", live.Options{ShutdownDelay: -1}, func(h *livetest.Host, c *livetest.Client, _ *live.Session) {
			c.Attend()
			go h.Shutdown(context.Background()) // ends with the test's server
		}},
		{live.Closings{Age: 1}, "", live.Options{MaxSessionAge: time.Second}, func(*livetest.Host, *livetest.Client, *live.Session) {}},
		{live.Closings{QueueFull: 1}, "reads too slowly", live.Options{QueueSize: 2}, publish(64 << 10)},
		{live.Closings{UserBytes: 1}, "MaxBytesPerUser reached", live.Options{MaxBytesPerUser: 1000, QueueSize: 1 << 20, QueueBytes: 1 << 30}, publish(64 << 10)},
		{live.Closings{PingTimeout: 1}, "", live.Options{PingInterval: 10 * time.Millisecond, PingTimeout: 10 * time.Millisecond}, func(*livetest.Host, *livetest.Client, *live.Session) {}},
		{live.Closings{WriteFailed: 1}, "", live.Options{WriteTimeout: 10 * time.Millisecond, QueueSize: 1 << 20, QueueBytes: 1 << 30}, publish(64 << 10)},
		{live.Closings{Panic: 1}, "callback panicked", live.Options{OnRequest: func(context.Context, *live.Session, string, []byte) (any, error) { panic("boom") }}, say(`{"op":"request","id":1,"topic":"t"}`)},
	} {
		t.Run(fmt.Sprintf("%+v", tt.want), func(t *testing.T) {
			t.Parallel()
			sessions := make(chan *live.Session, 1)
			logger, all := logging()
			tt.opts.Logger = logger
			tt.opts.UserID = func(any) string { return "ann" }
			tt.opts.OnConnect = func(_ context.Context, s *live.Session) error { sessions <- s; return nil }
			h := livetest.Hosting{Buffer: 8 << 10}.Start(t, tt.opts)
			c := h.Connect(t, livetest.Dialing{V1: true, Buffer: 8 << 10})
			tt.finish(h, c, livetest.Receive(t, sessions))
			livetest.Eventually(t, "the end", func() bool { st := h.Stats(); return st.Closed == 1 && st.Sessions == 0 })
			if got := h.Stats().ClosedFor; got != tt.want {
				t.Errorf("%+v", got)
			}
			if tt.line == "" {
				if n := all.with(`msg="live: session`); n != 0 {
					t.Errorf("%d lines", n)
				}
				return
			}
			livetest.Eventually(t, "the line", func() bool { return all.with(tt.line) == 1 })
			if n := all.with("msg="); n != 1 {
				t.Errorf("%d lines", n)
			}
		})
	}
}

// A client that OnConnect refuses, and one whose place a newer session takes.
func TestClosingsOfThoseWhoMayNotStay(t *testing.T) {
	t.Parallel()
	refused := make(chan bool, 1)
	opts := live.Options{
		MaxSessionsPerUser: 1, ReplaceOldest: true,
		UserID: func(any) string { return "ann" },
		OnConnect: func(context.Context, *live.Session) error {
			select {
			case <-refused:
				return errors.New("no")
			default:
				return nil
			}
		},
	}
	h := livetest.Hosting{}.Start(t, opts)
	livetest.DialV1(t, h.Endpoint)
	livetest.DialV1(t, h.Endpoint)
	livetest.Eventually(t, "the replacement", func() bool { return h.Stats().ClosedFor == live.Closings{Replaced: 1} })
	refused <- true
	h.Connect(t, livetest.Dialing{V1: true}).Attend()
	livetest.Eventually(t, "the refusal", func() bool { return h.Stats().ClosedFor == live.Closings{Replaced: 2, Refused: 1} })
}

// Each reason has a figure of its own, and all are in Closed.
func TestClosingsAddUp(t *testing.T) {
	t.Parallel()
	sessions := make(chan *live.Session, 1)
	srv, url := serve(t, live.Options{Logger: livetest.Quiet, OnConnect: func(_ context.Context, s *live.Session) error { sessions <- s; return nil }})
	for range 3 {
		c, _ := pair(t, url, sessions)
		c.Drop()
		_, s := pair(t, url, sessions)
		s.Close()
	}
	livetest.Eventually(t, "the ends", func() bool { return srv.Stats().Closed == 6 })
	st := srv.Stats()
	sum := uint64(0)
	for i := range reflect.TypeFor[live.Closings]().NumField() {
		sum += reflect.ValueOf(st.ClosedFor).Field(i).Uint()
	}
	if sum != 6 || st.ClosedFor.Lost != 3 || st.ClosedFor.Application != 3 || st.Accepted != 6 {
		t.Errorf("%+v", st)
	}
}

// An operator hears of many closings without a line for each.
func TestClosingsAreLoggedAtABoundedRate(t *testing.T) {
	t.Parallel()
	const clients = 60
	logger, all := logging()
	srv, url := serve(t, live.Options{Logger: logger, ReadLimit: 10})
	begun := time.Now()
	for range clients {
		dial(t, url).Send(strings.Repeat("x", 11))
	}
	livetest.Eventually(t, "the ends", func() bool { st := srv.Stats(); return st.ClosedFor.TooBig == clients && st.Sessions == 0 })
	if n, most := all.with("ReadLimit reached"), 10+int(time.Since(begun).Seconds())+1; n == 0 || n > most {
		t.Errorf("%d lines for %d sessions, at most %d are good", n, clients, most)
	}
}

// An end is in the log when OnClose is called, also if OnClose never returns.
func TestEndIsLoggedBeforeOnClose(t *testing.T) {
	t.Parallel()
	logger, all := logging()
	lines := make(chan int, 1)
	release := make(chan struct{})
	h := livetest.Hosting{}.Start(t, live.Options{Logger: logger, ReadLimit: 10, OnClose: func(*live.Session, error) {
		lines <- all.with("ReadLimit reached")
		<-release
	}})
	defer close(release)
	livetest.Dial(t, h.Endpoint).Send(strings.Repeat("x", 11))
	if n := livetest.Receive(t, lines); n != 1 {
		t.Errorf("%d lines when OnClose was called", n)
	}
}
