package live_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// onlyEnd waits for the end of the only session.
func onlyEnd(t *testing.T, h *livetest.Host) live.SessionEnd {
	t.Helper()
	livetest.Eventually(t, "the end of the session", func() bool { return len(h.RecentEnds()) > 0 })
	return h.RecentEnds()[0]
}

func TestServerRemembersWhyASessionHasEnded(t *testing.T) {
	t.Parallel()
	closed := errors.New("the account is closed")
	for _, way := range []struct {
		why, reason, err string
		code             int
		opts             live.Options
		end              func(*livetest.Host, *livetest.Client, *live.Session)
	}{
		{"Client", "done", "", 1000, live.Options{}, func(_ *livetest.Host, c *livetest.Client, _ *live.Session) { c.Close(1000, "done") }},
		{"Lost", "", "connection lost", 0, live.Options{}, func(_ *livetest.Host, c *livetest.Client, _ *live.Session) { c.Drop() }},
		{"Application", "closed by the server", "", 1000, live.Options{}, func(_ *livetest.Host, _ *livetest.Client, s *live.Session) { s.Close() }},
		{"Application", "moved", "code 3999", 3999, live.Options{}, func(_ *livetest.Host, _ *livetest.Client, s *live.Session) { s.Disconnect(3999, "moved") }},
		{"User", "banned", "code 4001", 4001, live.Options{}, func(h *livetest.Host, _ *livetest.Client, _ *live.Session) { h.DisconnectUser("ann", "banned") }},
		{"TooBig", "", live.ErrMessageTooBig.Error(), 1009, live.Options{ReadLimit: 100}, func(_ *livetest.Host, c *livetest.Client, _ *live.Session) {
			c.SendMessage("t", strings.Repeat("x", 200))
		}},
		{"Panic", "internal error", "no luck", 1011, live.Options{OnMessage: func(context.Context, *live.Session, string, []byte) { panic("no luck") }},
			func(_ *livetest.Host, c *livetest.Client, _ *live.Session) { c.SendMessage("t", 1) }},
		{"Refused", "refused", closed.Error(), 1008, live.Options{OnConnect: func(context.Context, *live.Session) error { return closed }}, nil},
	} {
		t.Run(way.why, func(t *testing.T) {
			t.Parallel()
			opts, sessions := way.opts, (chan *live.Session)(nil)
			if way.end != nil {
				opts, sessions = livetest.Connected(opts)
			}
			h := livetest.Hosting{}.Start(t, withUsers(opts))
			c := livetest.Connect(t, h.With("user=ann"), livetest.Dialing{})
			var id string
			if way.end != nil {
				s := livetest.Receive(t, sessions)
				id = s.ID()
				h.Subscribe(s, "t")
				way.end(h, c, s)
			}
			e := onlyEnd(t, h)
			if e.Why != way.why || e.Code != way.code || e.UserID != "ann" || !strings.Contains(e.Reason, way.reason) {
				t.Errorf("the end is %+v", e)
			}
			if !strings.Contains(e.Error, way.err) || (way.err == "") != (e.Error == "") {
				t.Errorf("the error is %q, want %q", e.Error, way.err)
			}
			if way.end != nil && (e.SessionID != id || e.Topics != 1) {
				t.Errorf("session %q with %d topics, want %q with one", e.SessionID, e.Topics, id)
			}
			if e.Time.IsZero() || e.Age < 0 {
				t.Errorf("it has ended at %v, after %v", e.Time, e.Age)
			}
		})
	}
}

// Whoever asks why a client was too slow sees what it had not got.
func TestServerRemembersWhatAClientHadWaiting(t *testing.T) {
	t.Parallel()
	opts, sessions := livetest.Connected(live.Options{})
	h := slowHost(t, opts, live.TopicOptions{})
	c := slowPeer(h, t, true, 0)
	s := livetest.Receive(t, sessions)
	c.Line.Stall()
	h.Subscribe(s, "t")
	livetest.Eventually(t, "a full queue", func() bool {
		h.PublishNumbers(t, "t", 1, 10, 1000)
		return s.IsClosed()
	})
	e := onlyEnd(t, h)
	if e.Why != "QueueFull" || e.Code != live.CloseQueueFull || e.Error != live.ErrQueueFull.Error() {
		t.Errorf("the end is %+v", e)
	}
	if most := 16; e.QueuedMessages < most/2 || e.QueuedMessages > 2*most || e.QueuedBytes < 1000*(e.QueuedMessages-1) {
		t.Errorf("%d messages of %d bytes waited; the queue takes %d messages of 1,000 bytes", e.QueuedMessages, e.QueuedBytes, most)
	}
}

func TestServerRemembersThatASessionWasCatchingUp(t *testing.T) {
	t.Parallel()
	opts, sessions := livetest.Connected(live.Options{})
	h := slowHost(t, opts, live.TopicOptions{History: 300})
	c := slowPeer(h, t, true, 0)
	s := livetest.Receive(t, sessions)
	c.Line.Stall()
	h.Subscribe(s, "t")
	h.PublishNumbers(t, "t", 1, 300, 1000)
	s.Close()
	if e := onlyEnd(t, h); e.CatchingUp != 1 || e.Topics != 1 {
		t.Errorf("the end is %+v", e)
	}
}

// A reason or an ID may have any length, and a thousand ends must not fill the memory.
func TestLongTextsOfEndsAreCut(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 10_000) // of two bytes, so that a cut may fall into a rune
	opts, sessions := livetest.Connected(live.Options{
		IDGenerator: func() string { return "a" + long },
		UserID:      func(any) string { return long },
	})
	h := livetest.Hosting{}.Start(t, opts)
	livetest.Dial(t, h.Endpoint)
	livetest.Receive(t, sessions).Disconnect(4000, long)
	e := onlyEnd(t, h)
	for what, of := range map[string]struct {
		text string
		most int
	}{"ID": {e.SessionID, 128}, "user": {e.UserID, 128}, "reason": {e.Reason, 123}, "error": {e.Error, 256}} {
		if len(of.text) > of.most || len(of.text) < of.most-2 || !utf8.ValidString(of.text) {
			t.Errorf("the %s has %d bytes, want %d: %q", what, len(of.text), of.most, of.text)
		}
	}
}

// OnClose may look for the end of its session.
func TestEndIsKnownInOnClose(t *testing.T) {
	t.Parallel()
	ends := make(chan []live.SessionEnd, 1)
	var server *live.Server
	opts, sessions := livetest.Connected(live.Options{OnClose: func(*live.Session, error) { ends <- server.RecentEnds() }})
	h := livetest.Hosting{}.Start(t, opts)
	server = h.Server
	livetest.Dial(t, h.Endpoint)
	livetest.Receive(t, sessions).Disconnect(4000, "enough")
	if known := livetest.Receive(t, ends); len(known) != 1 || known[0].Reason != "enough" {
		t.Errorf("in OnClose the ends were %+v", known)
	}
}
