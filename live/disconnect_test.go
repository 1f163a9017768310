package live_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestDisconnectClosesWithTheApplicationsCode(t *testing.T) {
	for _, code := range []int{
		live.CloseNormal, live.CloseRefused, live.ClosePanic, live.CloseRestart, 1013,
		3000, 3999, 4000, live.CloseRevoked, live.CloseSignInExpired, 4999,
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			ends := make(chan error, 2)
			opts, sessions := livetest.Connected(live.Options{OnClose: func(_ *live.Session, err error) { ends <- err }})
			_, url := serve(t, opts)
			c, s := pair(t, url, sessions)
			s.Send(live.Message{Topic: "queued"})
			if err := s.Disconnect(code, "because"); err != nil {
				t.Fatal(err)
			}
			got, reason, before := c.Closed()
			if got != code || reason != "because" {
				t.Errorf("the client saw %d %q", got, reason)
			}
			if len(before) != 1 || before[0].Topic != "queued" {
				t.Errorf("before it came %v, not what was queued", before)
			}
			err := livetest.Receive(t, ends)
			if err != s.CloseError() {
				t.Errorf("OnClose got %v, CloseError is %v", err, s.CloseError())
			}
			if code == live.CloseNormal {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, live.ErrDisconnected) || !strings.Contains(err.Error(), fmt.Sprint(code)) || !strings.Contains(err.Error(), "because") {
				t.Errorf("the error is %v", err)
			}
			if err := s.Disconnect(4000, "again"); err != nil || strings.Contains(s.CloseError().Error(), "again") {
				t.Errorf("a second call: %v, and now %v", err, s.CloseError())
			}
		})
	}
}

func TestDisconnectRefusesCodesOfTheProtocolsOwn(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{})
	_, url := serve(t, opts)
	c, s := pair(t, url, sessions)
	for _, code := range []int{-1, 0, 999, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1009, 1010, 1014, 1015, 2999, 5000, 65536 + 4000} {
		if err := s.Disconnect(code, "no"); err == nil {
			t.Errorf("%d: no error", code)
		}
	}
	if s.IsClosed() {
		t.Fatal("the session is closed")
	}
	s.Send(live.Message{Topic: "still here"})
	c.Hears("still here", "")
}

func TestReasonIsCutAtARune(t *testing.T) {
	for _, test := range []struct{ reason, want string }{
		{"", ""},
		{strings.Repeat("x", 123), strings.Repeat("x", 123)},
		{strings.Repeat("x", 124), strings.Repeat("x", 123)},
		{strings.Repeat("x", 122) + "é", strings.Repeat("x", 122)},
		{strings.Repeat("€", 1000), strings.Repeat("€", 41)},
		{"not \xff UTF-8", "not \uFFFD UTF-8"},
	} {
		opts, sessions := livetest.Connected(live.Options{})
		_, url := serve(t, opts)
		c, s := pair(t, url, sessions)
		s.Disconnect(4000, test.reason)
		if _, reason, _ := c.Closed(); reason != test.want || !utf8.ValidString(reason) {
			t.Errorf("of %.20q came %q", test.reason, reason)
		}
	}
}

// A close with 1000 always has a reason: proxies close without one, and the client comes back.
func TestEndOnPurposeHasAReason(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(h *livetest.Host, s *live.Session)
		want string
	}{
		"Close":             {func(_ *livetest.Host, s *live.Session) { s.Close() }, "closed by the server"},
		"Disconnect":        {func(_ *livetest.Host, s *live.Session) { s.Disconnect(1000, "") }, "closed by the server"},
		"Disconnect, named": {func(_ *livetest.Host, s *live.Session) { s.Disconnect(1000, "game over") }, "game over"},
	} {
		for _, v1 := range []bool{false, true} {
			opts, sessions := livetest.Connected(live.Options{})
			h := livetest.Hosting{}.Start(t, opts)
			p := h.Connect(t, livetest.Dialing{V1: v1})
			tt.end(h, livetest.Receive(t, sessions))
			for {
				f, err := p.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if f.First == 0x88 {
					if got := f.Raw; got != "\x03\xe8"+tt.want {
						t.Errorf("%s, live.v1 %v: %q", name, v1, got)
					}
					break
				}
			}
		}
	}
}
