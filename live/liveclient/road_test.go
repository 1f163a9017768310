package liveclient_test

import (
	"net"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
)

// road is a TCP relay for any number of connections, one after another. It can be cut, blocked, and led to another server.
type road struct {
	livetest.Endpoint // in front of it

	mu      sync.Mutex // guards the fields below
	to      string
	blocked bool
	conns   map[net.Conn]bool // at either side
	dials   int
	budget  int // bytes that still pass up before all is cut; negative: all
	down    int // the same for bytes to the client
}

func newRoad(t testing.TB, to livetest.Endpoint) *road {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &road{Endpoint: livetest.Endpoint{URL: "ws://" + ln.Addr().String()}, to: to.Addr(), conns: make(map[net.Conn]bool), budget: -1, down: -1}
	var running sync.WaitGroup
	running.Go(func() { // ends with the listener
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { r.carry(client, &running) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		r.block()
		running.Wait()
	})
	return r
}

// carry passes bytes between a client and the server until the connection is cut.
func (r *road) carry(client net.Conn, running *sync.WaitGroup) {
	defer client.Close()
	r.mu.Lock()
	to := r.to
	r.dials++
	r.mu.Unlock()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	r.mu.Lock()
	if r.blocked {
		r.mu.Unlock()
		return
	}
	r.conns[client], r.conns[server] = true, true
	r.mu.Unlock()
	running.Go(func() { r.pump(server, client, &r.budget) })
	r.pump(client, server, &r.down)
	r.mu.Lock()
	delete(r.conns, client)
	delete(r.conns, server)
	r.mu.Unlock()
}

// pump copies bytes, until the budget is used up or one end is closed.
func (r *road) pump(to, from net.Conn, budget *int) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		over := *budget >= 0 && n >= *budget
		if over {
			n, *budget = *budget, -1
		} else if *budget >= 0 {
			*budget -= n
		}
		r.mu.Unlock()
		if _, failed := to.Write(buf[:n]); failed != nil || err != nil || over {
			return
		}
	}
}

// cut closes all connections. The client may dial again.
func (r *road) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.conns {
		conn.Close()
	}
}

// block cuts all connections, and lets no new one through.
func (r *road) block() {
	r.mu.Lock()
	r.blocked = true
	r.mu.Unlock()
	r.cut()
}

func (r *road) unblock() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blocked = false
}

// leadTo has new connections lead to another server.
func (r *road) leadTo(to livetest.Endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to.Addr()
}

// cutAfter lets so many more bytes pass to the server, or to the client, and then cuts the connection that carries them.
func (r *road) cutAfter(up, down int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.budget, r.down = up, down
}
