package live_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// pipes is a listener whose connections are in memory, so that time can be
// false.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial() net.Conn {
	near, far := net.Pipe()
	p.conns <- far
	return near
}

// inMemory runs f with false time. start starts a server; dial connects to it.
func inMemory(t *testing.T, f func(t *testing.T, start func(live.Options) *live.Server, dial func() net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		start := func(opts live.Options) *live.Server {
			opts.Logger = slog.New(slog.DiscardHandler)
			srv := live.New(opts)
			hs := &http.Server{Handler: srv.Handler()}
			go hs.Serve(p)
			t.Cleanup(func() {
				shut(t, srv)
				hs.Close()
			})
			return srv
		}
		f(t, start, func() net.Conn {
			conn := p.dial()
			return livetest.Over(t, conn, livetest.Dialing{}).Conn
		})
	})
}

// swallow takes what is sent and never answers.
func swallow(conn net.Conn) {
	for b := make([]byte, 100); ; {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

func TestDeadClientIsFoundInTime(t *testing.T) {
	const interval, timeout = 25 * time.Second, 10 * time.Second
	type end struct {
		err error
		at  time.Time
	}
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		const n = 20
		ends := make(chan end, n)
		srv := serve(live.Options{
			OnClose: func(_ *live.Session, err error) { ends <- end{err, time.Now()} },
		})
		start := time.Now()
		for range n {
			go swallow(dial())
		}
		for range n {
			e := <-ends
			if took := e.at.Sub(start); took > interval+timeout || took < interval/2 {
				t.Errorf("found after %v", took)
			}
			if e.err != live.ErrPingTimeout {
				t.Error(e.err)
			}
		}
		if st := srv.Stats(); st.Sessions != 0 || st.PingTimeouts != n {
			t.Errorf("%+v", st)
		}
	})
}

// A client that answers pings, and does nothing else, stays; it is pinged often
// enough to keep a proxy from cutting the line, and no more often.
func TestLivingClientStays(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		srv := serve(live.Options{})
		conn := dial()
		var pings []time.Time
		go func() {
			for b := make([]byte, 100); ; {
				n, err := conn.Read(b)
				if err != nil {
					return
				}
				if n != 2 || b[0] != 0x89 || b[1] != 0 {
					continue
				}
				pings = append(pings, time.Now())
				conn.Write([]byte{0x8a, 0x80, 0, 0, 0, 0}) // a masked, empty pong
			}
		}()
		start := time.Now()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if st := srv.Stats(); st.Sessions != 1 {
			t.Fatalf("%+v", st)
		}
		last := start
		for _, at := range pings {
			if gap := at.Sub(last); gap > 25*time.Second {
				t.Errorf("%v without a ping", gap)
			}
			last = at
		}
		if len(pings) < 24 || len(pings) > 30 {
			t.Errorf("%d pings in ten minutes", len(pings))
		}
	})
}

func TestPingsCanBeTurnedOff(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		srv := serve(live.Options{PingInterval: -1})
		conn := dial()
		heard := make(chan int, 1)
		go func() {
			n, _ := conn.Read(make([]byte, 100))
			heard <- n
		}()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if len(heard) != 0 || srv.Stats().Sessions != 1 {
			t.Fatal("something was sent, or the session ended")
		}
	})
}

// A client that sends is not pinged.
func TestClientThatSpeaksIsNotPinged(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		got := 0
		serve(live.Options{
			OnMessage: func(context.Context, *live.Session, string, []byte) { got++ },
		})
		conn := dial()
		heard := make(chan int, 1)
		go func() {
			n, _ := conn.Read(make([]byte, 100))
			heard <- n
		}()
		for range 100 {
			conn.Write([]byte{0x81, 0x82, 0, 0, 0, 0, '{', '}'})
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		if got != 100 || len(heard) != 0 {
			t.Fatalf("%d messages; heard %d", got, len(heard))
		}
	})
}

// After the server's close frame a client has five seconds to answer.
func TestUnansweredCloseIsBounded(t *testing.T) {
	inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
		srv := serve(live.Options{})
		go swallow(dial())
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Fatalf("took %v", took)
		}
	})
}
