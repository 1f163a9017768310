package natsbroker

import (
	"context"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/broker"
)

// bus carries broadcasts between the brokers, one subject for each kind.
type bus struct {
	broker   *Broker
	messages chan *nats.Msg
	stopped  chan struct{}
	running  sync.WaitGroup

	mu    sync.Mutex                                // guards what follows
	kinds map[string]func(from string, data []byte) // by subject
	subs  []*nats.Subscription
}

const headerFrom = "Live-From"

func (u *bus) init(b *Broker) {
	u.broker = b
	u.messages = make(chan *nats.Msg, laneSize)
	u.stopped = make(chan struct{})
	u.kinds = make(map[string]func(string, []byte))
}

// The kinds of broadcasts.
const (
	broadcastServer = "live"             // of the servers that use these brokers
	broadcastEpoch  = "natsbroker.epoch" // says that a stream has another epoch
)

// OnBroadcast implements broker.Bus.
func (b *Broker) OnBroadcast(f func(data []byte)) {
	b.onBroadcast(broadcastServer, func(_ string, data []byte) { f(data) })
}

// Broadcast implements broker.Bus.
func (b *Broker) Broadcast(ctx context.Context, data []byte) error {
	return b.broadcast(ctx, broadcastServer, data)
}

// onBroadcast has f called for each broadcast of a kind; from names the broker that sent it.
func (b *Broker) onBroadcast(kind string, f func(from string, data []byte)) {
	tokens, err := encode(kind)
	if err != nil {
		panic(err) // a kind is a word in this program
	}
	b.bus.mu.Lock()
	defer b.bus.mu.Unlock()
	b.bus.kinds[b.busSubject(tokens)] = f
}

func (b *Broker) broadcast(ctx context.Context, kind string, data []byte) error {
	if b.closed.Load() {
		return broker.ErrServerClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	tokens, err := encode(kind)
	if err != nil {
		return err
	}
	if err := b.away(); err != nil {
		return fmt.Errorf("natsbroker: %w", err)
	}
	m := nats.NewMsg(b.busSubject(tokens))
	m.Header.Set(headerFrom, b.name)
	m.Data = data
	if err := b.nc.PublishMsg(m); err != nil {
		return fmt.Errorf("natsbroker: %w", unavailable(err))
	}
	return nil
}

func (u *bus) start() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for subject := range u.kinds {
		sub, err := u.broker.nc.ChanSubscribe(subject, u.messages)
		if err != nil {
			u.broker.logger.Error("natsbroker: no broadcasts", "err", err)
			continue
		}
		u.subs = append(u.subs, sub)
	}
	u.running.Go(u.run) // ends with stop
}

func (u *bus) run() {
	for {
		select {
		case <-u.stopped:
			return
		case m := <-u.messages:
			u.mu.Lock()
			f := u.kinds[m.Subject]
			u.mu.Unlock()
			if f != nil {
				f(last(m.Header, headerFrom), m.Data)
			}
		}
	}
}

func (u *bus) stop() {
	close(u.stopped)
	u.running.Wait()
	for _, sub := range u.subs {
		sub.Unsubscribe()
	}
}
