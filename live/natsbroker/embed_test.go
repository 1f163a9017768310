package natsbroker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/internal/livetest"
)

// nobody is an address of this machine on which no process listens.
const nobody = "127.0.0.1:1"

// startNode starts a server that is stopped at the end of the test.
func startNode(t testing.TB, o Options) *embedded {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e, err := startEmbedded(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, e) })
	return e
}

func stopNode(t testing.TB, e *embedded) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := e.stop(ctx); err != nil {
		t.Error(err)
	}
}

// connectTo returns a connection within the process.
func connectTo(t testing.TB, e *embedded) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", e.connectOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// childEnv names the test whose child this process is.
const childEnv = "NATSBROKER_TEST_CHILD"

// isChild reports whether this process is the child of the test.
func isChild(t *testing.T) bool { return os.Getenv(childEnv) == t.Name() }

// child is this test in a process of its own.
type child struct {
	*exec.Cmd
	out *bufio.Reader
	err bytes.Buffer
}

// startChild starts the test's child, and returns when the child is ready. The child is killed
// at the end of the test at the latest.
func startChild(t *testing.T, env ...string) *child {
	t.Helper()
	return startChildOf(t, t.Name(), env...)
}

// startChildOf starts the child of another test.
func startChildOf(t *testing.T, test string, env ...string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.timeout=10m")}
	c.Env = append(append(os.Environ(), childEnv+"="+test,
		"TMPDIR="+t.TempDir()), // a child that is killed leaves its files
		env...)
	c.Stderr = &c.err
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StdinPipe(); err != nil { // open as long as this process runs
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	c.out = bufio.NewReader(out)
	var said strings.Builder
	for {
		line, err := c.out.ReadString('\n')
		if line == "ready\n" {
			return c
		}
		said.WriteString(line)
		if err != nil {
			t.Fatalf("child: %s%s", said.String(), c.err.String())
		}
	}
}

// awaitParent returns when the parent process has ended. In most tests the parent kills this
// process before.
func awaitParent() { io.Copy(io.Discard, os.Stdin) }

func streamsOf(t testing.TB, e *embedded) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(connectTo(t, e))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestSyncAlwaysIsPassedOn(t *testing.T) {
	for _, sync := range []bool{false, true} {
		e := startNode(t, Options{SyncAlways: sync})
		if got := e.srv.JetStreamConfig().SyncAlways; got != sync {
			t.Errorf("SyncAlways %v, want %v", got, sync)
		}
	}
}

func TestLargeMessagesPass(t *testing.T) {
	nc := connectTo(t, startNode(t, Options{}))
	sub, err := nc.SubscribeSync("large")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("large", make([]byte, maxPayload)); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.NextMsg(patience); err != nil || len(m.Data) != maxPayload {
		t.Errorf("%v", err)
	}
	if err := nc.Publish("large", make([]byte, maxPayload+1)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("%v, want ErrMaxPayload", err)
	}
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := func(path ...string) string {
		p := filepath.Join(path...)
		if err := os.WriteFile(p, []byte("x\ny"), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	aFile := file(t.TempDir(), "store")
	badStreams := t.TempDir()
	file(badStreams, "jetstream")
	badName := t.TempDir()
	file(badName, "node")

	for _, test := range []struct {
		name string
		o    Options
		want string
	}{
		{"store is a file", Options{StoreDir: aFile}, "not a directory"},
		{"streams are a file", Options{StoreDir: badStreams}, "Can't start JetStream"},
		{"name in the store", Options{StoreDir: badName}, "cannot be the name of a node"},
		{"name", Options{Name: "a b"}, "cannot be the name of a node"},
		{"port in use", Options{Cluster: &Cluster{NoStore: true, Listen: taken.Addr().String()}}, "address already in use"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir()) // for temporary folders
			test.o.Logger = slog.New(slog.DiscardHandler)
			mustNotStart(t, test.o, test.want)
			if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if test.o.StoreDir == "" || test.o.StoreDir == aFile {
				return
			}
			unlock, err := lockFile(filepath.Join(test.o.StoreDir, "lock"))
			if err != nil {
				t.Fatalf("the store: %v", err)
			}
			unlock.Close()
		})
	}
}

func TestStopReleasesEverything(t *testing.T) {
	for _, test := range []struct {
		name    string
		store   bool
		cluster func() *Cluster
	}{
		{"alone", false, func() *Cluster { return nil }},
		{"with a store", true, func() *Cluster { return nil }},
		{"in a cluster", true, func() *Cluster { return &Cluster{Listen: livetest.FreeAddress(t), Routes: []string{nobody}} }},
		{"without streams", false, func() *Cluster { return &Cluster{Listen: livetest.FreeAddress(t), NoStore: true} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			use := func() {
				o := Options{Cluster: test.cluster()}
				if test.store {
					o.StoreDir = t.TempDir()
				}
				began := time.Now()
				e := startNode(t, o)
				started := time.Since(began)
				nc := connectTo(t, e)
				if err := nc.Flush(); err != nil {
					t.Fatal(err)
				}
				nc.Close() // otherwise it would reconnect without end
				addr := clusterAddr(e)
				began = time.Now()
				stopNode(t, e)
				t.Logf("up in %v, down in %v", started, time.Since(began))
				if addr != "" {
					l, err := net.Listen("tcp", addr)
					if err != nil {
						t.Fatal(err)
					}
					l.Close()
				}
				stopNode(t, e) // again
			}
			use() // this makes what a process makes only once
			settled := runtime.NumGoroutine()
			for quiet := 0; quiet < 20; quiet++ {
				time.Sleep(5 * time.Millisecond)
				if n := runtime.NumGoroutine(); n < settled {
					settled, quiet = n, 0
				}
			}
			for range 3 {
				use()
			}
			waitFor(t, fmt.Sprintf("%d goroutines as before", settled), func() bool { return runtime.NumGoroutine() <= settled })
		})
	}
}

func TestStopDoesNotWaitLongerThanItMay(t *testing.T) {
	dir := t.TempDir()
	e := startNode(t, Options{StoreDir: dir})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.stop(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stopNode(t, e) // waits for the same shutdown
	startNode(t, Options{StoreDir: dir})
}
