package natsbroker

import (
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// hub has the topics that are subscribed at NATS: those with a subscriber here, and
// for a while those that had one. Deliveries come through a few lanes, each with one
// goroutine, and those of one topic through the same: in order, and without a
// goroutine for each topic.
type hub struct {
	broker  *Broker
	seed    maphash.Seed
	lanes   []lane
	stopped chan struct{}
	running sync.WaitGroup

	mu     sync.RWMutex         // guards topics
	topics map[string]*interest // by subject
}

// interest is one topic's subscription.
type interest struct {
	topic   string
	subject string
	stream  atomic.Pointer[stream] // nil: none covers the topic

	hasSubscriber atomic.Bool  // it has a subscriber here
	wantedUntil   atomic.Int64 // when it was last wanted, on the clock of package clock

	mu  sync.Mutex // held while it is subscribed or unsubscribed
	sub atomic.Pointer[nats.Subscription]

	newestOffset atomic.Uint64 // the newest offset that came
	checkpoint   atomic.Pointer[checkpoint]
	loss         lossCheck // answers that lie before these
}

// checkpoint says that a topic has nothing between an offset and a sequence of its
// stream: it is where the two were compared. What the stream drops up to there is
// nothing that a subscriber at the offset has missed.
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
	h.running.Go(h.sweep) // likewise
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

func (h *hub) find(subject string) *interest {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.topics[subject]
}

func (h *hub) subscribe(topic, subject string, stream *stream) error {
	h.mu.Lock()
	in := h.topics[subject]
	if in == nil {
		in = &interest{topic: topic, subject: subject}
		h.topics[subject] = in
	}
	in.stream.Store(stream) // another, if EnsureStream was called meanwhile
	in.hasSubscriber.Store(true)
	h.mu.Unlock()

	in.mu.Lock()
	defer in.mu.Unlock()
	if in.sub.Load() != nil {
		return nil
	}
	sub, err := h.broker.nc.ChanSubscribe(subject, h.laneOf(subject).messages)
	if err != nil {
		return fmt.Errorf("natsbroker: %w", unavailable(err))
	}
	in.sub.Store(sub)
	if h.broker.closed.Load() { // stop may have looked before
		in.sub.Store(nil)
		sub.Unsubscribe()
		return live.ErrServerClosed
	}
	return nil
}

func (h *hub) unsubscribe(subject string) {
	if in := h.find(subject); in != nil {
		in.wantedUntil.Store(clock.Now())
		in.hasSubscriber.Store(false)
	}
}

// sweep ends subscriptions of topics that nobody has wanted for a while.
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
