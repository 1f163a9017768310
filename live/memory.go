package live

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// MemoryOptions configures a MemoryBroker. Values below 0 count as 0.
type MemoryOptions struct {
	// MaxTopics bounds how many topics without a subscriber have a history. Beyond that, the
	// histories that were neither written nor read for the longest time are dropped. A
	// client that comes back to such a topic is told that there is a gap. 0: 10,000.
	MaxTopics int

	// MaxBytes bounds the bytes of all histories together: their data, and 200 bytes for
	// each publication; a key counts twice. Histories of topics with subscribers count too.
	// Beyond that, the histories that were neither written nor read for the longest time are
	// dropped. A client that reads on in such a history is told that there is a gap. One topic
	// takes at most half of MaxBytes, but its newest publication is kept whatever its size. A
	// keyed topic drops no values: Publish returns ErrTooManyKeys. 0: 256 MiB.
	MaxBytes int
}

// MemoryBroker is the Broker of one process. A Server makes a MemoryBroker for itself when
// Options.Broker is nil. A MemoryBroker serves one Server: New panics for a second one. Its
// histories are lost when the process ends. Each MemoryBroker has a random epoch, so a client
// that comes back to the next process is told that there is a gap.
type MemoryBroker struct {
	options MemoryOptions
	epoch   string
	sink    broker.Sink
	rules   broker.Rules // of the server; nil: a topic keeps history if it was published with history
	started atomic.Bool
	closed  atomic.Bool

	onBroadcast func(data []byte) // not changed after Start

	mu        sync.Mutex // guards the fields below; taken under history.mu
	histories map[string]*history
	byUse     list.List // the histories, the least recently used first
	unwatched int       // how many histories belong to topics without a subscriber
	bytes     int       // of all histories
	forgotten uint64    // the greatest number of all dropped histories of topics without a subscriber
	ids       publicationIDs

	// wanted has the topics that keep history and have a subscriber. If such a topic has no
	// history now, the number of its next publication follows this value.
	wanted map[string]uint64
}

// history holds the publications of one topic. It begins with the topic's first publication.
type history struct {
	topic string

	// mu guards the fields from kept to expires. It is held while a publication is numbered and
	// delivered, so that all subscribers see one order.
	mu      sync.Mutex
	kept    []*broker.Publication // oldest first
	size    int                   // how many publications to keep; the newest publication said so
	age     time.Duration         // how long to keep them; 0: for ever
	keys    *keyTable             // of a keyed topic, in place of kept; nil: the topic is not keyed
	expires *time.Timer           // for the next value that gets too old; nil: there is none

	// Guarded by MemoryBroker.mu:
	place *list.Element // in MemoryBroker.byUse; nil: the history was dropped
	bytes int           // of kept or keys; written with both locks held
	last  uint64        // number of the newest publication; written with both locks held
}

// publicationBytes is the memory that a publication takes besides its data: the struct, its
// pointers in the history and in the feed, and the rounding of the allocator.
const publicationBytes = 200

// NewMemoryBroker returns a broker for one process.
func NewMemoryBroker(o MemoryOptions) *MemoryBroker {
	setDefault(&o.MaxTopics, 10_000)
	setDefault(&o.MaxBytes, 256<<20)
	return &MemoryBroker{
		options:   o,
		epoch:     newEpoch(),
		histories: make(map[string]*history),
		wanted:    make(map[string]uint64),
	}
}

// Start implements broker.Broker.
func (b *MemoryBroker) Start(s broker.Sink) {
	if b.started.Swap(true) {
		panic("live: a MemoryBroker serves one Server; make another for this one")
	}
	b.sink = s
	b.rules, _ = s.(broker.Rules)
}

// Subscribe implements broker.Broker.
func (b *MemoryBroker) Subscribe(_ context.Context, topic string) error {
	if b.closed.Load() {
		return ErrServerClosed
	}
	if !b.Keeps(topic) {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.wanted[topic]; known {
		return nil
	}
	b.wanted[topic] = b.forgotten
	if b.histories[topic] != nil {
		b.unwatched--
	}
	return nil
}

// Unsubscribe implements broker.Broker.
func (b *MemoryBroker) Unsubscribe(topic string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	start, known := b.wanted[topic]
	switch {
	case !known:
	case b.histories[topic] != nil:
		b.unwatched++
	default: // its history was dropped, but its next numbers must be greater than those it had
		b.forgotten = max(b.forgotten, start)
	}
	delete(b.wanted, topic)
	return nil
}

// Publish implements broker.Broker. When Publish returns nil, the publication was delivered. The
// error is ErrServerClosed, or wraps ErrTooManyKeys.
func (b *MemoryBroker) Publish(_ context.Context, topic string, data []byte, o broker.PublishOptions) (Position, error) {
	if b.closed.Load() {
		return Position{}, ErrServerClosed
	}
	p := &broker.Publication{Topic: topic, Data: data, Time: time.Now(), Except: o.Except, Key: o.Key, Removed: o.Remove, TraceParent: o.TraceParent}
	if o.History <= 0 {
		if b.isRepeated(topic, o.ID) {
			return Position{}, nil
		}
		b.sink.Deliver(p)
		return Position{}, nil
	}
	h, done, err := b.number(p, &o)
	defer h.mu.Unlock()
	if done || err != nil {
		return p.Position, err
	}
	h.size, h.age = o.History, o.HistoryAge
	if h.keys != nil {
		b.putKey(h, p)
	} else {
		h.kept = append(h.kept, p)
		b.account(h, len(data)+publicationBytes-h.trim(p.Time))
	}
	b.sink.Deliver(p)
	return p.Position, nil
}

// number gives a publication its position, and returns its topic's history. The caller must unlock
// the history, also after an error. done says that there is nothing to publish, in two cases. A
// publication with the same ID was made before: the position is then that of the earlier publication.
// Or the publication removes a key that has no value. The error wraps ErrTooManyKeys.
func (b *MemoryBroker) number(p *broker.Publication, o *broker.PublishOptions) (h *history, done bool, err error) {
	for {
		b.mu.Lock()
		h := b.histories[p.Topic]
		if h == nil {
			h = b.begin(p.Topic)
		}
		b.mu.Unlock()
		h.mu.Lock()
		b.mu.Lock()
		if h.place != nil {
			defer b.mu.Unlock()
			if p.Position, done = b.ids.find(p.Topic, o.ID); done {
				return h, true, nil
			}
			b.byUse.MoveToBack(h.place)
			b.makeKeyed(h, o.Keyed)
			if o.Keyed {
				if done, err = b.prepareKey(h, p, o.History); done || err != nil {
					return h, done, err
				}
			}
			b.stamp(h, p)
			b.ids.add(p.Topic, o.ID, p.Position)
			return h, false, nil
		}
		b.mu.Unlock()
		h.mu.Unlock() // the history was dropped meanwhile: try again with a new history
	}
}

// stamp gives a publication the next position; both locks are held.
func (b *MemoryBroker) stamp(h *history, p *broker.Publication) {
	p.Prev = h.last
	if h.keys != nil {
		p.Prev = 0
		if before := h.keys.find(p.Key); before != nil {
			p.Prev = before.Offset
		}
	}
	h.last++
	p.Position = Position{Epoch: b.epoch, Offset: h.last}
}

// makeKeyed makes a history a table, or a plain history again, as the newest publication says. If that
// is a change, all older publications are dropped. Both locks are held.
func (b *MemoryBroker) makeKeyed(h *history, keyed bool) {
	if keyed == (h.keys != nil) {
		return
	}
	b.bytes -= h.bytes
	h.bytes, h.kept, h.keys = 0, nil, nil
	if keyed {
		h.keys = newKeyTable(h.last)
	}
}

// prepareKey checks whether a publication of a keyed topic can be made. done says that the publication
// removes a key that has no value, so there is nothing to publish. A key that the table does not know
// is removed all the same once the table has forgotten removals: clients may still have that key.
// Both locks are held. The error wraps ErrTooManyKeys.
func (b *MemoryBroker) prepareKey(h *history, p *broker.Publication, most int) (done bool, err error) {
	known := h.keys.hasValue(p.Key)
	switch {
	case p.Removed && !known && (h.keys.forgottenUpto == 0 || h.keys.find(p.Key) != nil):
		p.Position = Position{Epoch: b.epoch, Offset: h.last}
		return true, nil
	case p.Removed:
	case !known && h.keys.keys >= most:
		return false, fmt.Errorf("%w: %d; see TopicOptions.History", ErrTooManyKeys, most)
	case !h.keys.makeSpace(p, b.options.MaxBytes/2):
		return false, fmt.Errorf("%w: their values take %d bytes; see MemoryOptions.MaxBytes", ErrTooManyKeys, h.keys.bytes)
	}
	return false, nil
}

// putKey makes a publication the newest of its key; h.mu is held.
func (b *MemoryBroker) putKey(h *history, p *broker.Publication) {
	h.keys.put(p)
	b.account(h, h.keys.bytes-h.bytes)
	if h.age > 0 && h.expires == nil {
		h.expires = time.AfterFunc(h.age, func() { b.expire(h) })
	}
}

// expire removes the keys of a topic whose value is too old, as if the application had removed
// them. So clients learn of it as of any other removal.
func (b *MemoryBroker) expire(h *history) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expires = nil
	if b.closed.Load() || h.age <= 0 || h.keys == nil {
		return
	}
	now := time.Now()
	for _, key := range h.keys.olderThan(h.age, now) {
		p := &broker.Publication{Topic: h.topic, Time: now, Key: key, Removed: true}
		b.mu.Lock()
		there := h.place != nil // else the whole history was dropped
		if there {
			b.stamp(h, p)
		}
		b.mu.Unlock()
		if !there {
			return
		}
		h.keys.put(p)
		b.sink.Deliver(p)
	}
	b.account(h, h.keys.bytes-h.bytes)
	if oldest, ok := h.keys.oldest(); ok {
		h.expires = time.AfterFunc(max(h.age-now.Sub(oldest), h.age/expiryParts), func() { b.expire(h) })
	}
}

// expiryParts bounds how often a topic is searched for values that are too old: 16 times within
// HistoryAge. So a value may be kept for a sixteenth of HistoryAge longer. More searches would cost a
// large topic much, because each visits all keys.
const expiryParts = 16

// isRepeated reports whether a publication with the ID was made before. It notes the ID.
func (b *MemoryBroker) isRepeated(topic, id string) bool {
	if id == "" {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, repeated := b.ids.find(topic, id)
	if !repeated {
		b.ids.add(topic, id, Position{})
	}
	return repeated
}

// begin makes a topic's history; mu is held.
func (b *MemoryBroker) begin(topic string) *history {
	h := &history{topic: topic, last: b.startOf(topic)}
	if _, known := b.wanted[topic]; !known {
		if b.unwatched >= b.options.MaxTopics {
			b.forgetUnwatched(b.options.MaxTopics/10 + 1)
		}
		b.unwatched++
	}
	h.place = b.byUse.PushBack(h)
	b.histories[topic] = h
	return h
}

// startOf is for a topic without a history. The topic's next number follows the number that startOf
// returns. All earlier publications of the topic had this number or a smaller one. mu is held.
func (b *MemoryBroker) startOf(topic string) uint64 {
	if start, known := b.wanted[topic]; known {
		return start
	}
	return b.forgotten
}

// forgetUnwatched drops the least recently used histories of topics without a subscriber: as many as
// count says. mu is held. begin has a tenth of MaxTopics dropped at a time, so that this walk is
// seldom made.
func (b *MemoryBroker) forgetUnwatched(count int) {
	for e := b.byUse.Front(); e != nil && count > 0; {
		h := e.Value.(*history)
		e = e.Next()
		if _, known := b.wanted[h.topic]; !known {
			b.forget(h)
			count--
		}
	}
}

// forget drops a history; mu is held.
func (b *MemoryBroker) forget(h *history) {
	b.byUse.Remove(h.place)
	h.place = nil
	delete(b.histories, h.topic)
	b.bytes -= h.bytes
	last := h.last
	if h.keys != nil {
		last++ // a client at h.last is then told of a gap: it does not know that all keys are gone
	}
	if _, known := b.wanted[h.topic]; !known {
		b.unwatched--
		b.forgotten = max(b.forgotten, last)
		return
	}
	b.wanted[h.topic] = last
	if h.keys != nil {
		go b.sink.Lost(h.topic, errTableDropped) // ends at once; it takes locks that come before mu
	}
}

// errTableDropped tells the server that its subscribers have keys that the broker no longer has. The
// broker would not remove these keys when they are too old, and would not count them. So the server
// must tell the subscribers that they are gone.
var errTableDropped = errors.New("live: the keys of a topic were dropped for want of space; see MemoryOptions.MaxBytes")

// account notes by how many bytes a history has grown, and makes space. If this history then takes
// more than half of MaxBytes, account drops its oldest publications. If all histories together take
// more than MaxBytes, account drops other histories, the least recently used first. h.mu is held.
func (b *MemoryBroker) account(h *history, grown int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h.place == nil {
		return
	}
	drop := 0
	for own := h.bytes + grown; own > b.options.MaxBytes/2 && drop < len(h.kept)-1; drop++ {
		size := len(h.kept[drop].Data) + publicationBytes
		own -= size
		grown -= size
	}
	h.drop(drop)
	h.bytes += grown
	b.bytes += grown
	for e := b.byUse.Front(); e != nil && b.bytes > b.options.MaxBytes; {
		other := e.Value.(*history)
		e = e.Next()
		if other != h {
			b.forget(other)
		}
	}
}

// trim drops the publications that are too many or too old, and returns how many bytes they took.
// mu is held.
func (h *history) trim(now time.Time) (bytes int) {
	drop := max(len(h.kept)-h.size, 0)
	for h.age > 0 && drop < len(h.kept) && now.Sub(h.kept[drop].Time) > h.age {
		drop++
	}
	for _, p := range h.kept[:drop] {
		bytes += len(p.Data) + publicationBytes
	}
	h.drop(drop)
	return bytes
}

// drop drops the n oldest publications. The other publications stay where they are in memory. A
// later append moves them when it needs more space.
func (h *history) drop(n int) {
	clear(h.kept[:n])
	h.kept = h.kept[n:]
}

// Close implements broker.Broker.
func (b *MemoryBroker) Close(context.Context) error {
	b.closed.Store(true)
	return nil
}

// Keeps implements broker.Recoverer.
func (b *MemoryBroker) Keeps(topic string) bool {
	if b.rules != nil {
		size, _ := b.rules.History(topic)
		return size > 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.histories[topic] != nil
}

// Last implements broker.Recoverer.
func (b *MemoryBroker) Last(_ context.Context, topic string) (Position, error) {
	if b.closed.Load() {
		return Position{}, ErrServerClosed
	}
	h, start := b.read(topic)
	if h == nil {
		return Position{Epoch: b.epoch, Offset: start}, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return Position{Epoch: b.epoch, Offset: h.last}, nil
}

// read returns the history of a topic, and marks it as used. If the topic has no history, read
// returns nil and startOf(topic).
func (b *MemoryBroker) read(topic string) (h *history, start uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h = b.histories[topic]
	if h == nil {
		return nil, b.startOf(topic)
	}
	b.byUse.MoveToBack(h.place)
	return h, 0
}

// Read implements broker.Recoverer.
func (b *MemoryBroker) Read(_ context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	if b.closed.Load() {
		return broker.Page{}, ErrServerClosed
	}
	h, start := b.read(topic)
	if h == nil {
		return broker.Page{Epoch: b.epoch, Upto: start, Complete: after == start}, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keys != nil {
		return b.readKeys(h, after, upto, limit), nil
	}
	b.account(h, -h.trim(time.Now()))
	first := h.last + 1
	if len(h.kept) > 0 {
		first = h.kept[0].Offset
	}
	page := broker.Page{Epoch: b.epoch, Upto: h.last, Complete: after+1 >= first && after <= h.last}
	// Offsets follow one another without a hole.
	from := min(max(after+1, first)-first, uint64(len(h.kept)))
	to := min(max(upto+1, first)-first, uint64(len(h.kept)))
	if to <= from {
		return page, nil
	}
	if to-from > uint64(limit) {
		to = from + uint64(limit)
		page.Upto = h.kept[to-1].Offset
	}
	page.Publications = slices.Clone(h.kept[from:to])
	return page, nil
}

// readKeys is Read for a keyed topic; h.mu is held.
func (b *MemoryBroker) readKeys(h *history, after, upto uint64, limit int) broker.Page {
	page := broker.Page{Epoch: b.epoch, Upto: h.last, Complete: after >= h.keys.forgottenUpto && after <= h.last}
	page.Publications = h.keys.between(after, upto)
	if len(page.Publications) > limit {
		page.Publications = page.Publications[:limit]
		page.Upto = page.Publications[limit-1].Offset
	}
	return page
}

// Tail implements broker.Recoverer.
func (b *MemoryBroker) Tail(_ context.Context, topic string, limit int) (broker.Page, error) {
	if b.closed.Load() {
		return broker.Page{}, ErrServerClosed
	}
	h, start := b.read(topic)
	if h == nil {
		return broker.Page{Epoch: b.epoch, Upto: start, Complete: true}, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keys != nil {
		return broker.Page{Epoch: b.epoch, Upto: h.last, Complete: true, Publications: h.keys.values(limit)}, nil
	}
	b.account(h, -h.trim(time.Now()))
	from := max(len(h.kept)-limit, 0)
	return broker.Page{Epoch: b.epoch, Upto: h.last, Complete: true, Publications: slices.Clone(h.kept[from:])}, nil
}

// InProcess implements broker.InProcess.
func (b *MemoryBroker) InProcess() bool { return true }

// Broadcast implements broker.Bus. Its only receiver is its own server.
func (b *MemoryBroker) Broadcast(_ context.Context, data []byte) error {
	if b.closed.Load() {
		return ErrServerClosed
	}
	if b.onBroadcast != nil {
		b.onBroadcast(data)
	}
	return nil
}

// OnBroadcast implements broker.Bus.
func (b *MemoryBroker) OnBroadcast(f func(data []byte)) { b.onBroadcast = f }

// newEpoch returns a name that no other history has: 62 random bits.
func newEpoch() string { return strconv.FormatUint(rand.Uint64()>>2, 36) }
