package live_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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

// closing reads frames until a close frame, and returns its code, and when it came;
// 0 if the connection ended without one.
func closing(conn net.Conn) (code int, at time.Time) {
	br := bufio.NewReader(conn)
	for {
		var head [2]byte
		if _, err := io.ReadFull(br, head[:]); err != nil {
			return 0, time.Now()
		}
		payload := make([]byte, head[1])
		if _, err := io.ReadFull(br, payload); err != nil {
			return 0, time.Now()
		}
		if head[0] == 0x88 {
			conn.Close()
			return int(binary.BigEndian.Uint16(payload)), time.Now()
		}
	}
}

func TestSessionExpiresInTime(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		opts, sessions := livetest.Connected(live.Options{PingInterval: -1}) // it needs no pings
		srv := serve(opts)
		start := time.Now()
		type end struct {
			want, code int
			due, at    time.Time
		}
		ends := make(chan end, 100)
		join := func(due time.Time, want int, set func(s *live.Session)) {
			conn := dial()
			go func() {
				code, at := closing(conn)
				ends <- end{want, code, due, at}
			}()
			set(<-sessions)
		}
		for i := range 20 { // in no order
			due := start.Add(time.Duration(i*7%20)*10*time.Minute + time.Duration(i)*333*time.Millisecond)
			join(due, live.CloseSignInExpired, func(s *live.Session) { s.ExpireAt(due) })
		}
		later := start.Add(30 * time.Hour)
		join(later, live.CloseSignInExpired, func(s *live.Session) { // replaced by a later time
			s.ExpireAt(start.Add(time.Minute))
			s.ExpireAt(later)
		})
		sooner := start.Add(90 * time.Second)
		join(sooner, live.CloseSignInExpired, func(s *live.Session) { // replaced by a sooner time
			s.ExpireAt(later)
			s.ExpireAt(sooner)
		})
		join(start, live.CloseSignInExpired, func(s *live.Session) { s.ExpireAt(start.Add(-time.Hour)) })
		last := start.Add(100 * time.Hour)
		join(last, live.CloseNormal, func(s *live.Session) { // no more
			s.ExpireAt(start.Add(time.Minute))
			s.ExpireAt(time.Time{})
			time.AfterFunc(time.Until(last), func() { s.Close() })
		})
		join(last, live.CloseNormal, func(s *live.Session) { // not before the sun dies
			s.ExpireAt(time.Unix(1<<57, 0))
			time.AfterFunc(time.Until(last), func() { s.Close() })
		})
		for range 25 {
			e := <-ends
			if late := e.at.Sub(e.due); e.code != e.want || late < 0 || late > time.Second {
				t.Errorf("due after %v: closed with %d, %v late", e.due.Sub(start), e.code, late)
			}
		}
		synctest.Wait()
		if st := srv.Stats(); st.Sessions != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestExpiryOfASessionThatHasEnded(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		opts, sessions := livetest.Connected(live.Options{PingInterval: -1})
		serve(opts)
		go closing(dial())
		s := <-sessions
		s.ExpireAt(time.Now().Add(time.Hour))
		s.Close()
		synctest.Wait()
		s.ExpireAt(time.Now().Add(time.Minute))
		s.ExpireAt(time.Now().Add(-time.Minute))
		if err := s.CloseError(); err != nil {
			t.Error(err)
		}
	})
}
