package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live/broker"
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
	ticker := time.NewTicker(linesEvery)
	defer ticker.Stop()
	connected := b.nc.IsConnected()
	var lines []uint64
	var settled time.Time // when to look again; zero: that is done
	lost := func(cause error) {
		b.streams.suspect()
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
				b.streams.suspect() // what comes after it must not hide what is missing
				b.denied.forget()
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

// linesEvery is how often a node of a cluster looks at its lines to others: what was
// published elsewhere while it was apart is fetched within that time.
const linesEvery = time.Second

func (b *Broker) lost(topic string, cause error) {
	if b.sink != nil {
		b.sink.Lost(topic, cause)
	}
}

// connectionError is what the NATS client calls with errors that belong to no call.
func (b *Broker) connectionError(nc *nats.Conn, sub *nats.Subscription, err error) {
	if b.errors != nil {
		b.errors(nc, sub, err)
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
	if errors.Is(err, nats.ErrPermissionViolation) && b.denied.note(b, err) {
		return
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.logger.Warn("natsbroker: "+err.Error(), "subject", subject)
}

// stillInProcess is what a stream's leader answers to a publication that is tried again
// while the first attempt waits for a majority.
const stillInProcess jetstream.ErrorCode = 10158

// unavailable marks errors that say that NATS, or a majority of it, is not there, and
// explains those of which it knows more.
func unavailable(err error) error {
	if known := new(*explained); errors.As(err, known) {
		return err
	}
	if e := explain(err); e != nil {
		return e
	}
	switch {
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse),
		errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrStaleConnection),
		errors.Is(err, nats.ErrHeadersNotSupported), // as long as no server has said that it can
		errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	case errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("%w: %w", broker.ErrServerClosed, err)
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.Code == 503 || api.ErrorCode == stillInProcess) {
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	}
	return err
}
