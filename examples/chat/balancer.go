package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// balancer is the one address of the demo cluster, in the place of nginx or HAProxy. It gives each
// connection to the node that has the fewest. A node that does not answer, or shuts down, is left out.
type balancer struct {
	transport *http.Transport

	mu    sync.Mutex
	addrs map[*node]string // of nodes that serve
	open  map[*node]int    // connections to each
}

// anyNode is the host of requests for which dial chooses the node.
const anyNode = "node"

// answerTimeout is how long a node may take to answer. It is shorter than the ten seconds for which
// live.js waits, so that a client whose node hangs gets to another node with the same handshake.
const answerTimeout = 4 * time.Second

func newBalancer() *balancer {
	b := &balancer{addrs: make(map[*node]string), open: make(map[*node]int)}
	b.transport = &http.Transport{DialContext: b.dial, MaxIdleConnsPerHost: -1, ResponseHeaderTimeout: answerTimeout}
	return b
}

// use says where a node serves. After each start it is another address.
func (b *balancer) use(n *node, addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addrs[n] = addr
}

// handler passes requests to the nodes, also those that become WebSocket connections.
func (b *balancer) handler() http.Handler {
	target := &url.URL{Scheme: "http", Host: anyNode}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // a node compares it with the page's origin
			r.SetXForwarded()      // else a node would take everybody for a person at this machine: see inspector.Loopback
		},
		Transport: b,
	}
}

// RoundTrip passes a request to a node. A handshake goes on to the next node if one does not answer, or
// says 503, as a node does that shuts down. That node has the fewest connections, so it would otherwise
// get every new client. Other requests are not repeated.
func (b *balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Upgrade") == "" {
		return b.transport.RoundTrip(r)
	}
	var refusal *http.Response
	errs := []error{errors.New("no node takes the handshake")}
	for _, c := range b.choices() {
		out := r.Clone(r.Context())
		out.URL.Host = c.addr
		answer, err := b.transport.RoundTrip(out)
		switch {
		case err != nil:
			errs = append(errs, err)
		case answer.StatusCode != http.StatusServiceUnavailable:
			closeBody(refusal)
			return answer, nil
		default:
			closeBody(refusal)
			refusal = answer
		}
	}
	if refusal != nil {
		return refusal, nil
	}
	return nil, errors.Join(errs...)
}

// closeBody ends an answer that is not passed on. nil is no answer.
func closeBody(answer *http.Response) {
	if answer != nil {
		answer.Body.Close()
	}
}

// dial connects to the node at addr, or to any. If the first choice refuses, as a node does that was
// killed, it tries the next.
func (b *balancer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: time.Second}
	var errs []error
	for _, c := range b.choices() {
		if addr != anyNode+":80" && addr != c.addr {
			continue
		}
		conn, err := dialer.DialContext(ctx, network, c.addr)
		if err == nil {
			b.count(c.node, 1)
			return &counted{Conn: conn, closed: sync.OnceFunc(func() { b.count(c.node, -1) })}, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// choice is a node to which a connection may go.
type choice struct {
	node *node
	addr string
	open int
}

// choices returns the nodes, those with the fewest connections first.
func (b *balancer) choices() []choice {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []choice
	for n, addr := range b.addrs {
		all = append(all, choice{n, addr, b.open[n]})
	}
	slices.SortFunc(all, func(x, y choice) int { return cmp.Or(x.open-y.open, strings.Compare(x.addr, y.addr)) })
	return all
}

func (b *balancer) count(n *node, change int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[n] += change
}

// counted is a connection to a node. It counts in balancer.open until it is closed.
type counted struct {
	net.Conn
	closed func()
}

func (c *counted) Close() error {
	c.closed()
	return c.Conn.Close()
}
