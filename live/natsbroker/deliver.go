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
)

// lane carries the deliveries of some topics, in order.
type lane struct {
	messages chan *nats.Msg

	overflowed  atomic.Bool // lossyTopics is not empty
	mu          sync.Mutex  // guards lossyTopics
	lossyTopics map[*interest]error
}

// laneSize is how many deliveries may wait in a lane. A publication to a thousand sessions
// takes a quarter of a millisecond, so this is the work of four seconds. When the lane is full
// the next deliveries are lost, and the live server is told.
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

// overflow notes that a delivery had no space in its lane. NATS reports only the first of a
// topic's lost deliveries. So the live server is told again when the lane has space: see
// endOverflow.
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

// The headers of messages that a stream republishes, and our own headers.
const (
	headerSequence = "Nats-Sequence"
	headerPrevious = "Nats-Last-Sequence"
	headerTime     = "Nats-Time-Stamp"
	headerStream   = "Nats-Stream"
	headerSubject  = "Nats-Subject"
	headerMarker   = "Nats-Marker-Reason"
	headerExcept   = "Live-Except"
	headerTrace    = "traceparent" // as W3C Trace Context and OpenTelemetry name it
)

// deliver hands a message to the live server.
func (h *hub) deliver(m *nats.Msg) {
	in := h.findDelivered(m.Subject)
	if in == nil || in.sub.Load() != m.Sub || !in.hasSubscriber.Load() {
		return
	}
	b := h.broker
	if err := broker.CheckData(m.Data); err != nil {
		b.sink.Lost(in.topic, fmt.Errorf("natsbroker: a message is not a publication: %w", err))
		return
	}
	if !in.keyed && isRemoval(m.Header) {
		return // see appendPublication
	}
	p := &broker.Publication{Topic: in.topic, Data: m.Data}
	if in.keyed {
		p.Key, _ = keyOf(m.Subject)
		p.Removed = isRemoval(m.Header)
	}
	if len(m.Header) > 0 {
		p.Except = exceptOf(m.Header)
		p.TraceParent = last(m.Header, headerTrace)
		if st := in.stream.Load(); st != nil && last(m.Header, headerStream) == st.config.Name {
			h.setPosition(in, st, p, m.Header)
			if p.Removed {
				st.noteRemoval(h.tokensOf(in), p.Key)
			}
		}
	}
	if p.Time.IsZero() {
		p.Time = time.Now()
	}
	b.sink.Deliver(p)
}

// setPosition sets the position, the time and the previous offset that the stream gave a
// publication.
func (h *hub) setPosition(in *interest, st *stream, p *broker.Publication, header nats.Header) {
	sequence, err := strconv.ParseUint(last(header, headerSequence), 10, 64)
	if err != nil || sequence == 0 {
		return
	}
	p.Time, _ = time.Parse(time.RFC3339Nano, last(header, headerTime))
	p.Prev, _ = strconv.ParseUint(last(header, headerPrevious), 10, 64)
	p.Offset = sequence
	if sequence <= in.newestOffset.Load() { // it was sent twice, or comes from another stream of the same name
		st.requireComparison()
		h.broker.lost(in.topic, errBackwards)
	}
	in.newestOffset.Store(sequence)
	p.Epoch = st.saw(sequence, p.Time)
}

// last returns the last value of a header. A publisher may set the same header, but the stream
// adds its own value after that.
func last(h nats.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// The ID of the session that does not get the publication travels in a header. It is escaped,
// since a header holds no line breaks, and no blanks at its ends.
func setExcept(m *nats.Msg, except string) {
	if except != "" {
		m.Header.Set(headerExcept, url.PathEscape(except))
	}
}

func setTrace(m *nats.Msg, traceParent string) {
	if traceParent != "" {
		m.Header.Set(headerTrace, traceParent)
	}
}

func exceptOf(h nats.Header) string {
	id, _ := url.PathUnescape(last(h, headerExcept))
	return id
}
