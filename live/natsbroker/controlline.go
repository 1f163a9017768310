package natsbroker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/broker"
)

// mayUse returns an error if a subject is too long for NATS.
func (b *Broker) mayUse(subject string) error {
	if most := b.maxSubject.Load(); most > 0 && int64(len(subject)) > most {
		return fmt.Errorf("natsbroker: %w: its subject has %d bytes, and NATS takes %d: raise max_control_line of its servers",
			broker.ErrInvalidTopic, len(subject), most)
	}
	return nil
}

// lineSpace is the space in a protocol line for everything but the subject: the command, the
// reply's inbox, and numbers.
const lineSpace = 128

// lineSizes are the lengths of line that are tried, longest first. The first is the line of the
// longest topic. The others are values to which an operator may have set max_control_line.
var lineSizes = []int{maxPrefix + 3 + 3*maxTopic + lineSpace, 2048, 1024, 512, 256}

// probeTimeout is how long each step of one attempt may take: to connect, and to get an answer.
const probeTimeout = 5 * time.Second

// measureLines finds out how long a protocol line NATS takes. NATS does not tell, and closes a
// connection that sends a longer line. On the broker's own connection all subscriptions would
// be lost. So the attempts use another connection.
func (b *Broker) measureLines() {
	for !b.nc.IsConnected() {
		if !sleep(b.ctx, 100*time.Millisecond) {
			return
		}
	}
	for i, size := range lineSizes {
		tooLong, err := b.isLineTooLong(size)
		if b.ctx.Err() != nil {
			return
		}
		if err != nil {
			b.logger.Debug("natsbroker: the longest subject of NATS is not known", "err", err)
			return
		}
		if tooLong {
			b.maxSubject.Store(int64(max(size/2-lineSpace, 1))) // safe until the next size is tried
			continue
		}
		if i > 0 {
			b.maxSubject.Store(int64(size - lineSpace))
			b.logger.Warn("natsbroker: NATS takes only short subjects; set max_control_line of its servers to 4096, the default, or more",
				"bytes", size-lineSpace)
		}
		return
	}
}

func (b *Broker) isLineTooLong(size int) (bool, error) {
	o := b.nc.Opts
	o.Name = "livetopic: measures"
	o.AllowReconnect, o.RetryOnFailedConnect = false, false
	o.Timeout = probeTimeout
	o.AsyncErrorCB = func(*nats.Conn, *nats.Subscription, error) {}
	o.ClosedCB, o.ConnectedCB, o.DisconnectedCB, o.DisconnectedErrCB, o.ReconnectedCB = nil, nil, nil, nil, nil
	o.DiscoveredServersCB, o.LameDuckModeHandler, o.ReconnectErrCB = nil, nil, nil
	nc, err := connectUntil(b.ctx, o)
	if err != nil {
		return false, err
	}
	defer nc.Close()
	subject := b.deliverySubject(strings.Repeat("x", size-lineSpace-len(b.deliverySubject(""))))
	if _, err := nc.SubscribeSync(subject); err != nil { // to subscribe is harmless; a stream could store a publication
		return false, err
	}
	ctx, cancel := context.WithTimeout(b.ctx, probeTimeout)
	defer cancel()
	if err = nc.FlushWithContext(ctx); err == nil {
		return false, nil
	}
	if last := nc.LastError(); last != nil && strings.Contains(strings.ToLower(last.Error()), "maximum control line") {
		return true, nil
	}
	return false, err
}

// connectUntil connects, and gives up when ctx ends. Connect has no context of its own.
func connectUntil(ctx context.Context, o nats.Options) (*nats.Conn, error) {
	type result struct {
		nc  *nats.Conn
		err error
	}
	connected := make(chan result)
	go func() { // ends with the timeout of o
		nc, err := o.Connect()
		select {
		case connected <- result{nc, err}:
		case <-ctx.Done():
			if err == nil {
				nc.Close()
			}
		}
	}()
	select {
	case r := <-connected:
		return r.nc, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
