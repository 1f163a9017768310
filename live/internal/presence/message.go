package presence

import (
	"encoding/binary"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// Incarnation names an owner. It is random for each start of a server.
type Incarnation [16]byte

// kind says what a message is.
type kind byte

const (
	kindDelta kind = 'd' // changes of the owner's entries
	kindBeat  kind = 'b' // the owner is there
	kindHello kind = 'h' // a server has started, and wants everybody's beat
	kindWant  kind = 'w' // a server wants deltas again, or a chunk
	kindChunk kind = 'c' // some of the owner's entries
)

// version is the first byte of a message. Messages of another version are ignored.
const version = 1

const (
	// MaxMessage is about how many bytes a message has at most. Every messaging system takes
	// 32 KB. A message that is lost does not cost much then.
	MaxMessage = 32 << 10

	// MaxEntry bounds the bytes of the topic, the member ID and the info of one entry together.
	// With half of MaxMessage, an entry always fits in a message.
	MaxEntry = 16 << 10

	// maxLinger bounds how long a server that shuts down may have its entries shown. Clients come
	// back sooner, and a wrong message must not keep members for hours.
	maxLinger = time.Minute
)

// message is what servers tell each other.
type message struct {
	kind kind
	from Incarnation

	seq    uint64        // of a delta: its number; of a beat and a chunk: the number of the newest delta
	count  uint64        // of a beat: how many entries the owner has
	linger time.Duration // of a beat and a delta: how long entries that end are still shown; 0: for the grace

	to    Incarnation // of a want: the owner that is asked
	since uint64      // of a want: the number of the first delta that is wanted; 0: a chunk is wanted

	after uint64 // of a want and a chunk: the chunk begins after the entry with this ref
	upto  uint64 // of a chunk: it has all entries up to this ref
	last  bool   // of a chunk: no entries follow
	pause bool   // of a chunk: the next chunk is not sent until a server wants it

	ops []op // of a delta and a chunk
}

// op is one change of an entry.
type op struct {
	code   opCode
	ref    uint64
	topic  string // only with opEnter
	member string // ID of the member; only with opEnter
	info   []byte // nil: no info; never with opLeave
}

type opCode byte

const (
	opEnter  opCode = 1
	opChange opCode = 2
	opLeave  opCode = 3
)

var (
	errJunk    = errors.New("presence: this is no message")
	errVersion = errors.New("presence: the message is of another version")
)

func (m *message) encode() []byte {
	b := append(make([]byte, 0, 64), version, byte(m.kind))
	b = append(b, m.from[:]...)
	switch m.kind {
	case kindDelta:
		b = binary.AppendUvarint(b, m.seq)
		b = binary.AppendUvarint(b, uint64(m.linger/time.Millisecond))
	case kindBeat:
		b = binary.AppendUvarint(b, m.seq)
		b = binary.AppendUvarint(b, m.count)
		b = binary.AppendUvarint(b, uint64(m.linger/time.Millisecond))
	case kindWant:
		b = append(b, m.to[:]...)
		b = binary.AppendUvarint(b, m.since)
		b = binary.AppendUvarint(b, m.after)
	case kindChunk:
		b = binary.AppendUvarint(b, m.seq)
		b = binary.AppendUvarint(b, m.after)
		b = binary.AppendUvarint(b, m.upto)
		b = append(b, flag(m.last)|flag(m.pause)<<1)
	}
	for i := range m.ops {
		b = m.ops[i].append(b)
	}
	return b
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

func (o *op) append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, byte(o.code)), o.ref)
	if o.code == opEnter {
		b = appendText(appendText(b, o.topic), o.member)
	}
	if o.code != opLeave {
		b = appendText(b, o.info)
	}
	return b
}

// size is how many bytes append adds at most.
func (o *op) size() int {
	return 1 + 4*binary.MaxVarintLen64 + len(o.topic) + len(o.member) + len(o.info)
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// decode reads a message, which may be junk. The result shares no memory with b.
func decode(b []byte) (*message, error) {
	if len(b) > 0 && b[0] != version {
		return nil, errVersion
	}
	r := reader{rest: b}
	r.byte()
	m := &message{kind: kind(r.byte()), from: r.incarnation()}
	switch m.kind {
	case kindDelta:
		m.seq, m.linger = r.number(), r.linger()
	case kindBeat:
		m.seq, m.count, m.linger = r.number(), r.number(), r.linger()
	case kindHello:
	case kindWant:
		m.to, m.since, m.after = r.incarnation(), r.number(), r.number()
	case kindChunk:
		m.seq, m.after, m.upto = r.number(), r.number(), r.number()
		flags := r.byte()
		m.last, m.pause = flags&1 != 0, flags&2 != 0
	default:
		return nil, errJunk
	}
	if m.kind == kindDelta || m.kind == kindChunk {
		for len(r.rest) > 0 && !r.failed {
			m.ops = append(m.ops, r.op())
		}
	}
	if r.failed || len(r.rest) > 0 || !m.makesSense() {
		return nil, errJunk
	}
	return m, nil
}

// makesSense checks the rules that the receiver of a message relies on.
func (m *message) makesSense() bool {
	switch m.kind {
	case kindDelta:
		return m.seq > 0
	case kindChunk:
		before := m.after
		for i := range m.ops {
			o := &m.ops[i]
			if o.code != opEnter || o.ref <= before || o.ref > m.upto {
				return false
			}
			before = o.ref
		}
		return m.after <= m.upto
	}
	return true
}

// reader reads a message.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.failed = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) incarnation() (inc Incarnation) {
	copy(inc[:], r.take(uint64(len(inc))))
	return inc
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.failed = true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) linger() time.Duration {
	ms := r.number()
	return time.Duration(min(ms, uint64(maxLinger/time.Millisecond))) * time.Millisecond
}

func (r *reader) op() op {
	o := op{code: opCode(r.byte()), ref: r.number()}
	switch o.code {
	case opEnter:
		o.topic, o.member = r.text(), r.text()
		o.info = r.info()
		r.failed = r.failed || o.topic == "" || o.member == ""
	case opChange:
		o.info = r.info()
	case opLeave:
	default:
		r.failed = true
	}
	r.failed = r.failed || o.ref == 0 || len(o.topic)+len(o.member)+len(o.info) > MaxEntry
	return o
}

func (r *reader) text() string {
	b := r.take(r.number())
	if !utf8.Valid(b) {
		r.failed = true
	}
	return string(b)
}

// info reads an info, which goes to clients as it is.
func (r *reader) info() []byte {
	b := r.take(r.number())
	if len(b) == 0 {
		return nil
	}
	if !jsonscan.Valid(b) {
		r.failed = true
	}
	return append([]byte(nil), b...)
}
