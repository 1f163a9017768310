package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// config is what the command line says.
type config struct {
	addr    string
	store   string   // "": history is in memory, or with nats
	nats    string   // a NATS that runs elsewhere
	cluster string   // where this node listens for others; "": it is alone
	routes  []string // of all nodes
	builds  bool

	demoCluster bool
	untilEOF    bool // of the demo cluster's nodes: they end when their standard input does
}

// minNodes is of a cluster: a stream is on three, so that two go on without the third.
const minNodes = 3

// parse reads the command line. What is wrong with single flags it has said on out when
// it returns the error; that is flag.ErrHelp if only help was asked for.
func parse(args []string, out io.Writer) (config, error) {
	var c config
	var routes string
	flags := flag.NewFlagSet("chat", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&c.addr, "addr", "localhost:8080", "`address` to listen on")
	flags.StringVar(&c.store, "store", "", "`folder` that keeps what was said; \"\" keeps it in memory (default one in the cache of the user)")
	flags.StringVar(&c.nats, "nats", "", "`URL` of a NATS that runs elsewhere, as nats://10.0.0.1:4222: all chats on it share their rooms")
	flags.StringVar(&c.cluster, "cluster", "", "`address` where other nodes of a cluster reach this one, as 127.0.0.1:6222")
	flags.StringVar(&routes, "routes", "", "those `addresses` of all nodes, with commas between them")
	flags.BoolVar(&c.builds, "builds", true, "run the background job; in a cluster one node should")
	flags.BoolVar(&c.demoCluster, "demo-cluster", false, "run three chats that form a cluster, behind -addr")
	flags.BoolVar(&c.untilEOF, "until-eof", false, "end when standard input does, not with Ctrl-C")
	if err := flags.Parse(args); err != nil {
		return c, errUsage{err}
	}
	if routes != "" {
		c.routes = strings.Split(routes, ",")
	}
	set := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if flags.NArg() > 0 {
		return c, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	if err := c.check(set); err != nil {
		return c, err
	}
	if !set["store"] && c.nats == "" {
		return c, c.chooseStore()
	}
	return c, nil
}

// errUsage marks errors that package flag has printed.
type errUsage struct{ error }

func (e errUsage) Unwrap() error { return e.error }

// check refuses what makes no sense together.
func (c *config) check(set map[string]bool) error {
	inMemory := set["store"] && c.store == ""
	switch {
	case c.demoCluster && (c.nats != "" || c.cluster != "" || set["routes"] || set["builds"]):
		return errors.New("-demo-cluster chooses -cluster, -routes and -builds for its nodes, and has no use for -nats")
	case c.demoCluster && inMemory:
		return errors.New("-demo-cluster needs a -store: a node that forgets is another node after each start")
	case c.nats != "" && c.cluster != "":
		return errors.New("-nats and -cluster exclude each other: NATS is elsewhere with the one, in this program with the other")
	case c.nats != "" && set["store"]:
		return errors.New("-store is for the NATS in this program: with -nats, history is kept there")
	case c.cluster == "" && set["routes"]:
		return errors.New("-routes lists the nodes of a cluster, and there is no -cluster")
	case c.cluster != "" && inMemory:
		return errors.New("-cluster needs a -store: a node that forgets is another node after each start")
	case c.cluster != "":
		return c.checkCluster()
	}
	return nil
}

func (c *config) checkCluster() error {
	host, _, err := net.SplitHostPort(c.cluster)
	if err != nil {
		return fmt.Errorf("-cluster: %q is no host and port as in 127.0.0.1:6222", c.cluster)
	}
	if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() {
		return fmt.Errorf("-cluster: other machines reach %s, and the nodes of this demo know no password: "+
			"cluster on 127.0.0.1, or run NATS on its own and use -nats", c.cluster)
	}
	nodes := slices.Sorted(slices.Values(c.routes))
	nodes = slices.Compact(nodes)
	switch {
	case len(nodes) < minNodes:
		return fmt.Errorf("-cluster needs three nodes or more, and -routes lists %d: history is kept on three, so that two go on without the third", len(nodes))
	case !slices.Contains(nodes, c.cluster):
		return fmt.Errorf("-routes lists all nodes, also this one, and %s is not among them", c.cluster)
	}
	return nil
}

// chooseStore finds the folder where history is kept if nobody says where.
func (c *config) chooseStore() error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf(`no folder to keep history in: %w; name one with -store, or -store "" to keep it in memory`, err)
	}
	name := "alone"
	switch {
	case c.demoCluster:
		name = "demo-cluster"
	case c.cluster != "": // several on one machine, each with its own
		name = "node-" + strings.ReplaceAll(c.cluster, ":", "-")
	}
	c.store = filepath.Join(cache, "livetopic-chat", name)
	return nil
}
