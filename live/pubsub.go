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
)

// FromPubSub makes a Broker of any messaging system, without history. A topic's subject is its
// name, in which what could be a pattern, an empty part or a control character is written as
// its bytes in hexadecimal, as in "chat.%3E" for the topic "chat.>": PubSub says what stays.
// What others publish to the subject is delivered too, if it is JSON; what is not is dropped,
// and the server told.
//
// The Broker is a Bus too, over the subject "__live.broadcast", which is no topic then:
// Publish and Subscribe refuse it with ErrInvalidTopic. Whoever else may publish to
// the messaging system can speak to all servers, and end sessions.
//
// Publish and Subscribe must be safe for concurrent use, and what is published must
// come back to the publisher's own subscriptions.
func FromPubSub(ps PubSub) Broker {
	return &pubSubBroker{
		ps:   ps,
		seed: maphash.MakeSeed(),
		subs: make(map[string]*pubSubTopic),
		bus:  pubSubBus{from: newEpoch(), handlers: make(map[string]func(string, []byte))},
	}
}

type pubSubBroker struct {
	ps   PubSub
	sink Sink
	bus  pubSubBus

	// Deliveries of one topic come one after another, also those of a subscription
	// that is ending and of the next.
	seed       maphash.Seed
	deliveries [64]sync.Mutex

	mu     sync.Mutex // guards what follows
	subs   map[string]*pubSubTopic
	closed bool
}

// pubSubTopic is one subscription at the messaging system, which may call its
// handler from several goroutines.
type pubSubTopic struct {
	mu   *sync.Mutex // held during a delivery; one of the broker's
	done atomic.Bool
	sub  Subscription // guarded by pubSubBroker.mu
}

func (b *pubSubBroker) Start(s Sink) {
	b.sink = s
	if len(b.bus.handlers) > 0 {
		b.listen()
	}
}

var errBusSubject = fmt.Errorf("%w: %q is for broadcasts", ErrInvalidTopic, busSubject)

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

func (b *pubSubBroker) receive(topic string, t *pubSubTopic, raw []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done.Load() {
		return
	}
	except, data := unwrapExcept(raw)
	if err := CheckData(data); err != nil {
		b.sink.Lost(topic, fmt.Errorf("live: somebody published what is no message: %w", err))
		return
	}
	b.sink.Deliver(&Publication{Topic: topic, Data: bytes.Clone(data), Time: time.Now(), Except: except})
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

func (b *pubSubBroker) Publish(ctx context.Context, topic string, data []byte, o PublishOptions) (Position, error) {
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
	closed := b.closed
	b.closed = true
	unsubscribe := b.silence()
	b.mu.Unlock()
	if closed {
		return nil
	}
	return errors.Join(unsubscribe(), b.ps.Close())
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
