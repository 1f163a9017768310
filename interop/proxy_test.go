package interop

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// smallBuffer is what the kernel is asked to keep for a socket of these tests,
// so that a stalled line is full after kilobytes, not megabytes.
const smallBuffer = 4 << 10

// smallBuffers is a listener whose connections have a small send buffer. They
// stay *net.TCPConn.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		conn.(*net.TCPConn).SetWriteBuffer(smallBuffer)
	}
	return conn, err
}

func serveSmall(t testing.TB, h http.Handler) endpoint {
	return startSmall(t, h, (*httptest.Server).Start)
}

func serveSmallTLS(t testing.TB, h http.Handler) endpoint {
	return startSmall(t, h, (*httptest.Server).StartTLS)
}

func startSmall(t testing.TB, h http.Handler, start func(*httptest.Server)) endpoint {
	s := httptest.NewUnstartedServer(h)
	s.Listener = smallBuffers{s.Listener}
	start(s)
	t.Cleanup(s.Close)
	return endpointOf(s)
}

// overEachSmall is overEach with small buffers.
func overEachSmall(t *testing.T, test func(t *testing.T, serve func(testing.TB, http.Handler) endpoint)) {
	t.Run("plain", func(t *testing.T) { t.Parallel(); test(t, serveSmall) })
	t.Run("TLS", func(t *testing.T) { t.Parallel(); test(t, serveSmallTLS) })
}

// line is a TCP proxy for one connection, with faults.
type line struct {
	endpoint // in front of the proxy

	mu         sync.Mutex // guards what follows
	resumed    *sync.Cond
	stalled    bool   // nothing is read from either side
	blackhole  bool   // all is read, nothing arrives
	bytewise   bool   // each byte is a write of its own
	perSecond  int    // bytes that pass in a second; 0: as many as can
	upBudget   int    // bytes that still pass to the server; negative: all
	downBudget int    // the same to the client
	cut        func() // when a budget is used up
	conns      []net.Conn
}

// through returns a line to the endpoint, which takes one client.
func through(t testing.TB, to endpoint) *line {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	scheme, addr, _ := strings.Cut(to.url, "://")
	l := &line{endpoint: endpoint{url: scheme + "://" + ln.Addr().String(), tls: to.tls}, upBudget: -1, downBudget: -1}
	l.resumed = sync.NewCond(&l.mu)
	var pumps sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		l.resume()
		l.hangUp()
		pumps.Wait()
	})
	pumps.Go(func() { // ends with its connections, or the listener
		client, err := ln.Accept()
		if err != nil {
			return
		}
		server, err := dialSmall("tcp", addr)
		if err != nil {
			client.Close()
			return
		}
		l.mu.Lock()
		l.conns = []net.Conn{client, server}
		l.mu.Unlock()
		pumps.Go(func() { l.pump(server, client, &l.upBudget) })
		pumps.Go(func() { l.pump(client, server, &l.downBudget) })
	})
	return l
}

// dialSmall dials with a small receive buffer, set before the connection says
// how much it takes.
func dialSmall(network, addr string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, smallBuffer)
		}), err)
	}}
	return d.Dial(network, addr)
}

// pump carries bytes from src to dst until one of them is closed.
func (l *line) pump(dst, src net.Conn, budget *int) {
	buf := make([]byte, smallBuffer)
	for {
		l.await()
		n, err := src.Read(buf)
		if !l.carry(dst, buf[:n], budget) || err != nil {
			dst.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

// await waits while the line is stalled.
func (l *line) await() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.stalled {
		l.resumed.Wait()
	}
}

// carry writes what passes, and reports whether more may.
func (l *line) carry(dst net.Conn, p []byte, budget *int) bool {
	l.await()
	l.mu.Lock()
	cut := *budget >= 0 && len(p) >= *budget
	if cut {
		p = p[:*budget]
	}
	if *budget >= 0 {
		*budget -= len(p)
	}
	step := len(p)
	var pause time.Duration
	if l.bytewise {
		step = 1
	} else if l.perSecond > 0 {
		const times = 50 // a second
		step, pause = max(l.perSecond/times, 1), time.Second/times
	}
	if l.blackhole {
		p = nil
	}
	l.mu.Unlock()
	for len(p) > 0 {
		n, err := dst.Write(p[:min(step, len(p))])
		if err != nil {
			return false
		}
		p = p[n:]
		time.Sleep(pause)
	}
	if cut {
		l.cut()
	}
	return !cut
}

func (l *line) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	l.resumed.Broadcast()
}

// stall stops the line like SIGSTOP does a program: nothing moves, nothing is
// closed.
func (l *line) stall() { l.set(func() { l.stalled = true }) }

func (l *line) resume() { l.set(func() { l.stalled = false }) }

// vanish makes the line swallow everything.
func (l *line) vanish() { l.set(func() { l.blackhole = true }) }

// trickle makes every byte come alone.
func (l *line) trickle() { l.set(func() { l.bytewise = true }) }

// slow lets only so many bytes pass in a second.
func (l *line) slow(perSecond int) { l.set(func() { l.perSecond = perSecond }) }

// cutUp lets n more bytes pass to the server and then cuts the line.
func (l *line) cutUp(n int, cut func()) { l.set(func() { l.upBudget, l.cut = n, cut }) }

// cutDown is cutUp for bytes to the client.
func (l *line) cutDown(n int, cut func()) { l.set(func() { l.downBudget, l.cut = n, cut }) }

// hangUp closes both connections.
func (l *line) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.Close()
	}
}

// reset does so with a RST each.
func (l *line) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}
