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

	"github.com/livetopic/livetopic/live"
)

// lane is what deliveries of some topics come through.
type lane struct {
	messages chan *nats.Msg

	overflowed  atomic.Bool // lossy has topics
	mu          sync.Mutex  // guards lossy
	lossyTopics map[*interest]error
}

// laneSize is how many deliveries wait for a lane. A publication to a thousand
// sessions takes a quarter of a millisecond, so that is four seconds' worth; what comes
// when it is full is lost, and the server is told.
const laneSize = 16 << 10

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
	if l.lossyTopics == nil {
		l.lossyTopics = make(map[*interest]error)
	}
	l.lossyTopics[in] = cause
	l.overflowed.Store(true)
	l.mu.Unlock()
	h.broker.lost(in.topic, cause)
}

func (h *hub) endOverflow(l *lane) {
	l.mu.Lock()
	lossy := l.lossyTopics
	l.lossyTopics = nil
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
	if in == nil || in.sub.Load() != m.Sub || !in.hasSubscriber.Load() {
		return
	}
	b := h.broker
	if err := live.CheckData(m.Data); err != nil {
		b.sink.Lost(in.topic, fmt.Errorf("natsbroker: somebody published what is no message: %w", err))
		return
	}
	p := &live.Publication{Topic: in.topic, Data: m.Data}
	if len(m.Header) > 0 {
		p.Except = exceptOf(m.Header)
		if st := in.stream.Load(); st != nil && last(m.Header, headerStream) == st.config.Name {
			h.setPosition(in, st, p, m.Header)
		}
	}
	if p.Time.IsZero() {
		p.Time = time.Now()
	}
	b.sink.Deliver(p)
}

// setPosition gives a publication its setPosition in the history.
func (h *hub) setPosition(in *interest, st *stream, p *live.Publication, header nats.Header) {
	sequence, err := strconv.ParseUint(last(header, headerSequence), 10, 64)
	if err != nil || sequence == 0 {
		return
	}
	p.Time, _ = time.Parse(time.RFC3339Nano, last(header, headerTime))
	p.Prev, _ = strconv.ParseUint(last(header, headerPrevious), 10, 64)
	p.Offset = sequence
	if sequence <= in.newestOffset.Load() { // sent twice, or another stream of the same name
		st.requireComparison()
		h.broker.lost(in.topic, errBackwards)
	}
	in.newestOffset.Store(sequence)
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
