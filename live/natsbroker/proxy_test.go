package natsbroker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
)

// patience is how long a test waits for an event that must happen. Each event takes seconds at
// most. The rest is for a busy machine with the race detector.
const patience = 60 * time.Second

// waitFor returns when cond holds, and fails the test if it never does.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

// linkState is what a link does with the bytes and connections that it gets.
type linkState int

const (
	linkOK        linkState = iota // they pass
	linkCut                        // connections are closed, and new connections too
	linkBlackhole                  // nothing passes, not even an end, and connections stay open
)

// link is a TCP proxy from one node to another, for connections that the first node makes.
// Bytes go both ways on it.
type link struct {
	listener net.Listener
	target   string
	done     sync.WaitGroup // its goroutines end with close

	mu      sync.Mutex // guards the fields below
	changed *sync.Cond // state or closed
	state   linkState
	closed  bool
	conns   map[net.Conn]bool // both ends of all connections
}

// newLink starts a link to target.
func newLink(t testing.TB, target string) *link {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: ln, target: target, conns: make(map[net.Conn]bool)}
	l.changed = sync.NewCond(&l.mu)
	l.done.Go(l.accept)
	t.Cleanup(l.close)
	return l
}

// addr is the address under which the target is reached.
func (l *link) addr() string { return l.listener.Addr().String() }

// set puts the link into a state. After a blackhole the waiting bytes pass on the connections
// that are still open, as in TCP.
func (l *link) set(state linkState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = state
	if state == linkCut {
		l.hangUp()
	}
	l.changed.Broadcast()
}

func (l *link) close() {
	l.listener.Close()
	l.mu.Lock()
	l.closed = true
	l.hangUp()
	l.changed.Broadcast()
	l.mu.Unlock()
	l.done.Wait()
}

// hangUp closes all connections. l.mu is held.
func (l *link) hangUp() {
	for c := range l.conns {
		c.Close()
	}
}

func (l *link) accept() {
	for {
		from, err := l.listener.Accept()
		if err != nil {
			return
		}
		if l.add(from) {
			l.done.Go(func() { l.serve(from) })
		}
	}
}

// serve copies one connection both ways until either side ends it.
func (l *link) serve(from net.Conn) {
	defer l.remove(from)
	if !l.pass() {
		return
	}
	to, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	if !l.add(to) {
		return
	}
	defer l.remove(to)
	var both sync.WaitGroup
	both.Go(func() { l.copy(to, from) })
	both.Go(func() { l.copy(from, to) })
	both.Wait()
}

func (l *link) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !l.pass() {
			return
		}
		if n > 0 {
			if _, e := to.Write(buf[:n]); e != nil {
				err = e
			}
		}
		if err != nil {
			from.Close() // this ends the other direction
			to.Close()
			return
		}
	}
}

// add reports whether c may be used. If not, it closes c.
func (l *link) add(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.state == linkCut {
		c.Close()
		return false
	}
	l.conns[c] = true
	return true
}

func (l *link) remove(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	c.Close()
}

// pass waits while nothing may pass, and reports whether something may pass then.
func (l *link) pass() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.state == linkBlackhole && !l.closed {
		l.changed.Wait()
	}
	return l.state == linkOK && !l.closed
}

// meshSize is the number of nodes in a mesh: the smallest cluster that can lose a node.
const meshSize = 3

// mesh is a cluster in this process. Its nodes reach each other only through links.
//
//	m := newMesh(t)            // nothing runs yet
//	m.start(0, 1, 2)           // or m.adopt(i, e), for servers made of m.options(i)
//	m.awaitWhole()
//	m.isolate(1, linkBlackhole)
//	m.awaitRoutes(1, 0)
//	m.heal(1)                  // and so on; everything stops at the end of the test
type mesh struct {
	t     testing.TB
	nodes [meshSize]*embedded       // nil: the node is not running
	links [meshSize][meshSize]*link // from, to; nil from a node to itself

	opts [meshSize]Options
}

// newMesh makes the links and the options of a cluster.
func newMesh(t testing.TB) *mesh {
	m := &mesh{t: t}
	dir := t.TempDir()
	addrs := livetest.FreeAddresses(t, meshSize)
	for i := range m.links {
		var routes []string
		for j := range m.links[i] {
			if i != j {
				m.links[i][j] = newLink(t, addrs[j])
				routes = append(routes, m.links[i][j].addr())
			}
		}
		m.opts[i] = Options{
			StoreDir: filepath.Join(dir, strconv.Itoa(i)),
			Logger:   slog.New(slog.DiscardHandler),
			Cluster: &Cluster{
				Listen:    addrs[i],
				Advertise: nobody, // the nodes must not tell each other a way around the links
				Routes:    routes,
				Username:  "node", Password: "secret",
			},
		}
	}
	t.Cleanup(m.stop)
	return m
}

// clusterAddr is the address on which a node listens for other nodes; "": it is in no cluster.
func clusterAddr(e *embedded) string {
	if a := e.srv.ClusterAddr(); a != nil {
		return a.String()
	}
	return ""
}

// routesOf is the number of other nodes that are now connected to a node.
func routesOf(e *embedded) int { return e.srv.NumRemotes() }

// options returns the options of node i. The caller may change them, but not what they point
// to.
func (m *mesh) options(i int) Options { return m.opts[i] }

// start starts servers without brokers. It does not wait until they see each other.
func (m *mesh) start(nodes ...int) {
	m.t.Helper()
	for _, i := range nodes {
		e, err := startEmbedded(m.opts[i])
		if err != nil {
			m.t.Fatalf("node %d: %v", i, err)
		}
		m.adopt(i, e)
	}
}

// adopt makes e node i, for tests whose broker starts its server.
func (m *mesh) adopt(i int, e *embedded) { m.nodes[i] = e }

// setLinks sets the links to and from node i.
func (m *mesh) setLinks(i int, state linkState) {
	for j := range m.links {
		if i != j {
			m.links[i][j].set(state)
			m.links[j][i].set(state)
		}
	}
}

// isolate separates node i from the others. With linkCut they notice at once, with
// linkBlackhole after routePing.
func (m *mesh) isolate(i int, state linkState) { m.setLinks(i, state) }

// heal ends an isolation. Routes come back within about a second.
func (m *mesh) heal(i int) { m.setLinks(i, linkOK) }

// kill stops node i without a farewell. Its links are cut first, so the others do not hear it
// hand over its streams. The test must close a broker on it.
func (m *mesh) kill(i int) {
	m.t.Helper()
	m.isolate(i, linkCut)
	m.shutdown(i)
}

// shutdown stops node i in order.
func (m *mesh) shutdown(i int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.nodes[i].stop(ctx); err != nil {
		m.t.Errorf("node %d: %v", i, err)
	}
	m.nodes[i] = nil
}

// restart starts node i again with the same store, name and address, and heals it.
func (m *mesh) restart(i int) {
	m.t.Helper()
	m.heal(i)
	m.start(i)
}

// stop kills all nodes that run.
func (m *mesh) stop() {
	for i, e := range m.nodes {
		if e != nil {
			m.shutdown(i)
		}
	}
}

// awaitRoutes waits until node i is connected to n others.
func (m *mesh) awaitRoutes(i, n int) {
	m.t.Helper()
	waitFor(m.t, fmt.Sprintf("node %d has %d routes", i, n), func() bool { return routesOf(m.nodes[i]) == n })
}

// awaitWhole waits until all nodes that run are connected to each other.
func (m *mesh) awaitWhole() {
	m.t.Helper()
	running := 0
	for _, e := range m.nodes {
		if e != nil {
			running++
		}
	}
	for i, e := range m.nodes {
		if e != nil {
			m.awaitRoutes(i, running-1)
		}
	}
}

func TestMeshForms(t *testing.T) {
	m := newMesh(t)
	m.start(0, 1, 2)
	m.awaitWhole()
}

func TestIsolatedNodeLosesItsRoutesAndGetsThemBack(t *testing.T) {
	t.Parallel() // it mostly waits for pings
	for _, state := range []linkState{linkCut, linkBlackhole} {
		m := newMesh(t)
		m.start(0, 1, 2)
		m.awaitWhole()
		m.isolate(1, state)
		began := time.Now()
		m.awaitRoutes(1, 0)
		m.awaitRoutes(0, 1)
		m.awaitRoutes(2, 1)
		t.Logf("state %v: noticed in %v", state, time.Since(began))
		m.heal(1)
		began = time.Now()
		m.awaitWhole()
		t.Logf("state %v: back in %v", state, time.Since(began))
	}
}

func TestKilledNodeComesBackAsItself(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.start(0, 1, 2)
	m.awaitWhole()
	name, addr := m.nodes[2].store.node, clusterAddr(m.nodes[2])
	m.kill(2)
	m.awaitRoutes(0, 1)
	m.awaitRoutes(1, 1)
	m.restart(2)
	m.awaitWhole()
	if e := m.nodes[2]; e.store.node != name || clusterAddr(e) != addr {
		t.Errorf("was %s at %s, is %s at %s", name, addr, e.store.node, clusterAddr(e))
	}
}

func TestLinkStates(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() { // ends with echo
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the link
				defer c.Close()
				buf := make([]byte, 1)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					c.Write(buf)
				}
			}()
		}
	}()
	l := newLink(t, echo.Addr().String())
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// says reports whether text sent to c comes back within d.
	says := func(c net.Conn, d time.Duration) error {
		c.SetDeadline(time.Now().Add(d))
		buf := []byte{1}
		if _, err := c.Write(buf); err != nil {
			return err
		}
		_, err := c.Read(buf)
		return err
	}
	isTimeout := func(err error) bool {
		e, ok := err.(net.Error)
		return ok && e.Timeout()
	}

	c := dial()
	if err := says(c, patience); err != nil {
		t.Fatalf("OK: %v", err)
	}
	l.set(linkBlackhole)
	if err := says(c, 20*time.Millisecond); !isTimeout(err) {
		t.Errorf("blackhole: %v, want a timeout", err)
	}
	if err := says(dial(), 20*time.Millisecond); !isTimeout(err) {
		t.Errorf("blackhole, new connection: %v, want a timeout", err)
	}
	l.set(linkOK)
	for _, what := range []string{"what was swallowed", "what is said"} {
		if err := says(c, patience); err != nil {
			t.Errorf("OK again: %s: %v", what, err)
		}
	}
	if _, err := c.Read(make([]byte, 1)); err != nil { // three bytes were written and two read
		t.Errorf("OK again: %v", err)
	}
	l.set(linkCut)
	if err := says(c, patience); err == nil || isTimeout(err) {
		t.Errorf("cut: %v, want a closed connection", err)
	}
	if err := says(dial(), patience); err == nil || isTimeout(err) {
		t.Errorf("cut, new connection: %v, want a closed one", err)
	}
	l.set(linkOK)
	if err := says(dial(), patience); err != nil {
		t.Errorf("OK again, new connection: %v", err)
	}
}
