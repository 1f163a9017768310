package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/broker"
)

// bus carries broadcasts between the brokers. Each kind has a subject.
type bus struct {
	broker   *Broker
	messages chan *nats.Msg
	stopped  chan struct{}
	running  sync.WaitGroup

	overflowed atomic.Bool // messages had no space for a broadcast, and the broker is to be told again

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

// The kinds of broadcasts.
const (
	broadcastServer = "live"             // of the servers that use these brokers
	broadcastEpoch  = "natsbroker.epoch" // says that a stream has another epoch

	broadcastCompare = "natsbroker.compare" // asks the others to compare their streams and to note that these are whole
)

// OnBroadcast implements broker.Bus.
func (b *Broker) OnBroadcast(f func(data []byte)) {
	b.onBroadcast(broadcastServer, func(_ string, data []byte) { f(data) })
}

// Broadcast implements broker.Bus.
func (b *Broker) Broadcast(ctx context.Context, data []byte) error {
	return b.broadcast(ctx, broadcastServer, data)
}

// onBroadcast has f called for each broadcast of a kind. from names the broker that sent it.
func (b *Broker) onBroadcast(kind string, f func(from string, data []byte)) {
	tokens, err := encode(kind)
	if err != nil {
		panic(err) // a kind is a constant of the program
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
			if len(bus.messages) <= cap(bus.messages)/2 && bus.overflowed.Swap(false) {
				bus.broker.missedBroadcasts(errBusOverflow)
			}
		}
	}
}

var errBusOverflow = errors.New("natsbroker: there were more broadcasts than this server could handle")

// overflow notes that a broadcast had no space. NATS reports only the first that is lost, so
// the broker is told again when there is space.
func (bus *bus) overflow(cause error) {
	bus.overflowed.Store(true)
	bus.broker.missedBroadcasts(cause)
}

// missedBroadcasts makes up for lost broadcasts: one of them may have said that a stream has
// another epoch.
func (b *Broker) missedBroadcasts(cause error) {
	for _, st := range b.streams.every() {
		st.expireState()
	}
	b.lost("", cause)
}

func (bus *bus) stop() {
	close(bus.stopped)
	bus.running.Wait()
	for _, sub := range bus.subs {
		sub.Unsubscribe()
	}
}
