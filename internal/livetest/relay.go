package livetest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// SmallBuffer is how many bytes the kernel is asked to hold for a socket. With it, a stalled
// connection is full after kilobytes, not megabytes.
const SmallBuffer = 4 << 10

// Relay is a TCP relay for one connection. It can have faults.
type Relay struct {
	Endpoint // in front of the relay

	mu         sync.Mutex // guards the fields below
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

// Through starts a relay to the endpoint. The relay accepts one client.
func Through(t testing.TB, to Endpoint) *Relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, secure := to.Addr(), ""
	if to.TLS != nil {
		secure = "s"
	}
	r := &Relay{Endpoint: Endpoint{URL: "ws" + secure + "://" + ln.Addr().String(), TLS: to.TLS}, upBudget: -1, downBudget: -1}
	r.resumed = sync.NewCond(&r.mu)
	var pumps sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		r.Resume()
		r.HangUp()
		pumps.Wait()
	})
	pumps.Go(func() { // ends with its connections, or the listener
		client, err := ln.Accept()
		if err != nil {
			return
		}
		server, err := DialTCP(addr, SmallBuffer)
		if err != nil {
			client.Close()
			return
		}
		r.mu.Lock()
		r.conns = []net.Conn{client, server}
		r.mu.Unlock()
		pumps.Go(func() { r.pump(server, client, &r.upBudget) })
		pumps.Go(func() { r.pump(client, server, &r.downBudget) })
	})
	return r
}

// pump carries bytes from src to dst until one of them is closed.
func (r *Relay) pump(dst, src net.Conn, budget *int) {
	buf := make([]byte, SmallBuffer)
	for {
		r.await()
		n, err := src.Read(buf)
		if !r.carry(dst, buf[:n], budget) || err != nil {
			dst.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

// await waits while the relay is stalled.
func (r *Relay) await() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.stalled {
		r.resumed.Wait()
	}
}

// carry writes the bytes that may pass, and reports whether more may pass.
func (r *Relay) carry(dst net.Conn, p []byte, budget *int) bool {
	r.await()
	r.mu.Lock()
	cut := *budget >= 0 && len(p) >= *budget
	if cut {
		p = p[:*budget]
	}
	if *budget >= 0 {
		*budget -= len(p)
	}
	step := len(p)
	var pause time.Duration
	if r.bytewise {
		step = 1
	} else if r.perSecond > 0 {
		const times = 50 // a second
		step, pause = max(r.perSecond/times, 1), time.Second/times
	}
	if r.blackhole {
		p = nil
	}
	r.mu.Unlock()
	for len(p) > 0 {
		n, err := dst.Write(p[:min(step, len(p))])
		if err != nil {
			return false
		}
		p = p[n:]
		time.Sleep(pause)
	}
	if cut {
		r.cut()
	}
	return !cut
}

func (r *Relay) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	r.resumed.Broadcast()
}

// Stall stops the relay as SIGSTOP stops a program: no byte moves, and the connections stay open.
func (r *Relay) Stall() { r.set(func() { r.stalled = true }) }

// Resume ends a stall.
func (r *Relay) Resume() { r.set(func() { r.stalled = false }) }

// Vanish makes the relay read all bytes and pass none on.
func (r *Relay) Vanish() { r.set(func() { r.blackhole = true }) }

// Trickle makes the relay write each byte alone.
func (r *Relay) Trickle() { r.set(func() { r.bytewise = true }) }

// Slow lets only perSecond bytes pass in a second.
func (r *Relay) Slow(perSecond int) { r.set(func() { r.perSecond = perSecond }) }

// CutUp lets n more bytes pass to the server, and then closes both connections.
func (r *Relay) CutUp(n int, cut func()) { r.set(func() { r.upBudget, r.cut = n, cut }) }

// CutDown lets n more bytes pass to the client, and then closes both connections.
func (r *Relay) CutDown(n int, cut func()) { r.set(func() { r.downBudget, r.cut = n, cut }) }

// HangUp closes both connections.
func (r *Relay) HangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns {
		conn.Close()
	}
}

// Reset ends both connections with a RST.
func (r *Relay) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}
