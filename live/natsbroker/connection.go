package natsbroker

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
)

// What becomes of the connection to NATS, and of the lines between its servers: the
// live server is told, and compares its topics with their streams.

var (
	errReconnected = errors.New("natsbroker: NATS was away")
	errBackwards   = errors.New("natsbroker: the stream's sequence went back")
	errSettled     = errors.New("natsbroker: a leader that was cut off may have answered before")
	errRerouted    = errors.New("natsbroker: the lines to other nodes are not those of before")
)

// watchConnection tells the server when deliveries may have been lost, until Close.
func (b *Broker) watchConnection() {
	ticker := time.NewTicker(routesEvery)
	defer ticker.Stop()
	connected := b.nc.IsConnected()
	var lines []uint64
	var settled time.Time // when to look again; zero: that is done
	lost := func(cause error) {
		b.streams.requireComparison()
		b.lost("", cause)
		settled = time.Now().Add(leaseTime)
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
				b.streams.requireComparison() // what comes after it must not hide what is missing
				b.denials.forget()
				b.logger.Log(b.ctx, b.unlessRestarting(slog.LevelWarn), "natsbroker: not connected", "err", b.nc.LastError())
			}
			if status == nats.CLOSED {
				b.logger.Error("natsbroker: the connection is closed for good, so this broker must be made anew", "err", b.nc.LastError())
			}
			connected = now
		case <-ticker.C:
			// The connection to a server in this process stays up when that is cut off
			// from the others. Also a line that has gone counts: the node there may have led
			// a stream, and stored what it no longer sent on.
			before := lines
			if b.server != nil && b.opts.Cluster != nil {
				lines = b.server.routeIDs()
			}
			switch {
			case !slices.Equal(lines, before):
				lost(errRerouted)
			case !settled.IsZero() && time.Now().After(settled):
				settled = time.Time{}
				b.lost("", errSettled)
			}
		}
	}
}

// routesEvery is how often a node of a cluster looks at its lines to others: what was
// published elsewhere while it was apart is fetched within that time.
const routesEvery = time.Second

func (b *Broker) lost(topic string, cause error) {
	if b.sink != nil {
		b.sink.Lost(topic, cause)
	}
}

// connectionError is what the NATS client calls with errors that belong to no call.
func (b *Broker) connectionError(nc *nats.Conn, sub *nats.Subscription, err error) {
	if b.errorHandler != nil {
		b.errorHandler(nc, sub, err)
	}
	if b.closed.Load() {
		return
	}
	if sub != nil && errors.Is(err, nats.ErrSlowConsumer) {
		if in := b.hub.find(sub.Subject); in != nil {
			b.hub.overflow(in, err)
			return
		}
	}
	if errors.Is(err, nats.ErrPermissionViolation) && b.denials.add(b, err) {
		return
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.logger.Warn("natsbroker: "+err.Error(), "subject", subject)
}

// errConnect is wrapped by the error for options of Connect or Conn.
var errConnect = errors.New("natsbroker: a connection that cannot be used")

// checkConnect is the last of the options of a connection to Servers: it sees what those of
// the application have set.
func (b *Broker) checkConnect(o *nats.Options) error {
	switch {
	case o.NoEcho:
		return fmt.Errorf("%w: Options.Connect has nats.NoEcho, so this server would not hear what it publishes; leave it out", errConnect)
	case !o.AllowReconnect:
		return fmt.Errorf("%w: Options.Connect has nats.NoReconnect, so the broker would end with its first connection; leave it out", errConnect)
	case o.MaxReconnect >= 0:
		return fmt.Errorf("%w: Options.Connect has nats.MaxReconnects(%d), after which the broker would be closed for good; leave it out", errConnect, o.MaxReconnect)
	}
	b.errorHandler = o.AsyncErrorCB
	o.AsyncErrorCB = b.connectionError
	return nil
}

// checkConn returns an error for a connection of the application that cannot be used.
func checkConn(nc *nats.Conn) error {
	switch {
	case nc.Opts.NoEcho:
		return fmt.Errorf("%w: Options.Conn was made with nats.NoEcho, so this server would not hear what it publishes; make one without it", errConnect)
	case nc.IsClosed() || nc.IsDraining():
		return fmt.Errorf("%w: Options.Conn is closed", errConnect)
	}
	return nil
}

// notConnected returns why there is no connection; nil: there is one. What is published without a
// connection would wait in a buffer, and Publish must not say that it was sent.
func (b *Broker) notConnected() error {
	if b.nc.IsConnected() {
		return nil
	}
	err := b.nc.LastError()
	switch {
	case b.nc.IsClosed() && err != nil:
		return fmt.Errorf("%w: the connection is closed for good, so this broker must be made anew: %w", live.ErrUnavailable, err)
	case b.nc.IsClosed():
		return fmt.Errorf("%w: the connection is closed for good, so this broker must be made anew", live.ErrUnavailable)
	case err == nil:
		err = nats.ErrDisconnected
	}
	return fmt.Errorf("%w: %w", live.ErrUnavailable, err)
}
