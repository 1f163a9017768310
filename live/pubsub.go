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

// Subscription is the result of Listen and of PubSub.Subscribe. It goes on until Unsubscribe ends
// it.
type Subscription interface {
	Unsubscribe() error
}

// PubSub has the methods of a messaging system of which FromPubSub can make a Broker. They must be
// safe for concurrent use. The messaging system must deliver publications to the subscriptions of
// the publisher too.
//
// A subject is at most three times as long as a topic: 765 bytes with default options. It consists
// of letters and digits of any script, and of '-', '_', ':', '/', '=', '@', '~' and '%'. It may
// contain single dots, but not at its ends. Such a subject is not a pattern in NATS, Redis, MQTT or
// AMQP. So a system that accepts these names need not check them. Publish and Subscribe get the
// same subject for a topic.
type PubSub interface {
	Publish(subject string, data []byte) error
	Subscribe(subject string, handler func(data []byte)) (Subscription, error)
	Close() error
}

// FromPubSub makes a Broker, without history, of any messaging system. The subject of a topic is
// the topic's name. A character that is not in PubSub's list is written as its bytes in
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

	// One of the locks in deliveries is held while a publication is delivered. It depends on the
	// topic, so deliveries of one topic come one after another. That holds also for the deliveries
	// of a subscription that is ending and of the next subscription.
	seed       maphash.Seed
	deliveries [64]sync.Mutex

	mu     sync.Mutex // guards the fields below; no other lock is taken under it
	subs   map[string]*pubSubTopic
	bus    Subscription // for broadcasts; nil: there is none yet
	retry  *time.Timer  // for the next attempt to subscribe to broadcasts; nil: none is due
	closed bool
}

// pubSubTopic is one subscription at the messaging system. The system may call its handler from
// several goroutines.
type pubSubTopic struct {
	mu   *sync.Mutex  // held during a delivery; one of pubSubBroker.deliveries
	done atomic.Bool  // unsubscribed: no more publications are delivered
	sub  Subscription // guarded by pubSubBroker.mu
}

// busSubject is the subject over which FromPubSub's brokers speak to all servers. It
// is refused as a topic. A client that could publish to it could end any session.
const busSubject = "__live.broadcast"

var errBusSubject = fmt.Errorf("%w: %q is for broadcasts", ErrInvalidTopic, busSubject)

// Start implements broker.Broker.
func (b *pubSubBroker) Start(s broker.Sink) {
	b.sink = s
	if b.onBroadcast != nil {
		b.listen()
	}
}

// Subscribe implements broker.Broker.
func (b *pubSubBroker) Subscribe(_ context.Context, topic string) error {
	if topic == busSubject {
		return errBusSubject
	}
	t := &pubSubTopic{mu: &b.deliveries[maphash.String(b.seed, topic)%uint64(len(b.deliveries))]}
	if added, err := b.add(topic, t); !added {
		return err
	}
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

// add adds a topic, unless it is there already. It waits for a delivery of the topic's subscription before
// this one, which has seen that it was not done yet. Otherwise a new subscriber would get an old
// publication, and then none up to the first of the new subscription.
func (b *pubSubBroker) add(topic string, t *pubSubTopic) (added bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return false, ErrServerClosed
	case b.subs[topic] != nil:
		return false, nil
	}
	b.subs[topic] = t
	return true, nil
}

// Unsubscribe implements broker.Broker.
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
	// The caller holds the topic's lock. A handler may wait for that lock, and the messaging system
	// may wait for its handlers. So another goroutine unsubscribes; it ends when the system has
	// answered. A later Subscribe need not wait for it, because it makes a new subscription.
	go sub.Unsubscribe()
	return nil
}

// Publish implements broker.Broker.
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

// Close implements broker.Broker.
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

// Broadcast implements broker.Bus. Even while the messaging system refuses the subscription to
// broadcasts, this server hears its own broadcasts.
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

// wrapExcept puts the ID of a session that does not get the publication before the data, between two
// NULs. JSON never begins with a NUL.
func wrapExcept(except string, data []byte) []byte {
	if except == "" {
		return data
	}
	return append([]byte("\x00"+strings.ReplaceAll(except, "\x00", "")+"\x00"), data...)
}

// unwrapExcept splits what wrapExcept has put together.
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
			go sub.Unsubscribe() // ends when the system has answered, which may wait for its handlers
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

// hear gives a broadcast to the server. It holds no lock meanwhile, because onBroadcast may make a
// broadcast of its own.
func (b *pubSubBroker) hear(raw []byte) {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if !closed && b.onBroadcast != nil {
		b.onBroadcast(bytes.Clone(raw))
	}
}
