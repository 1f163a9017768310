package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	nodes, err := c.demoNodes()
	if err != nil {
		return err
	}
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
			if !begun && len(serving) == len(nodes) {
				c.greetDemo(out, nodes, serving)
			}
		}
	}
}

// demoNodes returns the nodes of the demo cluster, with ports that are free.
func (c *config) demoNodes() ([]*node, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	host, first, err := net.SplitHostPort(c.addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(first)
	if err != nil {
		return nil, fmt.Errorf("-addr: port %q is no number", first)
	}
	routes, err := freeAddrs(minNodes)
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
			"-addr", net.JoinHostPort(host, strconv.Itoa(port)),
			"-cluster", route,
			"-routes", strings.Join(routes, ","),
			"-store", store,
			"-builds=" + strconv.FormatBool(i == 0),
		}})
		if port != 0 { // 0: any that is free, for each
			port++
		}
	}
	return nodes, nil
}

// freeAddrs returns addresses of this machine on which nobody listens.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // at the end, so that all differ
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
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

func (c *config) greetDemo(out io.Writer, nodes []*node, serving map[*node]nodeEvent) {
	fmt.Fprint(out, "\nThree chats that share their rooms:\n\n")
	for _, n := range nodes {
		fmt.Fprintf(out, "  %s  process %d\n", serving[n].url, serving[n].pid)
	}
	last := nodes[len(nodes)-1]
	fmt.Fprintf(out, `
Open two of them, one in a private window to be someone else, and talk. The inspector of
each, at %s, shows what all three do. Then end one as a crash does:

  kill -9 %d

The others go on, and in %v it is back with all that was said meanwhile.

%s Logs are there too.
Ctrl-C ends all three.
`, inspectPath, serving[last].pid, restartAfter, c.memory())
}
