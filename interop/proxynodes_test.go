//go:build linux

package interop

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// These tests run three nodes behind the configurations of docs/proxies.md, and take nodes away.

func TestSeveralNodesBehindAProxy(t *testing.T) {
	t.Parallel()
	for _, kind := range proxyKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			one, other := livetest.NewServer(t, livetest.Permissive()), livetest.NewServer(t, livetest.Permissive())
			p := newProxy(t, kind)
			config := p.several(serveNode(t, "other", map[string]http.Handler{"/live": other.Handler()}))
			p.start(replaced(t, config, pageNode, serveNode(t, "one", map[string]http.Handler{"/live": one.Handler()})))
			for range 50 {
				if p.dial(); one.Stats().Sessions > 0 && other.Stats().Sessions > 0 {
					return
				}
			}
			t.Errorf("of 50 sessions %d are at one node, %d at the other", one.Stats().Sessions, other.Stats().Sessions)
		})
	}
}

// node is a server that can shut down, go away, hang, and come back at the same address.
type node struct {
	t       testing.TB
	address string
	live    *live.Server
	web     *http.Server
	cut     context.CancelFunc // ends the sessions of a node that drains
	hangs   atomic.Bool        // requests get no answer
	checks  atomic.Int64       // answers of its ReadyHandler
	posts   atomic.Int64       // to its path /post, which answers with 503
}

// startNodes returns three nodes that run.
func startNodes(t testing.TB) []*node {
	var nodes []*node
	for _, address := range livetest.FreeAddresses(t, 3) {
		n := &node{t: t, address: address}
		t.Cleanup(n.stop)
		n.start()
		nodes = append(nodes, n)
	}
	return nodes
}

func (n *node) start() {
	n.t.Helper()
	listener, err := net.Listen("tcp", n.address)
	if err != nil {
		n.t.Fatal(err)
	}
	opts := livetest.Permissive()
	opts.ShutdownDelay = time.Hour // until stop
	opts.PingInterval = pingEvery
	n.live = live.New(opts)
	mux := http.NewServeMux()
	mux.Handle("/live", n.live.Handler())
	ready := n.live.ReadyHandler()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		ready.ServeHTTP(w, r)
		n.checks.Add(1)
	})
	mux.HandleFunc("POST /post", func(w http.ResponseWriter, _ *http.Request) {
		n.posts.Add(1)
		http.Error(w, "not now", http.StatusServiceUnavailable)
	})
	mux.HandleFunc("/node", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, n.address) })
	n.web = &http.Server{ReadHeaderTimeout: livetest.Patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.hangs.Load() {
			<-r.Context().Done() // until the proxy gives up
			return
		}
		mux.ServeHTTP(w, r)
	})}
	go n.web.Serve(listener) // ends with stop
}

// drain begins the shutdown: the node keeps its sessions, refuses new ones, and is not ready.
func (n *node) drain() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n.cut = cancel
	go n.live.Shutdown(ctx) // ends with stop
	livetest.Eventually(n.t, "a node to drain", func() bool { return n.live.Ready(ctx) != nil })
}

// stop ends the node at once: its address refuses connections.
func (n *node) stop() {
	if n.web == nil {
		return
	}
	n.web.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.live.Shutdown(ctx) // its error says that sessions were cut
	if n.cut != nil {
		n.cut()
	}
	n.web, n.cut = nil, nil
}

// before starts a proxy with the page's configuration for these nodes.
func before(t testing.TB, kind proxyKind, nodes []*node) *proxy {
	t.Helper()
	p := newProxy(t, kind)
	p.start(replaced(t, p.several(nodes[1].address, nodes[2].address), pageNode, nodes[0].address))
	return p
}

// behindEach runs a test once for each of these proxies, with three nodes of its own behind it.
func behindEach(t *testing.T, kinds []proxyKind, test func(t *testing.T, p *proxy, nodes []*node)) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			nodes := startNodes(t)
			test(t, before(t, kind, nodes), nodes)
		})
	}
}

// asksNext says that the proxy has another node answer a handshake to which a node says 503.
func (k proxyKind) asksNext() bool { return k.name == "nginx" || k.name == "HAProxy" }

// While one node restarts after another, every client finds one that runs, and a node that is back
// gets clients again.
func TestNodesThatRestartOneAfterAnother(t *testing.T) {
	t.Parallel()
	behindEach(t, proxyKinds, func(t *testing.T, p *proxy, nodes []*node) {
		for _, n := range nodes {
			n.drain()
			p.leavesOut(n)
			n.stop()
			for range 6 {
				p.dial()
			}
			n.start()
			livetest.Eventually(t, "clients at a node that is back", func() bool {
				c := p.dial()
				if n.live.Stats().Sessions > 0 {
					return true
				}
				c.Drop()
				return false
			})
		}
	})
}

// leavesOut waits until clients that a node refuses get to another one.
func (p *proxy) leavesOut(n *node) {
	p.t.Helper()
	if p.kind.asksNext() {
		livetest.Eventually(p.t, "a handshake that the node refuses", func() bool {
			p.dial() // and stay, so that the node has the fewest connections at last
			return n.live.Stats().RefusedFor.Draining > 0
		})
		return
	}
	livetest.Eventually(p.t, "handshakes that succeed one after another", func() bool {
		for range 6 { // they stay, so that each node has the fewest connections once
			c, err := p.tryDial()
			if err != nil {
				return false
			}
			defer c.Drop()
		}
		return true
	})
}

// Handshakes are repeated at another node. What the application does in a POST is done once.
func TestProxyDoesNotRepeatAPost(t *testing.T) {
	t.Parallel()
	behindEach(t, proxyKinds, func(t *testing.T, p *proxy, nodes []*node) {
		resp, err := p.client(livetest.Patience).Post(p.HTTP()+"/post", "text/plain", strings.NewReader("once"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		posts := nodes[0].posts.Load() + nodes[1].posts.Load() + nodes[2].posts.Load()
		if resp.StatusCode != http.StatusServiceUnavailable || posts != 1 {
			t.Errorf("the POST reached %d nodes and got %d, want one node and its 503", posts, resp.StatusCode)
		}
	})
}

// When all nodes have been away, none stays marked as down.
func TestNodesThatAreAllAwayForAWhile(t *testing.T) {
	t.Parallel()
	behindEach(t, proxyKinds, func(t *testing.T, p *proxy, nodes []*node) {
		for _, n := range nodes {
			n.stop()
		}
		if status, _ := p.get("/node"); status != http.StatusBadGateway && status != http.StatusServiceUnavailable {
			t.Errorf("without a node the proxy answers %d", status)
		}
		for _, n := range nodes {
			n.start()
		}
		livetest.Eventually(t, "clients at every node", func() bool {
			if _, err := p.tryDial(); err != nil {
				return false
			}
			for _, n := range nodes {
				if n.live.Stats().Sessions == 0 {
					return false
				}
			}
			return true
		})
	})
}

// A proxy that checks nodes leaves a node that shuts down its clients: the node closes them in its own time.
func TestNodeThatDrainsKeepsItsClients(t *testing.T) {
	t.Parallel()
	// nginx and Apache do not check nodes
	behindEach(t, proxyKinds[2:], func(t *testing.T, p *proxy, nodes []*node) {
		c := p.clientWhereFewAre(nodes)
		nodes[0].drain()
		seen := nodes[0].checks.Load() + 5 // more than it takes to mark a node as down
		livetest.Eventually(t, "checks of a node that drains", func() bool { return nodes[0].checks.Load() >= seen })
		if err := c.Ping("still there"); err != nil {
			t.Error(err)
		}
	})
}

// A node that accepts connections and answers nothing gets no further clients. HAProxy also ends the
// connections that it has.
func TestNodeThatHangs(t *testing.T) {
	t.Parallel()
	// nginx and Apache do not check nodes
	behindEach(t, proxyKinds[2:], func(t *testing.T, p *proxy, nodes []*node) {
		hanging := p.clientWhereFewAre(nodes)
		nodes[0].hangs.Store(true)
		if p.kind.name == "HAProxy" {
			p.endsAs(hanging, "1006")
		}
		livetest.Eventually(t, "answers one after another", func() bool {
			for range 6 {
				if !p.answersWithin(time.Second) {
					return false
				}
			}
			return true
		})
		for range 6 {
			p.dial()
		}
	})
}

// nginx does not notice a node that hangs, and does not send every client to it either.
func TestNginxGivesSomeClientsToOtherNodesThanOneThatHangs(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t)
	p := before(t, proxyKinds[0], nodes)
	p.clientWhereFewAre(nodes)
	nodes[0].hangs.Store(true)
	livetest.Eventually(t, "an answer: one request in three gets it", func() bool { return p.answersWithin(livetest.Patience / 40) })
}

// clientWhereFewAre returns the only client of the first node. The other nodes have three each, so that
// a proxy which counts connections prefers the first.
func (p *proxy) clientWhereFewAre(nodes []*node) *livetest.Client {
	p.t.Helper()
	var at []*livetest.Client
	for range 3 * len(nodes) {
		before := nodes[0].live.Stats().Sessions
		if c := p.dial(); nodes[0].live.Stats().Sessions > before {
			at = append(at, c)
		}
	}
	if len(at) == 0 {
		p.t.Fatal("the first node has no client")
	}
	for _, c := range at[1:] {
		c.Drop()
	}
	livetest.Eventually(p.t, "one client at the first node", func() bool { return nodes[0].live.Stats().Sessions == 1 })
	return at[0]
}

// answersWithin says whether a node answers a request in this time.
func (p *proxy) answersWithin(bound time.Duration) bool {
	p.t.Helper()
	resp, err := p.client(bound).Get(p.HTTP() + "/node")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// With a bound for old processes, a client that stays ends with 1006, and comes back to the new process.
func TestBoundOfAnOldProcessAfterAReload(t *testing.T) {
	t.Parallel()
	for kind, bound := range map[int]string{0: "worker_shutdown_timeout 1s;\n", 2: "global\n\thard-stop-after 1s\n"} {
		kind := proxyKinds[kind]
		files := kind.files
		kind.files = func(p *proxy, config string) map[string]string {
			all := files(p, config)
			for _, main := range []string{"main.conf", "haproxy.cfg"} {
				if text, ok := all[main]; ok {
					all[main] = bound + text
				}
			}
			return all
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			server := livetest.NewServer(t, livetest.Permissive())
			handlers := map[string]http.Handler{"/live": server.Handler()}
			one, other := serveNode(t, "one", handlers), serveNode(t, "other", handlers)
			p := newProxy(t, kind)
			p.start(p.config(one))
			c := p.dial()
			p.reload(p.config(other), func() bool { _, body := p.get("/node"); return body == "other" })
			p.endsAs(c, "1006")
			p.dial()
		})
	}
}
