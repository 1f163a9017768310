package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// busSubject is the subject over which FromPubSub's brokers speak to all servers. It
// is refused as a topic: who may publish to it could end anybody's session.
const busSubject = "__live.broadcast"

// busRetry is the time between two attempts to subscribe to it. A messaging system
// that is down at the start is up within minutes; asking seldom costs neither.
const busRetry = 5 * time.Second

// pubSubBus is what a broker of FromPubSub knows of broadcasts.
type pubSubBus struct {
	from string // who this server is

	// Guarded by pubSubBroker.mu.
	handlers map[string]func(from string, b []byte) // not changed after Start
	sub      Subscription                           // nil: not subscribed, yet
	retry    *time.Timer                            // runs when subscribing failed
}

// OnBroadcast implements Bus.
func (b *pubSubBroker) OnBroadcast(kind string, f func(from string, b []byte)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bus.handlers[kind] = f
}

// Broadcast implements Bus. While the subscription to the others is not to be had,
// what is sent reaches this server all the same.
func (b *pubSubBroker) Broadcast(ctx context.Context, kind string, data []byte) error {
	b.mu.Lock()
	closed, subscribed := b.closed, b.bus.sub != nil
	b.mu.Unlock()
	if closed {
		return ErrServerClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	raw := appendString(appendString(nil, b.bus.from), kind)
	raw = append(raw, data...)
	if !subscribed {
		b.hear(raw)
	}
	return b.ps.Publish(busSubject, raw)
}

// listen subscribes to the broadcasts, or tries again later.
func (b *pubSubBroker) listen() {
	sub, err := b.ps.Subscribe(busSubject, b.hear)
	b.mu.Lock()
	switch {
	case b.closed:
		if err == nil {
			go sub.Unsubscribe() // of a system that may wait for its handlers
		}
	case err == nil:
		b.bus.sub, b.bus.retry = sub, nil
	default:
		b.bus.retry = time.AfterFunc(busRetry, b.listen)
	}
	closed := b.closed
	b.mu.Unlock()
	if err != nil && !closed {
		b.sink.Lost("", fmt.Errorf("live: broadcasts of other servers do not come: %w", err))
	}
}

// hear takes a broadcast. It holds no lock: a broadcast may be made from within one.
func (b *pubSubBroker) hear(raw []byte) {
	from, rest, ok := cutString(raw)
	kind, data, isKind := cutString(rest)
	if !ok || !isKind {
		b.sink.Lost("", errors.New("live: somebody published what is no broadcast to "+busSubject))
		return
	}
	b.mu.Lock()
	f := b.bus.handlers[kind]
	if b.closed {
		f = nil
	}
	b.mu.Unlock()
	if f != nil {
		f(from, bytes.Clone(data))
	}
}

// silence ends the subscription; mu is held. What it returns is called without.
func (b *pubSubBroker) silence() (unsubscribe func() error) {
	if b.bus.retry != nil {
		b.bus.retry.Stop()
	}
	if b.bus.sub == nil {
		return func() error { return nil }
	}
	return b.bus.sub.Unsubscribe
}
