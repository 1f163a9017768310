package natsbroker

import (
	"context"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
)

// bus carries broadcasts between the brokers. Each kind has a subject.
type bus struct {
	broker   *Broker
	messages chan *nats.Msg
	stopped  chan struct{}
	running  sync.WaitGroup

	mu    sync.Mutex                                // guards the fields below
	kinds map[string]func(from string, data []byte) // the handlers, by subject
	subs  []*nats.Subscription
}

const headerFrom = "Live-From"

func (bus *bus) init(b *Broker) {
	bus.broker = b
	bus.messages = make(chan *nats.Msg, laneSize)
	bus.stopped = make(chan struct{})
	bus.kinds = make(map[string]func(string, []byte))
}

// OnBroadcast implements live.Bus.
func (b *Broker) OnBroadcast(kind string, f func(from string, data []byte)) {
	tokens, err := encode(kind)
	if err != nil {
		panic(err) // a kind is a constant of the program
	}
	b.bus.mu.Lock()
	defer b.bus.mu.Unlock()
	b.bus.kinds[b.busSubject(tokens)] = f
}

// Broadcast implements live.Bus.
func (b *Broker) Broadcast(ctx context.Context, kind string, data []byte) error {
	if b.closed.Load() {
		return live.ErrServerClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	tokens, err := encode(kind)
	if err != nil {
		return err
	}
	if err := b.notConnected(); err != nil {
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

func (bus *bus) start() {
	bus.mu.Lock()
	defer bus.mu.Unlock()
	for subject := range bus.kinds {
		sub, err := bus.broker.nc.ChanSubscribe(subject, bus.messages)
		if err != nil {
			bus.broker.logger.Error("natsbroker: broadcasts cannot be received", "err", err)
			continue
		}
		bus.subs = append(bus.subs, sub)
	}
	bus.running.Go(bus.run) // ends with stop
}

func (bus *bus) run() {
	for {
		select {
		case <-bus.stopped:
			return
		case m := <-bus.messages:
			bus.mu.Lock()
			f := bus.kinds[m.Subject]
			bus.mu.Unlock()
			if f != nil {
				f(last(m.Header, headerFrom), m.Data)
			}
		}
	}
}

func (bus *bus) stop() {
	close(bus.stopped)
	bus.running.Wait()
	for _, sub := range bus.subs {
		sub.Unsubscribe()
	}
}
