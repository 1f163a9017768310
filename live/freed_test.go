package live_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// ballast is a session's Value. The garbage collector counts those that are gone.
type ballast struct{ _ [10 << 10]byte }

// ballasts makes Values.
type ballasts struct{ made, freed atomic.Int64 }

func (b *ballasts) make() *ballast {
	v := new(ballast)
	b.made.Add(1)
	runtime.AddCleanup(v, func(freed *atomic.Int64) { freed.Add(1) }, &b.freed)
	return v
}

// allFreed waits until none is reachable.
func (b *ballasts) allFreed(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(livetest.Patience / 2)
	for b.freed.Load() < b.made.Load() {
		if time.Now().After(deadline) {
			t.Fatalf("of %d Values %d are still reachable", b.made.Load(), b.made.Load()-b.freed.Load())
		}
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
}

// leaving is a way in which a session ends.
type leaving struct {
	name string
	opts live.Options
	v1   bool
	end  func(p *livetest.Client, s *live.Session) // s is nil if OnConnect has refused the client
}

func ways() []leaving {
	quick := live.Options{PingInterval: 20 * time.Millisecond, PingTimeout: 20 * time.Millisecond}
	return []leaving{
		{"client closes", live.Options{}, true, func(p *livetest.Client, _ *live.Session) {
			p.Write(livetest.Masked(livetest.CloseFrame, "\x03\xe8"))
			untilEnd(p)
		}},
		{"client closes and hangs up", live.Options{}, false, func(p *livetest.Client, _ *live.Session) {
			p.Write(livetest.Masked(livetest.CloseFrame, "\x03\xe8"))
			p.Line.Close()
		}},
		{"server closes", live.Options{}, true, func(p *livetest.Client, s *live.Session) {
			s.Close()
			untilEnd(p)
		}},
		{"server closes, client hangs up without an answer", live.Options{}, false, func(p *livetest.Client, s *live.Session) {
			s.Close()
			untilClosed(p)
			p.Line.Close()
		}},
		{"server closes, client resets", live.Options{}, true, func(p *livetest.Client, s *live.Session) {
			s.Close()
			untilClosed(p)
			p.Reset()
		}},
		{"server closes, client never answers", live.Options{}, false, func(p *livetest.Client, s *live.Session) {
			s.Close()
			untilClosed(p)
		}},
		{"FIN", live.Options{}, true, func(p *livetest.Client, _ *live.Session) { p.Line.Close() }},
		{"half close", live.Options{}, false, func(p *livetest.Client, _ *live.Session) {
			if half, ok := p.Conn.(interface{ CloseWrite() error }); ok { // TLS
				half.CloseWrite()
			} else {
				p.Line.Conn.(*net.TCPConn).CloseWrite()
			}
			untilEnd(p)
		}},
		{"reset", live.Options{}, true, func(p *livetest.Client, _ *live.Session) { p.Reset() }},
		{"reset in the middle of a message", live.Options{}, false, func(p *livetest.Client, _ *live.Session) {
			p.Write(livetest.Masked(livetest.TextFrame, strings.Repeat("x", 100_000))[:50_000])
			p.Reset()
		}},
		{"no answer to pings", quick, false, func(p *livetest.Client, _ *live.Session) { untilClosed(p) }},
		{"no answer to pings of live.v1", quick, true, func(p *livetest.Client, _ *live.Session) { untilClosed(p) }},
		{"protocol error", live.Options{}, false, func(p *livetest.Client, _ *live.Session) {
			p.Write([]byte{livetest.TextFrame, 1, 'x'}) // not masked
			untilEnd(p)
		}},
		{"no frame of live.v1", live.Options{}, true, func(p *livetest.Client, _ *live.Session) {
			p.Say("nonsense")
			untilClosed(p)
			p.Reset()
		}},
		{"message too big", live.Options{ReadLimit: 1000}, false, func(p *livetest.Client, _ *live.Session) {
			p.Say(strings.Repeat("x", 2000))
			untilClosed(p)
			p.Reset()
		}},
		{"queue full", live.Options{QueueSize: 1, QueueBytes: 1}, false, func(p *livetest.Client, s *live.Session) {
			for s.Send(live.Message{Data: []byte(livetest.Padded(0, 100_000))}) == nil {
			}
			p.Reset()
		}},
		{"takes nothing", live.Options{WriteTimeout: 20 * time.Millisecond}, true, func(_ *livetest.Client, s *live.Session) {
			for !s.IsClosed() {
				s.Send(live.Message{Data: []byte(livetest.Padded(0, 100_000))})
				time.Sleep(100 * time.Microsecond)
			}
		}},
		{"OnMessage panics", live.Options{
			OnMessage: func(context.Context, *live.Session, string, []byte) { panic("boom") },
		}, false, func(p *livetest.Client, _ *live.Session) {
			p.Say(`{}`)
			untilClosed(p)
			p.Line.Close()
		}},
		{"OnConnect refuses", live.Options{
			OnConnect: func(context.Context, *live.Session) error { return errors.New("no") },
		}, true, func(p *livetest.Client, _ *live.Session) {
			untilClosed(p)
			p.Line.Close()
		}},
	}
}

// However a session ends, nothing of it stays, nor of its Value.
func TestSessionThatHasEndedIsFreed(t *testing.T) {
	t.Parallel()
	livetest.AtOnce(t, func(g *livetest.Together) {
		for _, way := range ways() {
			g.Run(way.name, func(t *testing.T) {
				livetest.OverBoth(t, func(t *testing.T, secure bool) { endsAndIsFreed(t, way, secure) })
			})
		}
	})
}

func endsAndIsFreed(t *testing.T, way leaving, secure bool) {
	const clients = 8
	var values ballasts
	var closes atomic.Int64
	opts, sessions := livetest.Connected(way.opts)
	refused := way.opts.OnConnect != nil
	if refused {
		opts.OnConnect = way.opts.OnConnect
	}
	opts.OnAuth = func(context.Context, *http.Request) (any, error) { return values.make(), nil }
	opts.OnClose = func(*live.Session, error) { closes.Add(1) }
	opts.Topics = func(string) live.TopicOptions { return live.TopicOptions{History: 10} }
	h := livetest.Hosting{Secure: secure, Buffer: 16 << 10}.Start(t, opts)
	for range clients {
		p := h.Connect(t, livetest.Dialing{V1: way.v1, Buffer: 16 << 10})
		var s *live.Session
		if !refused {
			s = livetest.Receive(t, sessions)
			h.Subscribe(s, "t") // an error: it has ended
			s.Listen("t", func(live.Message) {})
			h.Publish("t", []byte(`1`))
		}
		way.end(p, s)
	}
	livetest.Eventually(t, "OnClose", func() bool { return closes.Load() == clients })
	values.allFreed(t)
}

// A handshake that goes no further keeps nothing either.
func TestHandshakeThatStopsHalfwayIsFreed(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	t.Parallel()
	var values ballasts
	var inside atomic.Int64
	leave := make(chan struct{})
	h := livetest.Hosting{}.Start(t, live.Options{
		OnAuth: func(ctx context.Context, r *http.Request) (any, error) {
			v := values.make()
			inside.Add(1)
			<-leave
			return v, nil
		},
	})
	const clients = 20
	for i := range clients {
		conn, err := net.Dial("tcp", h.Addr())
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(request))
		livetest.Eventually(t, "OnAuth", func() bool { return inside.Load() == int64(i+1) })
		if i%2 == 0 {
			conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
	}
	close(leave)
	values.allFreed(t)
	if st := h.Stats(); st.Sessions != 0 {
		t.Errorf("%d sessions", st.Sessions)
	}
}

// What is freed is all: the heap is no larger after many clients than after some.
func TestClientsThatCameAndWentTakeNoMemory(t *testing.T) {
	for _, secure := range []bool{false, true} {
		h := livetest.Hosting{Secure: secure}.Start(t, live.Options{})
		churn := func(n int) {
			for range n {
				p, err := livetest.Try(t, h.Endpoint, livetest.Dialing{})
				if err != nil {
					t.Fatal(err)
				}
				p.Reset()
			}
			livetest.Eventually(t, "the end of all", func() bool { return h.Stats().Sessions == 0 })
		}
		live.FillEnds(h.Server) // their memory is bounded
		churn(100)
		before := liveHeap()
		const clients = 300
		churn(clients)
		livetest.Eventually(t, "a heap as before", func() bool { return liveHeap() < before+200*clients })
	}
}
