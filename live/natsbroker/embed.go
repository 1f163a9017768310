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
)

// maxPayload is of a message between nodes: twice the four megabytes that a client may
// send at once by default, and as much as NATS takes without a warning.
const maxPayload = 8 << 20

// readyTimeout is how long the server may take to listen once it has read its store,
// before starting it is given up. It takes milliseconds; this is for machines that are
// all but standing still.
const readyTimeout = 10 * time.Second

// embedded is a NATS server in this process. The mender may replace it by another on the
// same store.
type embedded struct {
	opts    Options
	store   *store
	token   string        // that clients give; "": there is no port, and no need
	port    int           // for other nodes; 0: none yet
	trouble chan struct{} // holds one when the store is to be looked at

	restarting   atomic.Bool            // the server is being replaced
	writeFailure atomic.Pointer[string] // what the server has said of a write that failed; nil: none has

	mu  sync.RWMutex // guards srv once the mender runs
	srv *server.Server

	stopOnce sync.Once
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

// launch starts a server on the store, in the place of one that has been shut down.
func (e *embedded) launch() error {
	so := e.serverOptions(e.opts)
	if e.port != 0 {
		so.Cluster.Port = e.port // where others look for it
	}
	srv, err := server.NewServer(so)
	if err != nil {
		return fmt.Errorf("natsbroker: embedded server: %w", err)
	}
	log := newServerLogger(e.opts.Logger, e.store.node)
	log.onProblem, log.restarting = e.sawProblem, &e.restarting
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

// sawProblem is called with what the server says is wrong.
func (e *embedded) sawProblem(text string) {
	if strings.Contains(strings.ToLower(text), "critical write error") {
		e.writeFailure.Store(&text)
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

// notes are the notes of where its streams end; nil: there are none.
func (e *embedded) notes() *notes { return e.store.notes }

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
