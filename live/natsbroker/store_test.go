package natsbroker

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestStoreKeepsStreamsAndName(t *testing.T) {
	t.Chdir(t.TempDir())
	o := Options{StoreDir: "store"} // a relative path
	e := startNode(t, o)
	if !filepath.IsAbs(e.store.dir) || e.srv.Name() != e.store.node {
		t.Errorf("folder %q, server %q, node %q", e.store.dir, e.srv.Name(), e.store.node)
	}
	node := e.store.node
	js := streamsOf(t, e)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s.a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	stopNode(t, e)

	e = startNode(t, o)
	if e.store.node != node {
		t.Errorf("node %q was %q before", e.store.node, node)
	}
	s, err := streamsOf(t, e).Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.GetLastMsgForSubject(t.Context(), "s.a"); err != nil || string(m.Data) != "1" {
		t.Errorf("%v, %v", m, err)
	}
}

func TestWithoutStoreDirNothingIsLeft(t *testing.T) {
	e := startNode(t, Options{})
	dir := e.store.dir
	if _, err := streamsOf(t, e).CreateStream(t.Context(), jetstream.StreamConfig{Name: "S"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	stopNode(t, e)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestStoreHasOneServer(t *testing.T) {
	dir := t.TempDir()
	e := startNode(t, Options{StoreDir: dir})
	mustBeInUse(t, dir)
	stopNode(t, e)
	stopNode(t, startNode(t, Options{StoreDir: dir}))
}

func TestStoreHasOneProcess(t *testing.T) {
	const env = "NATSBROKER_TEST_STORE"
	if isChild(t) {
		startNode(t, Options{StoreDir: os.Getenv(env)})
		fmt.Println("ready")
		awaitParent()
		return
	}
	dir := t.TempDir()
	c := startChild(t, env+"="+dir)
	mustBeInUse(t, dir)
	if err := c.Process.Kill(); err != nil { // like kill -9
		t.Fatal(err)
	}
	c.Wait()
	startNode(t, Options{StoreDir: dir})
}

// mustBeInUse fails the test unless a server on the store is refused because the store is in
// use.
func mustBeInUse(t *testing.T, dir string) {
	t.Helper()
	mustNotStart(t, Options{StoreDir: dir, Logger: slog.New(slog.DiscardHandler)},
		fmt.Sprintf("natsbroker: store %q is in use by another process", dir))
}

func TestNodeName(t *testing.T) {
	dir := t.TempDir()
	name := func(o Options) string {
		t.Helper()
		o.StoreDir = dir
		e := startNode(t, o)
		defer stopNode(t, e)
		return e.store.node
	}
	random := name(Options{})
	if len(random) != nodeNameLength {
		t.Errorf("random name %q", random)
	}
	if got := name(Options{}); got != random {
		t.Errorf("%q, want %q as before", got, random)
	}
	if got := name(Options{Name: "one"}); got != "one" {
		t.Errorf("%q, want the name that was asked for", got)
	}
	if got := name(Options{}); got != "one" {
		t.Errorf("%q, want the name that was last asked for", got)
	}
	if a, b := startNode(t, Options{}), startNode(t, Options{}); a.store.node == b.store.node {
		t.Errorf("two random names are %q", a.store.node)
	}

	// To a cluster it would be another node.
	o := Options{StoreDir: dir, Name: "two", Cluster: &Cluster{Listen: "127.0.0.1:0", Routes: []string{nobody}}, Logger: slog.New(slog.DiscardHandler)}
	mustNotStart(t, o, `belongs to node "one", not to "two"`)
	o.Name = "one"
	startNode(t, o)
}

// A store may not change between a server that is alone and a cluster, since it would lose its
// streams. A cluster deletes the streams that it does not know, and a server that is alone does
// not load the streams of a cluster.
func TestStoreStaysWithOrWithoutACluster(t *testing.T) {
	alone := Options{StoreDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	clustered := alone
	clustered.Cluster = &Cluster{Listen: "127.0.0.1:0", Routes: []string{nobody}}
	web := alone
	web.Cluster = &Cluster{Listen: "127.0.0.1:0", NoStore: true}

	// A store without streams has nothing to lose.
	for _, o := range []Options{alone, clustered, alone, web} {
		stopNode(t, startNode(t, o))
	}

	e := startNode(t, alone)
	if _, err := streamsOf(t, e).CreateStream(t.Context(), jetstream.StreamConfig{Name: "S"}); err != nil {
		t.Fatal(err)
	}
	stopNode(t, e)
	mustNotStart(t, clustered, `streams of a server that is alone, which would be lost in the cluster "livetopic"`)
	stopNode(t, startNode(t, alone))
	stopNode(t, startNode(t, web))

	m := newMesh(t)
	m.start(0, 1, 2)
	m.awaitWhole()
	replicate(t, streamsOf(t, m.nodes[0]))
	m.shutdown(0)
	alone = m.options(0)
	alone.Cluster = nil
	mustNotStart(t, alone, `streams of the cluster "livetopic", which would be lost in a server that is alone`)
	other, c := m.options(0), *m.options(0).Cluster
	c.Name = "other"
	other.Cluster = &c
	mustNotStart(t, other, `which would be lost in the cluster "other"`)
	m.start(0)
}
