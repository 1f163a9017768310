package live

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// MemoryOptions configures a MemoryBroker.
type MemoryOptions struct {
	// MaxTopics bounds how many topics have a history, besides those that have a
	// subscriber. The ones that were quiet for longest make room; a client that
	// comes back to one is told that there is a gap. 0: 10,000.
	MaxTopics int
}

// MemoryBroker is the Broker of one process, which a Server makes for itself when
// Options.Broker is nil. What it keeps is lost with the process; a topic's epoch is
// random, so that a client notices.
type MemoryBroker struct {
	max    int
	sink   Sink
	rules  Rules // the server's; nil: what was published with history is kept
	closed atomic.Bool

	mu        sync.Mutex // guards what follows; no other lock is taken under it
	histories map[string]*history
	quiet     int // of histories: those of topics without a subscriber
	listeners map[string][]func(from string, b []byte)
}

// history is one topic's.
type history struct {
	epoch string

	interest bool        // the topic has a subscriber; guarded by MemoryBroker.mu
	used     time.Time   // when it was last published to; guarded by MemoryBroker.mu
	gone     atomic.Bool // it has made room for another

	mu   sync.Mutex // held while a publication is numbered and delivered: one order for all
	last uint64
	ring []*Publication // oldest first
	size int            // of the ring, as the last publication said; 0: nothing was published
	age  time.Duration  // how long a publication is kept, likewise; 0: for ever
}

// NewMemoryBroker returns a broker for one process.
func NewMemoryBroker(o MemoryOptions) *MemoryBroker {
	setDefault(&o.MaxTopics, 10_000)
	return &MemoryBroker{
		max:       o.MaxTopics,
		histories: make(map[string]*history),
		listeners: make(map[string][]func(string, []byte)),
	}
}

// Start implements Broker.
func (b *MemoryBroker) Start(s Sink) {
	b.sink = s
	b.rules, _ = s.(Rules)
}

// Subscribe implements Broker.
func (b *MemoryBroker) Subscribe(_ context.Context, topic string) error {
	if b.closed.Load() {
		return ErrServerClosed
	}
	if !b.Keeps(topic) {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.findOrMake(topic); !h.interest {
		h.interest = true
		b.quiet--
	}
	return nil
}

// Unsubscribe implements Broker.
func (b *MemoryBroker) Unsubscribe(topic string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.histories[topic]; h != nil && h.interest {
		h.interest = false
		b.quiet++
	}
	return nil
}

// Publish implements Broker. It has delivered when it returns.
func (b *MemoryBroker) Publish(_ context.Context, topic string, data []byte, o PublishOptions) (Position, error) {
	if b.closed.Load() {
		return Position{}, ErrServerClosed
	}
	p := &Publication{Topic: topic, Data: data, Time: time.Now(), Except: o.Except}
	if o.History <= 0 {
		b.sink.Deliver(p)
		return Position{}, nil
	}
	h := b.lock(topic)
	defer h.mu.Unlock()
	h.last++
	p.Position, p.Prev = Position{h.epoch, h.last}, h.last-1
	h.ring = append(h.ring, p)
	h.size, h.age = o.History, o.HistoryAge
	h.trim(p.Time)
	b.sink.Deliver(p)
	return p.Position, nil
}

// lock returns the topic's history, made if need be, with its lock held.
func (b *MemoryBroker) lock(topic string) *history {
	for {
		b.mu.Lock()
		h := b.findOrMake(topic)
		h.used = time.Now()
		b.mu.Unlock()
		h.mu.Lock()
		if !h.gone.Load() {
			return h
		}
		h.mu.Unlock()
	}
}

// trim drops what the history need not keep; mu is held.
func (h *history) trim(now time.Time) {
	drop := max(len(h.ring)-h.size, 0)
	for h.age > 0 && drop < len(h.ring) && now.Sub(h.ring[drop].Time) > h.age {
		drop++
	}
	if drop > 0 {
		n := copy(h.ring, h.ring[drop:])
		clear(h.ring[n:])
		h.ring = h.ring[:n]
	}
}

// Close implements Broker.
func (b *MemoryBroker) Close(context.Context) error {
	b.closed.Store(true)
	return nil
}

// Keeps implements Recoverer.
func (b *MemoryBroker) Keeps(topic string) bool {
	if b.rules != nil {
		return b.rules.TopicOptions(topic).History > 0
	}
	return b.find(topic) != nil
}

// Last implements Recoverer.
func (b *MemoryBroker) Last(_ context.Context, topic string) (Position, error) {
	if b.closed.Load() {
		return Position{}, ErrServerClosed
	}
	h := b.lock(topic)
	defer h.mu.Unlock()
	return Position{h.epoch, h.last}, nil
}

// Read implements Recoverer.
func (b *MemoryBroker) Read(_ context.Context, topic string, after, upto uint64, limit int) (Page, error) {
	if b.closed.Load() {
		return Page{}, ErrServerClosed
	}
	h := b.find(topic)
	if h == nil {
		return Page{}, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trim(time.Now())
	first := h.last + 1
	if len(h.ring) > 0 {
		first = h.ring[0].Offset
	}
	page := Page{Epoch: h.epoch, Upto: h.last, Complete: after+1 >= first && after <= h.last}
	// Offsets follow one another without a hole.
	from := min(max(after+1, first)-first, uint64(len(h.ring)))
	to := min(max(upto+1, first)-first, uint64(len(h.ring)))
	if to <= from {
		return page, nil
	}
	if to-from > uint64(limit) {
		to = from + uint64(limit)
		page.Upto = h.ring[to-1].Offset
	}
	page.Publications = slices.Clone(h.ring[from:to])
	return page, nil
}

// Tail implements Recoverer.
func (b *MemoryBroker) Tail(_ context.Context, topic string, limit int) (Page, error) {
	if b.closed.Load() {
		return Page{}, ErrServerClosed
	}
	h := b.find(topic)
	if h == nil {
		return Page{}, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trim(time.Now())
	from := max(len(h.ring)-limit, 0)
	return Page{Epoch: h.epoch, Upto: h.last, Complete: true, Publications: slices.Clone(h.ring[from:])}, nil
}

// Broadcast implements Bus. There is nobody else.
func (b *MemoryBroker) Broadcast(_ context.Context, kind string, data []byte) error {
	if b.closed.Load() {
		return ErrServerClosed
	}
	b.mu.Lock()
	fs := b.listeners[kind]
	b.mu.Unlock()
	for _, f := range fs {
		f("", data)
	}
	return nil
}

// OnBroadcast implements Bus.
func (b *MemoryBroker) OnBroadcast(kind string, f func(from string, data []byte)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners[kind] = append(b.listeners[kind], f)
}

func (b *MemoryBroker) find(topic string) *history {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.histories[topic]
}

// findOrMake returns the topic's history; mu is held.
func (b *MemoryBroker) findOrMake(topic string) *history {
	h := b.histories[topic]
	if h == nil {
		b.makeRoom()
		h = &history{epoch: newEpoch(), used: time.Now()}
		b.histories[topic] = h
		b.quiet++
	}
	return h
}

// makeRoom drops the histories that were quiet for longest, a tenth of them at a
// time so that it is seldom done, when there are too many; mu is held.
func (b *MemoryBroker) makeRoom() {
	if b.quiet < b.max {
		return
	}
	quiet := make([]string, 0, b.quiet)
	for topic, h := range b.histories {
		if !h.interest {
			quiet = append(quiet, topic)
		}
	}
	slices.SortFunc(quiet, func(one, other string) int {
		return b.histories[one].used.Compare(b.histories[other].used)
	})
	for _, topic := range quiet[:min(len(quiet), b.max/10+1)] {
		b.histories[topic].gone.Store(true)
		delete(b.histories, topic)
		b.quiet--
	}
}

// newEpoch returns a name that no other history has: 62 random bits.
func newEpoch() string { return strconv.FormatUint(rand.Uint64()>>2, 36) }
