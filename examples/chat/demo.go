package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// restartAfter leaves time to see that the others go on.
const restartAfter = 10 * time.Second

// node is one process of the demo cluster.
type node struct {
	program string
	args    []string
	log     string // the file where its standard error goes
}

// nodeEvent is what becomes of a node: it serves, or it has ended.
type nodeEvent struct {
	node *node
	url  string // where it serves
	pid  int
	err  error // why it has ended; nil: it serves
}

// runDemo runs three instances of this program that form a cluster until ctx ends. They
// end when this process does, however that ends: their standard input is a pipe from
// it.
func runDemo(ctx context.Context, c config, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	routes, release, err := freeAddrs(minNodes)
	if err != nil {
		return err
	}
	defer release()
	nodes, err := c.demoNodes(routes)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	balancer := newBalancer()
	web := &http.Server{Handler: balancer.handler(), ReadHeaderTimeout: headerTimeout}
	defer web.Close() // when the nodes have told their pages, and have ended
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	fmt.Fprintln(out, "Starting three chats. They elect a leader, which takes them up to ten seconds …")
	events := make(chan nodeEvent)
	for _, n := range nodes {
		running.Go(func() { n.keepRunning(ctx, events) }) // ends with ctx
	}
	serving := make(map[*node]nodeEvent) // the last of each
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			begun := len(serving) == len(nodes)
			switch {
			case e.err != nil && !begun:
				return fmt.Errorf("a node of the cluster does not start: %w; %s says why", e.err, e.node.log)
			case e.err != nil:
				fmt.Fprintf(out, "%s has ended (%v); it starts again in %v.\n", serving[e.node].url, e.err, restartAfter)
				continue
			case begun:
				fmt.Fprintf(out, "%s is back, process %d.\n", e.url, e.pid)
			}
			serving[e.node] = e
			balancer.use(e.node, strings.TrimPrefix(e.url, "http://"))
			if !begun && len(serving) == len(nodes) {
				go web.Serve(listener) // ends with web.Close
				c.greetDemo(out, listener.Addr(), nodes, serving)
			}
		}
	}
}

// demoNodes returns the nodes of the demo cluster, which reach each other at the routes.
func (c *config) demoNodes(routes []string) ([]*node, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(c.addr)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.store, 0o700); err != nil {
		return nil, err
	}
	var nodes []*node
	for i, route := range routes {
		store := filepath.Join(c.store, strconv.Itoa(i+1))
		os.Remove(store + ".log") // of last time
		nodes = append(nodes, &node{program: program, log: store + ".log", args: []string{
			"-until-eof",
			"-addr", net.JoinHostPort(host, "0"),
			"-cluster", route,
			"-routes", strings.Join(routes, ","),
			"-store", store,
			"-builds=" + strconv.FormatBool(i == 0),
		}})
	}
	return nodes, nil
}

// freeAddrs returns addresses of this machine on which nobody listens. They must still be free when
// a node starts again. So their ports are lower than those that systems give connections. The UDP
// ports of the same numbers are held until release is called: another demo then takes other ports.
func freeAddrs(n int) (addrs []string, release func(), err error) {
	var held []net.PacketConn
	release = func() {
		for _, h := range held {
			h.Close()
		}
	}
	for range 100 * n {
		addr := fmt.Sprint("127.0.0.1:", 20_000+rand.IntN(10_000))
		h, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		held = append(held, h)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			addrs = append(addrs, addr)
		}
		if len(addrs) == n {
			return addrs, release, nil
		}
	}
	release()
	return nil, nil, errors.New("no ports are free for the cluster")
}

// keepRunning runs the node, and again when it has ended.
func (n *node) keepRunning(ctx context.Context, events chan<- nodeEvent) {
	tell := func(e nodeEvent) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	}
	for {
		err := n.run(ctx, func(url string, pid int) { tell(nodeEvent{node: n, url: url, pid: pid}) })
		tell(nodeEvent{node: n, err: err})
		if !sleep(ctx, restartAfter) {
			return
		}
	}
}

// run runs the node once, and says when it serves.
func (n *node) run(ctx context.Context, serves func(url string, pid int)) error {
	log, err := os.OpenFile(n.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, n.program, n.args...)
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Cancel = stdin.Close
	cmd.WaitDelay = 2 * shutdownTimeout // then it is killed
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "Chat: "); ok {
			serves(url, cmd.Process.Pid)
		}
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	return errors.New("exit status 0")
}

func (c *config) greetDemo(out io.Writer, addr net.Addr, nodes []*node, serving map[*node]nodeEvent) {
	fmt.Fprintf(out, `
Cluster: http://localhost:%d

Behind this address are three chats that share their rooms:

`, addr.(*net.TCPAddr).Port)
	for _, n := range nodes {
		fmt.Fprintf(out, "  %s  process %d\n", serving[n].url, serving[n].pid)
	}
	last := nodes[len(nodes)-1]
	fmt.Fprintf(out, `
Open it twice, in a private window to be someone else, and talk. The inspector of
each chat, at %s below its address, shows what all three do. Then end one
as a crash does:

  kill -9 %d

Its pages go on at another one, whose process they show below "Connection". In
%v it is back with all that was said meanwhile.

%s Logs are there too.
Ctrl-C ends all three.
`, inspectPath, serving[last].pid, restartAfter, c.memory())
}
