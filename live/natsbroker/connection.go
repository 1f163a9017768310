package natsbroker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/broker"
)

// The state of the connection to NATS, and of the routes between its servers. After each
// interruption the live server is told, and compares its topics with their streams.

var (
	errReconnected = errors.New("natsbroker: the connection to NATS was down")
	errBackwards   = errors.New("natsbroker: the stream's sequence went back")
	errSettled     = errors.New("natsbroker: a leader without a majority may have answered")
	errRerouted    = errors.New("natsbroker: the routes to other nodes have changed")
)

// watchConnection tells the live server when deliveries may be missing, until Close.
func (b *Broker) watchConnection() {
	ticker := time.NewTicker(routesEvery)
	defer ticker.Stop()
	connected := b.nc.IsConnected()
	b.noteServer()
	var routes []uint64
	var settleAt time.Time // when topics are compared once more; zero: never
	lost := func(cause error) {
		b.streams.requireComparison()
		b.lost("", cause)
		settleAt = time.Now().Add(leaseTime)
	}
	for {
		select {
		case <-b.ctx.Done():
			return
		case status, ok := <-b.status:
			if !ok {
				return
			}
			now := status == nats.CONNECTED
			if now && !connected {
				b.logger.Log(b.ctx, b.unlessRestarting(slog.LevelInfo), "natsbroker: connected", "url", b.nc.ConnectedUrlRedacted())
				lost(errReconnected)
				b.tasks.Go(b.compareStreams) // ends with the answers, or with Close
			} else if !now && connected {
				b.streams.requireComparison() // what arrives next must not hide a loss
				b.denials.forget()
				b.logger.Log(b.ctx, b.unlessRestarting(slog.LevelWarn), "natsbroker: not connected", "err", cmp.Or(b.nc.LastError(), nats.ErrDisconnected))
			}
			if status == nats.CLOSED {
				b.logger.Error("natsbroker: the connection is closed for good; make a new broker", "err", cmp.Or(b.nc.LastError(), nats.ErrConnectionClosed))
			}
			connected = now
			b.noteServer()
		case <-ticker.C:
			b.noteServer() // also if NATS had no space for a status
			// The connection to the embedded server stays up while that server is cut off from
			// the other nodes. A route that has gone counts as well: the node behind it may
			// have led a stream, and may have stored publications that it did not send.
			before := routes
			if b.server != nil && b.opts.Cluster != nil {
				routes = b.server.routeIDs()
			}
			switch {
			case !slices.Equal(routes, before):
				lost(errRerouted)
			case !settleAt.IsZero() && time.Now().After(settleAt):
				settleAt = time.Time{}
				b.lost("", errSettled)
			}
		}
	}
}

// noteServer notes that watchConnection has handled everything up to the connection to the present
// server. The client of NATS queues a change of its status before ConnectedServerId shows the new server.
// So if the queue is empty after ConnectedServerId was called, everything about that server was handled.
func (b *Broker) noteServer() {
	id := b.nc.ConnectedServerId()
	if len(b.status) == 0 {
		b.watchedServer.Store(&id)
	}
}

// isWatched reports whether watchConnection has handled everything up to the connection to a server.
func (b *Broker) isWatched(server string) bool {
	id := b.watchedServer.Load()
	return id != nil && *id == server
}

// routesEvery is how often a node of a cluster looks at its routes to the other nodes. After a
// node was cut off, the publications of the others are fetched within this time.
const routesEvery = time.Second

// lost tells the live server that deliveries may be missing. The goroutines of New may call it
// before Start. Then there is no live server yet, and no topic is subscribed.
func (b *Broker) lost(topic string, cause error) {
	select {
	case <-b.started:
		b.sink.Lost(topic, cause)
	default:
	}
}

// connectionError gets the errors of the NATS client that belong to no call.
func (b *Broker) connectionError(nc *nats.Conn, sub *nats.Subscription, err error) {
	if b.errorHandler != nil {
		b.errorHandler(nc, sub, err)
	}
	if b.closed.Load() {
		return
	}
	if !b.complete.Load() { // the connection is older than the rest of the broker
		b.warnOfConnection(sub, err)
		return
	}
	if sub != nil && errors.Is(err, nats.ErrSlowConsumer) {
		if in := b.hub.findDelivered(sub.Subject); in != nil {
			b.hub.overflow(in, err)
			return
		}
		if strings.HasPrefix(sub.Subject, b.busSubject("")) {
			b.bus.overflow(err)
		}
	}
	denied := errors.Is(err, nats.ErrPermissionViolation)
	if denied && b.denials.add(b, err) {
		return
	}
	if b.opts.Conn != nil && (denied || sub != nil && !b.uses(sub.Subject)) {
		return // it is about the application's own use of its connection
	}
	b.warnOfConnection(sub, err)
}

// warnOfConnection logs an error of the connection. A kind of error is logged once in a while,
// since NATS may report it for each topic.
func (b *Broker) warnOfConnection(sub *nats.Subscription, err error) {
	kind := err
	for next := errors.Unwrap(kind); next != nil; next = errors.Unwrap(kind) {
		kind = next
	}
	if !b.logLimit.due("connection: " + kind.Error()) {
		return
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.logger.Warn("natsbroker: the connection reports an error", "subject", subject, "err", err)
}

// errConnect is wrapped by every error for the options of Connect or Conn.
var errConnect = errors.New("natsbroker: the connection cannot be used")

// checkConnect runs as the last option of the connection to Servers, so it sees what the
// application's options have set.
func (b *Broker) checkConnect(o *nats.Options) error {
	switch {
	case o.NoEcho:
		return fmt.Errorf("%w: Options.Connect has nats.NoEcho, with which this server would not hear what it publishes; remove it", errConnect)
	case !o.AllowReconnect:
		return fmt.Errorf("%w: Options.Connect has nats.NoReconnect, with which the broker would end with its first connection; remove it", errConnect)
	case o.MaxReconnect >= 0:
		return fmt.Errorf("%w: Options.Connect has nats.MaxReconnects(%d), after which the broker would be closed for good; remove it", errConnect, o.MaxReconnect)
	}
	b.errorHandler = o.AsyncErrorCB
	o.AsyncErrorCB = b.connectionError
	return nil
}

// checkConn returns an error if the application's connection cannot be used.
func checkConn(nc *nats.Conn) error {
	switch {
	case nc.Opts.NoEcho:
		return fmt.Errorf("%w: Options.Conn was made with nats.NoEcho, with which this server would not hear what it publishes; make a connection without it", errConnect)
	case nc.IsClosed() || nc.IsDraining():
		return fmt.Errorf("%w: Options.Conn is closed", errConnect)
	}
	return nil
}

// notConnected returns why there is no connection; nil: there is a connection. Without a
// connection a publication would wait in a buffer, so Publish must not report that it was sent.
func (b *Broker) notConnected() error {
	if b.nc.IsConnected() {
		return nil
	}
	err := b.nc.LastError()
	switch {
	case b.nc.IsClosed() && err != nil:
		return fmt.Errorf("%w: the connection is closed for good, so the broker must be made again: %w", broker.ErrUnavailable, err)
	case b.nc.IsClosed():
		return fmt.Errorf("%w: the connection is closed for good, so the broker must be made again", broker.ErrUnavailable)
	case err == nil:
		err = nats.ErrDisconnected
	}
	if b.server != nil {
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	}
	// These URLs have no passwords.
	return fmt.Errorf("%w: no connection to %s: %w", broker.ErrUnavailable, strings.Join(b.nc.Servers(), ", "), err)
}
