package natsbroker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// maxPayload is of a message between nodes: twice the four megabytes that a client may
// send at once by default, and as much as NATS takes without a warning.
const maxPayload = 8 << 20

// readyTimeout is how long the server may take to listen once it has read its store,
// before starting it is given up. It takes milliseconds; this is for machines that are
// all but standing still.
const readyTimeout = 10 * time.Second

// nodeNameLength is that of a random node name: 60 bits, of which a million nodes can
// choose without two choosing alike.
const nodeNameLength = 12

var errLocked = errors.New("locked")

// embedded is a NATS server in this process. The mender may replace it by another on the
// same store.
type embedded struct {
	setup   Options
	store   *store
	token   string        // that clients give; "": there is no port, and no need
	port    int           // for other nodes; 0: none yet
	trouble chan struct{} // holds one when the store is to be looked at

	restarting atomic.Bool            // the server is being replaced
	failed     atomic.Pointer[string] // what the server has said of a write that failed; nil: none has

	mu  sync.RWMutex // guards srv once the mender runs
	srv *server.Server

	stopping sync.Once
	stopped  chan struct{} // closed when the server is down and its store released
	stopErr  error         // set before
}

// startEmbedded starts a server and returns when it accepts connections. It waits for
// no other node: whether there is a majority for streams is for others to find out.
func startEmbedded(o Options) (*embedded, error) {
	if o.Cluster != nil {
		if err := o.Cluster.check(o.StoreDir); err != nil {
			return nil, err
		}
	}
	st, err := openStore(o)
	if err != nil {
		return nil, err
	}
	e := &embedded{setup: o, store: st, trouble: make(chan struct{}, 1), stopped: make(chan struct{})}
	if err := e.launch(); err != nil {
		if e.srv == nil {
			st.close()
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
		defer cancel()
		return nil, errors.Join(err, e.stop(ctx))
	}
	return e, nil
}

// launch starts a server on the store, in the place of one that has been shut down.
func (e *embedded) launch() error {
	so := e.serverOptions(e.setup)
	if e.port != 0 {
		so.Cluster.Port = e.port // where others look for it
	}
	srv, err := server.NewServer(so)
	if err != nil {
		return fmt.Errorf("natsbroker: embedded server: %w", err)
	}
	log := newServerLogger(e.setup.Logger, e.store.node)
	log.trouble, log.restarting = e.noticed, &e.restarting
	srv.SetLoggerV2(log, log.enabled(slog.LevelDebug), log.enabled(levelTrace), false)
	e.mu.Lock()
	e.srv = srv
	e.mu.Unlock()
	srv.Start()
	if err := awaitReady(srv, log.fatal); err != nil {
		return fmt.Errorf("natsbroker: embedded server: %w", err)
	}
	if a := srv.ClusterAddr(); a != nil {
		e.port = a.Port
	}
	return nil
}

// running returns the server of now.
func (e *embedded) running() *server.Server {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.srv
}

func (e *embedded) serverOptions(o Options) *server.Options {
	so := &server.Options{
		ServerName:   e.store.node,
		DontListen:   true,
		NoSigs:       true, // its handlers would end the process
		NoLog:        true, // until it is given a logger
		TraceHeaders: true, // and no payloads
		MaxPayload:   maxPayload,

		// What streams may take together is left to the server: three quarters of the
		// memory, or of GOMEMLIMIT if that is less, and of what is free on the disk. A
		// stream that is promised more is refused when it is made, not when it is full.
		JetStream:              o.Cluster == nil || !o.Cluster.NoStore,
		StoreDir:               e.store.dir,
		SyncAlways:             o.SyncAlways,
		DisableJetStreamBanner: true,
	}
	if o.Cluster != nil {
		if e.token == "" {
			e.token = rand.Text()
		}
		o.Cluster.apply(so, e.token)
	}
	return so
}

// awaitReady waits until the server accepts connections, or has said why it will not.
func awaitReady(srv *server.Server, fatal <-chan error) error {
	deadline := time.Now().Add(readyTimeout)
	for {
		// Asked for more than 25 ms it would look every 25 ms only.
		ready := srv.ReadyForConnections(time.Millisecond)
		select {
		case err := <-fatal:
			return err
		default:
		}
		if ready {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready within %v", readyTimeout)
		}
		time.Sleep(time.Millisecond)
	}
}

// noticed is called with what the server says is wrong.
func (e *embedded) noticed(text string) {
	if strings.Contains(strings.ToLower(text), "critical write error") {
		e.failed.Store(&text)
	}
	e.poke()
}

// poke has the store looked at.
func (e *embedded) poke() {
	select {
	case e.trouble <- struct{}{}:
	default:
	}
}

// InProcessConn implements nats.InProcessConnProvider: a connection finds the server of now
// when it reconnects.
func (e *embedded) InProcessConn() (net.Conn, error) { return e.running().InProcessConn() }

// connectOptions are those of a connection within the process.
func (e *embedded) connectOptions() []nats.Option {
	o := []nats.Option{nats.InProcessServer(e)}
	if e.token != "" {
		o = append(o, nats.Token(e.token))
	}
	return o
}

// stop shuts the server down and releases its store. When ctx ends before that, it
// returns an error and the shutting down goes on: a store that is still written to is
// never released. It may be called again.
func (e *embedded) stop(ctx context.Context) error {
	e.stopping.Do(func() {
		go func() { // ends with the server
			defer close(e.stopped)
			srv := e.running()
			srv.Shutdown()
			srv.WaitForShutdown()
			e.stopErr = e.store.close()
		}()
	})
	select {
	case <-e.stopped:
		return e.stopErr
	case <-ctx.Done():
		return fmt.Errorf("natsbroker: embedded server is still shutting down: %w", ctx.Err())
	}
}

// routeIDs are the numbers of the lines to other nodes, in order. One that is made anew
// has another number.
func (e *embedded) routeIDs() []uint64 {
	all, err := e.running().Routez(nil)
	if err != nil {
		return nil // it is shutting down
	}
	ids := make([]uint64, len(all.Routes))
	for i, r := range all.Routes {
		ids[i] = r.Rid
	}
	slices.Sort(ids)
	return ids
}

// ends are the notes of where its streams end; nil: there are none.
func (e *embedded) ends() *ends { return e.store.ends }

// room is how many bytes all streams may have together, on the disk or in memory.
func (e *embedded) room(disk bool) int64 {
	c := e.running().JetStreamConfig()
	switch {
	case c == nil:
		return math.MaxInt64 // it keeps none
	case disk:
		return c.MaxStore
	}
	return c.MaxMemory
}

// store is the folder of an embedded server, which nobody else uses meanwhile.
type store struct {
	dir       string // absolute; "": there is none, since the node stores nothing
	node      string // the name of the node
	temporary bool   // dir is removed at the end
	ends      *ends  // nil: no streams are kept here, or not beyond the process
	lock      io.Closer
}

// openStore makes and locks the folder that o asks for, and finds the node's name.
func openStore(o Options) (*store, error) {
	s := &store{dir: o.StoreDir}
	if s.dir == "" && o.Cluster != nil && o.Cluster.NoStore {
		return s, s.chooseNode(o)
	}
	if err := s.makeDir(); err != nil {
		return nil, fmt.Errorf("natsbroker: store: %w", err)
	}
	lock, err := lockFile(filepath.Join(s.dir, "lock"))
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("natsbroker: store %q is in use by another process", s.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("natsbroker: store: %w", err)
	}
	s.lock = lock
	if err := s.prepare(o); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// prepare does what needs the lock.
func (s *store) prepare(o Options) error {
	if err := s.chooseNode(o); err != nil {
		return err
	}
	if err := s.checkOwner(o.Cluster); err != nil {
		return err
	}
	if s.temporary || o.Cluster != nil && o.Cluster.NoStore {
		return nil
	}
	var err error
	if s.ends, err = openEnds(filepath.Join(s.dir, "ends"), s.streams(), o.SyncAlways); err != nil {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	return nil
}

// streams are the names of the streams that the folder has. What is wrong with it, if
// anything, is for the server to say.
func (s *store) streams() (names []string) {
	all, _ := os.ReadDir(filepath.Join(s.dir, server.JetStreamStoreDir, server.DEFAULT_GLOBAL_ACCOUNT, "streams"))
	for _, entry := range all {
		names = append(names, entry.Name())
	}
	return names
}

func (s *store) makeDir() (err error) {
	if s.dir == "" {
		s.temporary = true
		s.dir, err = os.MkdirTemp("", "livetopic-nats-")
		return err
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	return os.MkdirAll(s.dir, 0o700) // messages are private
}

// checkOwner reports an error if there are streams that would be lost: a cluster
// deletes those that it does not know half a minute after a node has begun, and a server
// that is alone does not load those of several nodes. Whose they are is in a file.
func (s *store) checkOwner(c *Cluster) error {
	if c != nil && c.NoStore {
		return nil
	}
	owner := "a server that is alone"
	if c != nil {
		owner = fmt.Sprintf("the cluster %q", c.name())
	}
	file := filepath.Join(s.dir, "owner")
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	former := strings.TrimSpace(string(b))
	if former == owner || s.temporary {
		return nil
	}
	if len(s.streams()) > 0 && former != "" {
		return fmt.Errorf("natsbroker: store %q has streams of %s, which would be lost in %s: "+
			"use another StoreDir, or move them with \"nats stream backup\"", s.dir, former, owner)
	}
	if err := writeFile(file, owner+"\n"); err != nil {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	return nil
}

// chooseNode sets the node's name: the one of o, or the one that the folder has had
// so far, or a random one. A folder keeps its name, because to a cluster a node with
// another name is another node, and the former one missing for ever.
func (s *store) chooseNode(o Options) error {
	if err := checkNodeName(o.Name); o.Name != "" && err != nil {
		return fmt.Errorf("natsbroker: Options.Name: %w", err)
	}
	file := filepath.Join(s.dir, "node")
	former, err := s.readNode(file)
	if err != nil {
		return err
	}
	switch {
	case o.Name == "" && former == "":
		s.node = rand.Text()[:nodeNameLength]
	case o.Name == "" || o.Name == former:
		s.node = former
		return nil
	case former != "" && o.Cluster != nil && !o.Cluster.NoStore:
		return fmt.Errorf("natsbroker: store %q is of node %q, not of %q: give each node its own StoreDir and keep its Name", s.dir, former, o.Name)
	default:
		s.node = o.Name
	}
	if s.dir == "" || s.temporary {
		return nil
	}
	if err := writeFile(file, s.node+"\n"); err != nil {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	return nil
}

// readNode returns the name in file, "" if there is none.
func (s *store) readNode(file string) (string, error) {
	if s.dir == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("natsbroker: store: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if err := checkNodeName(name); err != nil {
		return "", fmt.Errorf("natsbroker: %s: %w", file, err)
	}
	return name, nil
}

func checkNodeName(name string) error {
	odd := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if name == "" || strings.ContainsFunc(name, odd) {
		return fmt.Errorf("%q cannot be the name of a node: it is empty or has blanks", name)
	}
	return nil
}

// writeFile writes a file whole or not at all. Only one process may do so at a time.
func writeFile(path, content string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// close unlocks the folder, and removes it if it was for this server only.
func (s *store) close() error {
	var err error
	if s.ends != nil {
		err = s.ends.close(s.dir)
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close()) // before it is removed: Windows removes no open files
	}
	if s.temporary {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	if err != nil {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	return nil
}
