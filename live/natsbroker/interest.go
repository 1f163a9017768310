package natsbroker

import (
	"fmt"
	"hash/maphash"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/broker"
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

	wanted atomic.Bool  // it has a subscriber here
	since  atomic.Int64 // when it was last wanted, on the clock of package clock

	mu  sync.Mutex // held while it is subscribed or unsubscribed
	sub atomic.Pointer[nats.Subscription]

	seen   atomic.Uint64 // the newest offset that came
	agreed atomic.Pointer[agreement]
	back   lasting // answers that lie before these
}

// agreement says that a topic has nothing between an offset and a sequence of its
// stream: it is where the two were compared. What the stream drops up to there is
// nothing that a subscriber at the offset has missed.
type agreement struct {
	epoch            string
	offset, sequence uint64
}

// lane is what deliveries of some topics come through.
type lane struct {
	messages chan *nats.Msg

	overflowed atomic.Bool // lossy has topics
	mu         sync.Mutex  // guards lossy
	lossy      map[*interest]error
}

// laneSize is how many deliveries wait for a lane. A publication to a thousand
// sessions takes a quarter of a millisecond, so that is four seconds' worth; what comes
// when it is full is lost, and the server is told.
const laneSize = 16 << 10

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
	in.wanted.Store(true)
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
		return broker.ErrServerClosed
	}
	return nil
}

func (h *hub) unsubscribe(subject string) {
	if in := h.find(subject); in != nil {
		in.since.Store(clock.Now())
		in.wanted.Store(false)
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
		h.broker.shelf.dropOld()
		before := clock.Now() - int64(linger)
		var idle []*interest
		h.mu.Lock()
		for subject, in := range h.topics {
			if !in.wanted.Load() && in.since.Load() < before {
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

func (h *hub) laneOf(subject string) *lane {
	return &h.lanes[maphash.String(h.seed, subject)%uint64(len(h.lanes))]
}

func (h *hub) run(l *lane) {
	for {
		select {
		case <-h.stopped:
			return
		case m := <-l.messages:
			h.deliver(m)
			if l.overflowed.Load() && len(l.messages) <= cap(l.messages)/2 {
				h.endOverflow(l)
			}
		}
	}
}

// overflow takes note that a delivery did not fit in its lane. NATS says so of a topic's
// first only; how many followed is known when the lane has room again.
func (h *hub) overflow(in *interest, cause error) {
	l := h.laneOf(in.subject)
	l.mu.Lock()
	if l.lossy == nil {
		l.lossy = make(map[*interest]error)
	}
	l.lossy[in] = cause
	l.overflowed.Store(true)
	l.mu.Unlock()
	h.broker.lost(in.topic, cause)
}

func (h *hub) endOverflow(l *lane) {
	l.mu.Lock()
	lossy := l.lossy
	l.lossy = nil
	l.overflowed.Store(false)
	l.mu.Unlock()
	for in, cause := range lossy {
		h.broker.lost(in.topic, cause)
	}
}

// The headers of a message that a stream sends on, and of ours.
const (
	headerSequence = "Nats-Sequence"
	headerPrevious = "Nats-Last-Sequence"
	headerTime     = "Nats-Time-Stamp"
	headerStream   = "Nats-Stream"
	headerExcept   = "Live-Except"
)

// deliver hands a message to the server.
func (h *hub) deliver(m *nats.Msg) {
	in := h.find(m.Subject)
	if in == nil || in.sub.Load() != m.Sub || !in.wanted.Load() {
		return
	}
	b := h.broker
	if err := broker.CheckData(m.Data); err != nil {
		b.sink.Lost(in.topic, fmt.Errorf("natsbroker: somebody published what is no message: %w", err))
		return
	}
	p := &broker.Publication{Topic: in.topic, Data: m.Data}
	if len(m.Header) > 0 {
		p.Except = exceptOf(m.Header)
		if st := in.stream.Load(); st != nil && last(m.Header, headerStream) == st.config.Name {
			h.place(in, st, p, m.Header)
		}
	}
	if p.Time.IsZero() {
		p.Time = time.Now()
	}
	b.sink.Deliver(p)
}

// place gives a publication its place in the history.
func (h *hub) place(in *interest, st *stream, p *broker.Publication, header nats.Header) {
	sequence, err := strconv.ParseUint(last(header, headerSequence), 10, 64)
	if err != nil || sequence == 0 {
		return
	}
	p.Time, _ = time.Parse(time.RFC3339Nano, last(header, headerTime))
	p.Prev, _ = strconv.ParseUint(last(header, headerPrevious), 10, 64)
	p.Offset = sequence
	if sequence <= in.seen.Load() { // sent twice, or another stream of the same name
		st.suspect()
		h.broker.lost(in.topic, errBackwards)
	}
	in.seen.Store(sequence)
	p.Epoch = st.saw(sequence, p.Time)
}

// last returns the last value of a header: what the stream itself has set, whatever
// a publisher wrote there.
func last(h nats.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// A session that is left out travels in a header, which holds no line break and no
// blank at its ends.
func setExcept(m *nats.Msg, except string) {
	if except != "" {
		m.Header.Set(headerExcept, url.PathEscape(except))
	}
}

func exceptOf(h nats.Header) string {
	id, _ := url.PathUnescape(last(h, headerExcept))
	return id
}
