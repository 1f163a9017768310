package natsbroker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// maxPayload is the largest message between nodes: twice the four megabytes that a client may
// send at once by default, and as much as NATS takes without a warning.
const maxPayload = 8 << 20

// readyTimeout is how long the server may take to listen after it has read its store. After
// that the start fails. It takes milliseconds, except on a machine that hardly runs.
const readyTimeout = 10 * time.Second

// embedded is a NATS server in this process. The mender may replace the server by another on
// the same store.
type embedded struct {
	opts    Options
	store   *store
	token   string        // the password of local clients; "": none is needed, since the server has no port
	port    int           // for other nodes; 0: not known yet
	trouble chan struct{} // holds one when the mender should look at the store

	restarting   atomic.Bool            // the server is being replaced
	writeFailure atomic.Pointer[string] // the server's message about a failed write; nil: no write has failed
	twinUntil    atomic.Int64           // until then another node counts as having this node's name, on the clock of package clock; 0: none has had it

	mu  sync.RWMutex // guards srv after the mender has started
	srv *server.Server

	stopOnce sync.Once
	stopped  chan struct{} // closed when the server is down and its store released
	stopErr  error         // set before stopped is closed
}

// startEmbedded starts a server, and returns when it accepts connections. It does not wait for
// other nodes, so streams may still lack a majority.
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
	e := &embedded{opts: o, store: st, trouble: make(chan struct{}, 1), stopped: make(chan struct{})}
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

// launch starts a server on the store, after the former server has shut down.
func (e *embedded) launch() error {
	so := e.serverOptions(e.opts)
	if e.port != 0 {
		so.Cluster.Port = e.port // the other nodes know this port
	}
	srv, err := server.NewServer(so)
	if err != nil {
		return fmt.Errorf("natsbroker: embedded server: %w", err)
	}
	log := newServerLogger(e.opts.Logger, e.store.node)
	log.onProblem, log.restarting, log.hasMender = e.sawProblem, &e.restarting, e.opts.storesOnDisk()
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

// running returns the present server.
func (e *embedded) running() *server.Server {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.srv
}

func (e *embedded) serverOptions(o Options) *server.Options {
	so := &server.Options{
		ServerName:   e.store.node,
		DontListen:   true,
		NoSigs:       true, // the handlers of the server would end the process
		NoLog:        true, // until SetLoggerV2
		TraceHeaders: true, // the headers only, not the payloads
		MaxPayload:   maxPayload,

		// NATS limits the storage of all streams together: to three quarters of the memory, or
		// of GOMEMLIMIT if that is less, and to three quarters of the free space on the disk.
		// So a stream that is too large is refused when it is made, and not when it is full.
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

// awaitReady waits until the server accepts connections. The error says why it will not.
func awaitReady(srv *server.Server, fatal <-chan error) error {
	deadline := time.Now().Add(readyTimeout)
	for {
		// With a timeout over 25 ms the server would look only every 25 ms.
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

// sawProblem gets the text of the server's warnings and errors.
func (e *embedded) sawProblem(text string) {
	if strings.Contains(strings.ToLower(text), "critical write error") {
		e.writeFailure.Store(&text)
	}
	if strings.Contains(text, twinReport) {
		e.twinUntil.Store(clock.Now() + int64(twinFor))
	}
	e.poke()
}

// twinFor is how long a node counts as having a twin after the twin has last tried to connect. It
// tries about once a second.
const twinFor = 10 * time.Second

// twin returns an error if another node of the cluster has the name of this node; nil: none has.
func (e *embedded) twin() error {
	if until := e.twinUntil.Load(); until == 0 || clock.Now() >= until {
		return nil
	}
	return fmt.Errorf("%w: %q; Options.Name is the same for both, or one of them runs on a copy of the other's StoreDir: stop one, and give it a name and a StoreDir of its own",
		errTwin, e.store.node)
}

var errTwin = errors.New("natsbroker: another node of the cluster has the name of this node")

// poke makes the mender look at the store.
func (e *embedded) poke() {
	select {
	case e.trouble <- struct{}{}:
	default:
	}
}

// InProcessConn implements nats.InProcessConnProvider. A connection that reconnects finds the
// present server.
func (e *embedded) InProcessConn() (net.Conn, error) { return e.running().InProcessConn() }

// connectOptions returns the options for a connection within the process.
func (e *embedded) connectOptions() []nats.Option {
	o := []nats.Option{nats.InProcessServer(e)}
	if e.token != "" {
		o = append(o, nats.Token(e.token))
	}
	return o
}

// stop shuts the server down and releases its store. If ctx ends first, stop returns an error,
// and the shutdown goes on: a store is not released before the last write to it. stop may be
// called again.
func (e *embedded) stop(ctx context.Context) error {
	e.stopOnce.Do(func() {
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

// routeIDs returns the IDs of the routes to other nodes, sorted. A route that is made again has
// another ID.
func (e *embedded) routeIDs() []uint64 {
	all, err := e.running().Routez(nil)
	if err != nil {
		return nil // the server is shutting down
	}
	ids := make([]uint64, len(all.Routes))
	for i, r := range all.Routes {
		ids[i] = r.Rid
	}
	slices.Sort(ids)
	return ids
}

// notes returns the notes of where the streams end; nil: there are none.
func (e *embedded) notes() *notes { return e.store.notes }

// room returns how many bytes all streams may have together, on the disk or in memory.
func (e *embedded) room(disk bool) int64 {
	c := e.running().JetStreamConfig()
	switch {
	case c == nil:
		return math.MaxInt64 // this server keeps no streams
	case disk:
		return c.MaxStore
	}
	return c.MaxMemory
}
