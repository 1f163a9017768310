package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// Subscription is what Listen and PubSub.Subscribe return. It goes on until Unsubscribe ends it.
type Subscription interface {
	Unsubscribe() error
}

// PubSub is what FromPubSub needs of a messaging system to make a Broker of it. Its methods must
// be safe for concurrent use. The messaging system must deliver publications to the
// subscriptions of the publisher too.
//
// A subject is at most three times as long as a topic, which is 765 bytes with default options.
// It consists of letters and digits of any script, and of '-', '_', ':', '/', '=', '@', '~' and
// '%'. It may contain single dots, but not at its ends. Such a subject is not a pattern in NATS,
// Redis, MQTT or AMQP, so a system that accepts these names need not check them. Publish and
// Subscribe get the same subject for a topic.
type PubSub interface {
	Publish(subject string, data []byte) error
	Subscribe(subject string, handler func(data []byte)) (Subscription, error)
	Close() error
}

// FromPubSub makes a Broker, without history, of any messaging system. The subject of a topic is
// the topic's name. Characters that PubSub does not list are written as their bytes in
// hexadecimal: the topic "chat.>" has the subject "chat.%3E". Other programs may publish to the
// subject too. Their publications are delivered if they are JSON. If not, they are dropped and
// a warning is logged.
//
// The Broker is a Bus too. It uses the subject "__live.broadcast" for broadcasts, so Publish and
// Subscribe refuse this name as a topic with ErrInvalidTopic. A program that may publish to this
// subject can send broadcasts to all servers, and end sessions.
func FromPubSub(ps PubSub) Broker {
	return &pubSubBroker{
		ps:   ps,
		seed: maphash.MakeSeed(),
		subs: make(map[string]*pubSubTopic),
	}
}

type pubSubBroker struct {
	ps          PubSub
	sink        broker.Sink
	onBroadcast func(b []byte) // nil: nobody wants broadcasts; not changed after Start

	// Deliveries of one topic come one after another, also those of a subscription
	// that is ending and of the next.
	seed       maphash.Seed
	deliveries [64]sync.Mutex

	mu     sync.Mutex // guards what follows
	subs   map[string]*pubSubTopic
	bus    Subscription // to broadcasts; nil: not subscribed, yet
	retry  *time.Timer  // runs when that failed
	closed bool
}

// pubSubTopic is one subscription at the messaging system, which may call its
// handler from several goroutines.
type pubSubTopic struct {
	mu   *sync.Mutex // held during a delivery; one of the broker's
	done atomic.Bool
	sub  Subscription // guarded by pubSubBroker.mu
}

// busSubject is the subject over which FromPubSub's brokers speak to all servers. It
// is refused as a topic: who may publish to it could end anybody's session.
const busSubject = "__live.broadcast"

var errBusSubject = fmt.Errorf("%w: %q is for broadcasts", ErrInvalidTopic, busSubject)

func (b *pubSubBroker) Start(s broker.Sink) {
	b.sink = s
	if b.onBroadcast != nil {
		b.listen()
	}
}

func (b *pubSubBroker) Subscribe(_ context.Context, topic string) error {
	if topic == busSubject {
		return errBusSubject
	}
	t := &pubSubTopic{mu: &b.deliveries[maphash.String(b.seed, topic)%uint64(len(b.deliveries))]}
	b.mu.Lock()
	if b.closed || b.subs[topic] != nil {
		defer b.mu.Unlock()
		if b.closed {
			return ErrServerClosed
		}
		return nil
	}
	b.subs[topic] = t
	b.mu.Unlock()
	sub, err := b.ps.Subscribe(subjectOf(topic), func(data []byte) { b.receive(topic, t, data) })
	if err != nil {
		b.mu.Lock()
		delete(b.subs, topic)
		b.mu.Unlock()
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t.sub = sub
	if b.subs[topic] != t { // unsubscribed meanwhile
		t.done.Store(true)
		go sub.Unsubscribe()
	}
	return nil
}

func (b *pubSubBroker) Unsubscribe(topic string) error {
	b.mu.Lock()
	t := b.subs[topic]
	delete(b.subs, topic)
	var sub Subscription
	if t != nil {
		sub = t.sub
	}
	b.mu.Unlock()
	if sub == nil {
		return nil
	}
	t.done.Store(true)
	// Not here: the caller holds a lock for which a handler may be waiting, and the
	// system may wait for its handlers. The next Subscribe is another subscription.
	go sub.Unsubscribe()
	return nil
}

func (b *pubSubBroker) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (Position, error) {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return Position{}, ErrServerClosed
	}
	if err := ctx.Err(); err != nil {
		return Position{}, err
	}
	if topic == busSubject {
		return Position{}, errBusSubject
	}
	return Position{}, b.ps.Publish(subjectOf(topic), wrapExcept(o.Except, data))
}

func (b *pubSubBroker) Close(context.Context) error {
	b.mu.Lock()
	closed, bus := b.closed, b.bus
	b.closed = true
	if b.retry != nil {
		b.retry.Stop()
	}
	b.mu.Unlock()
	switch {
	case closed:
		return nil
	case bus == nil:
		return b.ps.Close()
	}
	return errors.Join(bus.Unsubscribe(), b.ps.Close())
}

// OnBroadcast implements broker.Bus.
func (b *pubSubBroker) OnBroadcast(f func(data []byte)) { b.onBroadcast = f }

// Broadcast implements broker.Bus. While the messaging system refuses the subscription to
// broadcasts, this server hears its own all the same.
func (b *pubSubBroker) Broadcast(ctx context.Context, data []byte) error {
	b.mu.Lock()
	closed, subscribed := b.closed, b.bus != nil
	b.mu.Unlock()
	if closed {
		return ErrServerClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !subscribed {
		b.hear(data)
	}
	return b.ps.Publish(busSubject, data)
}

func (b *pubSubBroker) receive(topic string, t *pubSubTopic, raw []byte) {
	if t.done.Load() {
		return
	}
	except, data := unwrapExcept(raw)
	if err := broker.CheckData(data); err != nil {
		// Without t.mu: the server logs the error, and a slog.Handler may publish to the topic.
		b.sink.Lost(topic, fmt.Errorf("live: somebody published what is no message: %w", err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.done.Load() {
		b.sink.Deliver(&broker.Publication{Topic: topic, Data: bytes.Clone(data), Time: time.Now(), Except: except})
	}
}

// A session that is left out travels before the data, between two NULs, which no
// JSON begins with.
func wrapExcept(except string, data []byte) []byte {
	if except == "" {
		return data
	}
	return append([]byte("\x00"+strings.ReplaceAll(except, "\x00", "")+"\x00"), data...)
}

func unwrapExcept(raw []byte) (except string, data []byte) {
	rest, ok := bytes.CutPrefix(raw, []byte{0})
	if !ok {
		return "", raw
	}
	id, data, ok := bytes.Cut(rest, []byte{0})
	if !ok {
		return "", raw
	}
	return string(id), data
}

// busRetry is the time between two attempts to subscribe to broadcasts. A messaging system
// that is down at the start is up within minutes, and an attempt costs next to nothing.
const busRetry = 5 * time.Second

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
		b.bus, b.retry = sub, nil
	default:
		b.retry = time.AfterFunc(busRetry, b.listen)
	}
	closed := b.closed
	b.mu.Unlock()
	if err != nil && !closed {
		b.sink.Lost("", fmt.Errorf("live: broadcasts of other servers do not come: %w", err))
	}
}

// hear takes a broadcast. It holds no lock: a broadcast may be made from within one.
func (b *pubSubBroker) hear(raw []byte) {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if !closed && b.onBroadcast != nil {
		b.onBroadcast(bytes.Clone(raw))
	}
}
