package live_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// closing reads frames until a close frame, and returns its code, and when it came;
// 0 if the connection ended without one.
func closing(conn net.Conn) (code int, at time.Time) {
	code, _, at = closingFor(conn)
	return code, at
}

// closingFor is closing that returns the reason of the close frame too.
func closingFor(conn net.Conn) (code int, reason string, at time.Time) {
	br := bufio.NewReader(conn)
	for {
		var head [2]byte
		if _, err := io.ReadFull(br, head[:]); err != nil {
			return 0, "", time.Now()
		}
		payload := make([]byte, head[1])
		if _, err := io.ReadFull(br, payload); err != nil {
			return 0, "", time.Now()
		}
		if head[0] == 0x88 {
			conn.Close()
			return int(binary.BigEndian.Uint16(payload)), string(payload[2:]), time.Now()
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
