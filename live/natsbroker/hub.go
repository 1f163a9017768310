package natsbroker

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// hub holds the topics that are subscribed at NATS: the topics with a subscriber at this node,
// and for Options.Linger those that had one. Deliveries come through a few lanes, and each lane
// has one goroutine. All deliveries of a topic come through the same lane, so they stay in
// order and a topic needs no goroutine of its own.
type hub struct {
	broker  *Broker
	seed    maphash.Seed
	lanes   []lane
	stopped chan struct{}
	running sync.WaitGroup

	mu     sync.RWMutex         // guards topics
	topics map[string]*interest // by subject
}

// interest is the subscription of one topic.
type interest struct {
	topic   string
	subject string // of a keyed topic without the last token, which is the key
	keyed   bool
	stream  atomic.Pointer[stream] // nil: no stream covers the topic

	hasSubscriber atomic.Bool  // at this node
	wantedUntil   atomic.Int64 // when the last subscriber went, on the clock of package clock

	mu  sync.Mutex // held while it is subscribed or unsubscribed
	sub atomic.Pointer[nats.Subscription]

	newestOffset atomic.Uint64 // the offset of the latest delivery
	checkpoint   atomic.Pointer[checkpoint]
	loss         lossCheck // answers that are older than checkpoint or newestOffset
}

// checkpoint says that the topic has no message after an offset and up to a sequence of its
// stream. It is noted when the topic is compared with the stream. A subscriber at the offset
// misses nothing when the stream drops its messages up to that sequence.
type checkpoint struct {
	epoch            string
	offset, sequence uint64
}

func (h *hub) init(b *Broker, lanes int) {
	h.broker = b
	h.seed = maphash.MakeSeed()
	h.lanes = make([]lane, lanes)
	for i := range h.lanes {
		h.lanes[i].messages = make(chan *nats.Msg, laneSize)
	}
	h.topics = make(map[string]*interest)
	h.stopped = make(chan struct{})
}

func (h *hub) start() {
	for i := range h.lanes {
		h.running.Go(func() { h.run(&h.lanes[i]) }) // ends with stop
	}
	h.running.Go(h.sweep) // ends with stop
}

func (h *hub) stop() {
	close(h.stopped)
	h.running.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, in := range h.topics {
		in.unsubscribe()
	}
	clear(h.topics)
}

// findDelivered returns the topic that is delivered on a subject.
func (h *hub) findDelivered(subject string) *interest {
	if h.broker.isKeyed(subject) {
		subject = subject[:strings.LastIndexByte(subject, '.')]
	}
	return h.find(subject)
}

func (h *hub) find(subject string) *interest {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.topics[subject]
}

func (h *hub) subscribe(topic, subject string) error {
	h.mu.Lock()
	in := h.topics[subject]
	if in == nil {
		in = &interest{topic: topic, subject: subject, keyed: h.broker.isKeyed(subject)}
		h.topics[subject] = in
	}
	in.hasSubscriber.Store(true)
	h.mu.Unlock()
	h.assignStream(in) // after the topic is in the map, so EnsureStream misses no topic

	in.mu.Lock()
	defer in.mu.Unlock()
	if in.sub.Load() != nil {
		return nil
	}
	natsSubject := subject
	if in.keyed {
		natsSubject += ".*"
	}
	sub, err := h.broker.nc.ChanSubscribe(natsSubject, h.laneOf(subject).messages)
	if err != nil {
		return fmt.Errorf("natsbroker: %w", unavailable(err))
	}
	in.sub.Store(sub)
	if h.broker.closed.Load() { // stop may have run before this topic was in the map
		in.sub.Store(nil)
		sub.Unsubscribe()
		return broker.ErrServerClosed
	}
	return nil
}

// assignStreams gives a stream that was made or replaced to the topics that it covers, and
// another stream to the topics that it no longer covers.
func (h *hub) assignStreams(st *stream) {
	h.mu.RLock()
	all := slices.Collect(maps.Values(h.topics))
	h.mu.RUnlock()
	for _, in := range all { // not under the lock, since streams.of asks the application for its rules
		former := in.stream.Load()
		if former != nil && former.config.Name == st.config.Name || st.covers(h.tokensOf(in)) {
			h.assignStream(in)
		}
	}
}

func (h *hub) tokensOf(in *interest) string {
	if in.keyed {
		return strings.TrimPrefix(in.subject, h.broker.keyedSubject(""))
	}
	return strings.TrimPrefix(in.subject, h.broker.deliverySubject(""))
}

// assignStream gives a topic the stream that covers it. It looks again afterwards: EnsureStream
// may have assigned another stream in between, which must not be undone.
func (h *hub) assignStream(in *interest) {
	tokens := h.tokensOf(in)
	for {
		st := h.broker.streams.of(in.topic, tokens)
		in.stream.Store(st)
		if st == h.broker.streams.of(in.topic, tokens) {
			return
		}
	}
}

func (h *hub) unsubscribe(subject string) {
	if in := h.find(subject); in != nil {
		in.wantedUntil.Store(clock.Now())
		in.hasSubscriber.Store(false)
	}
}

// sweep ends the subscriptions of topics that have had no subscriber for Options.Linger.
func (h *hub) sweep() {
	linger := h.broker.opts.Linger
	for {
		select {
		case <-h.stopped:
			return
		case <-time.After(linger / 4):
		}
		h.broker.cache.dropOld()
		before := clock.Now() - int64(linger)
		var idle []*interest
		h.mu.Lock()
		for subject, in := range h.topics {
			if !in.hasSubscriber.Load() && in.wantedUntil.Load() < before {
				delete(h.topics, subject)
				idle = append(idle, in)
			}
		}
		h.mu.Unlock()
		for _, in := range idle {
			in.unsubscribe()
		}
	}
}

func (in *interest) unsubscribe() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if sub := in.sub.Swap(nil); sub != nil {
		sub.Unsubscribe()
	}
}
