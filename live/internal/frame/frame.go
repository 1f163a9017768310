// Package frame turns one publication into the bytes that every subscriber's
// socket gets: the JSON envelope with the RFC 6455 header in front of it.
//
// A frame is built once for each publication. All sessions that get it share it
// by pointer. So its bytes are never changed after it was built.
package frame

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// These are the first bytes of the frames that a server sends: FIN and the opcode
// (RFC 6455, section 5.2). A server does not mask.
const (
	finText  = 0x81
	finClose = 0x88
	finPing  = 0x89
)

// MaxReason is how many bytes of text fit in a close frame. A control frame
// carries at most 125 bytes (RFC 6455, section 5.5), and the code takes two of them.
const MaxReason = 123

// Ping is an empty ping, the same for every session.
var Ping = &Frame{bytes: []byte{finPing, 0}}

// Frame is one whole WebSocket frame, header and payload, or a Batch of them.
type Frame struct {
	bytes    []byte
	deflated []byte // the frame in compressed form; nil: there is no such form
	messages int32  // how many frames a Batch has; 0: this is no Batch, and counts as one
	stays    bool   // the frame keeps its place in a queue; set by Staying
	gap      *Frame // is sent before this frame; set by AfterGap

	// Tag marks a frame that a full queue may drop. It is set before the frame is
	// shared. nil: the frame is never dropped.
	Tag *Tag

	// Key says of which thing the frame carries the newest value. A frame replaces only frames
	// with the same Tag and Key.
	Key string

	// Queued is when the frame was queued for all its sessions, on the clock of package clock. The time
	// from then until their sockets take the frame is measured. 0: it is not measured. Queued is set
	// before the frame is shared.
	Queued int64
}

// Replaces reports whether a frame carries a newer value of the same thing as an older frame.
func (f *Frame) Replaces(older *Frame) bool { return f.Tag == older.Tag && f.Key == older.Key }

// Tag is shared by all frames of one topic that drops publications.
type Tag struct {
	// Gap tells a client that frames with this tag were dropped.
	Gap *Frame

	// Latest says that a newer frame replaces all waiting frames with this tag, not only the
	// oldest.
	Latest bool
}

// Bytes returns the frame as it goes on the socket. It must not be changed.
func (f *Frame) Bytes() []byte { return f.bytes }

// Compact returns the frame for a peer that has agreed to permessage-deflate. It is
// compressed if Deflate was called and made it shorter.
func (f *Frame) Compact() []byte {
	if f.deflated != nil {
		return f.deflated
	}
	return f.bytes
}

// Len returns the number of bytes that the frame takes in a queue.
func (f *Frame) Len() int {
	if f.gap != nil {
		return len(f.bytes) + len(f.gap.bytes)
	}
	return len(f.bytes)
}

// Messages returns how many messages the frame counts for in a queue.
func (f *Frame) Messages() int { return int(max(f.messages, 1)) }

// Gap returns the frame that must be sent before this frame, or nil.
func (f *Frame) Gap() *Frame { return f.gap }

// AfterGap returns a copy of f that is sent after its tag's Gap. The copy shares the
// bytes of f.
func (f *Frame) AfterGap() *Frame {
	if f.gap != nil || f.Tag == nil || f.Tag.Gap == nil {
		return f
	}
	after := *f
	after.gap = f.Tag.Gap
	return &after
}

// Staying returns a copy of f that keeps its place in a queue: it must not step aside. If it is
// dropped, its gap takes that place. The copy shares the bytes of f.
func (f *Frame) Staying() *Frame {
	staying := *f
	staying.stays = true
	return &staying
}

// Stays reports whether Staying made the frame.
func (f *Frame) Stays() bool { return f.stays }

// Batch is many frames that go to one session, as one entry of its queue.
type Batch struct {
	Compact  bool // append the compressed form where a frame has one
	bytes    []byte
	messages int32
}

// Append adds a frame.
func (b *Batch) Append(f *Frame) {
	if b.Compact {
		b.bytes = append(b.bytes, f.Compact()...)
	} else {
		b.bytes = append(b.bytes, f.bytes...)
	}
	b.messages++
}

// Grow makes space for n bytes more.
func (b *Batch) Grow(n int) { b.bytes = slices.Grow(b.bytes, n) }

// Frame returns the appended frames as one frame, or nil if no frame was appended.
func (b *Batch) Frame() *Frame {
	if b.messages == 0 {
		return nil
	}
	return &Frame{bytes: b.bytes, messages: b.messages}
}

// Text returns a text frame whose payload is the given parts, joined.
func Text(parts ...[]byte) *Frame {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	b := appendHeader(make([]byte, 0, headerLen(size)+size), finText, size)
	for _, p := range parts {
		b = append(b, p...)
	}
	return &Frame{bytes: b}
}

// EmptyClose is a close frame without a code. It answers a close frame that has no code either.
var EmptyClose = &Frame{bytes: []byte{finClose, 0}}

// Close returns a close frame. A reason longer than MaxReason bytes is cut
// between two characters, because it must be UTF-8 (RFC 6455, section 5.5.1).
func Close(code int, reason string) *Frame {
	for len(reason) > MaxReason {
		_, size := utf8.DecodeLastRuneInString(reason)
		reason = reason[:len(reason)-size]
	}
	b := appendHeader(make([]byte, 0, 4+len(reason)), finClose, 2+len(reason))
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return &Frame{bytes: append(b, reason...)}
}

// Envelope is the part of a frame that is the same for all publications of one topic. It holds
// only the name of the topic. A name that needs no escape is copied into the frame as it is.
type Envelope struct {
	name   string
	escape bool // the name has characters that a JSON string must escape
}

// NewEnvelope returns the envelope of a topic, which is UTF-8.
func NewEnvelope(topic string) Envelope {
	return Envelope{topic, strings.ContainsFunc(topic, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' })}
}

// Frame returns the text frame of one publication. data must be valid JSON;
// when it is empty the envelope has no data member.
func (e Envelope) Frame(data []byte) *Frame { return e.frame(Publication{Data: data}) }

// FrameAt returns the text frame of one publication that has a position. All characters of at
// must be fit for a JSON string without an escape.
func (e Envelope) FrameAt(data []byte, at string) *Frame {
	return e.frame(Publication{Data: data, At: at})
}

// Publication is what a frame says of a publication.
type Publication struct {
	Data      []byte // valid JSON; empty: there is none
	Key       string // UTF-8; "": there is none
	Removed   bool   // the key has no value any more
	At        string // the position, which needs no escape in a JSON string; "": there is none
	Recovered bool   // a subscribe asked for it, by since or by last
}

// Publication returns the text frame of a publication.
func (e Envelope) Publication(p Publication) *Frame {
	f := e.frame(p)
	f.Key = p.Key
	return f
}

// members returns the members of a publication's object after its position.
func (p *Publication) members() string {
	switch {
	case p.Removed && p.Recovered:
		return `,"removed":true,"recovered":true`
	case p.Removed:
		return `,"removed":true`
	case p.Recovered:
		return `,"recovered":true`
	}
	return ""
}

func (e Envelope) frame(p Publication) *Frame {
	const open, toKey, toData, toAt = `{"topic":`, `,"key":`, `,"data":`, `,"at":"`
	data, at, more := p.Data, p.At, p.members()
	size := len(open) + len(more) + 1
	var key []byte // as JSON
	if p.Key != "" {
		key = jsonscan.AppendQuoted(nil, []byte(p.Key))
		size += len(toKey) + len(key)
	}
	var quoted []byte // the name
	if e.escape {
		quoted = jsonscan.AppendQuoted(nil, []byte(e.name))
		size += len(quoted)
	} else {
		size += len(e.name) + 2
	}
	if len(data) > 0 {
		size += len(toData) + len(data)
	}
	if at != "" {
		size += len(toAt) + len(at) + 1
	}
	b := appendHeader(make([]byte, 0, headerLen(size)+size), finText, size)
	b = append(b, open...)
	if e.escape {
		b = append(b, quoted...)
	} else {
		b = append(append(append(b, '"'), e.name...), '"')
	}
	if key != nil {
		b = append(append(b, toKey...), key...)
	}
	if len(data) > 0 {
		b = append(append(b, toData...), data...)
	}
	if at != "" {
		b = append(append(append(b, toAt...), at...), '"')
	}
	b = append(b, more...)
	return &Frame{bytes: append(b, '}')}
}

func headerLen(payload int) int {
	switch {
	case payload <= 125:
		return 2
	case payload <= 0xffff:
		return 4
	default:
		return 10
	}
}

// appendHeader appends the header of an unmasked frame. The length takes the
// shortest form that holds it (RFC 6455, section 5.2).
func appendHeader(b []byte, first byte, payload int) []byte {
	switch headerLen(payload) {
	case 2:
		return append(b, first, byte(payload))
	case 4:
		return binary.BigEndian.AppendUint16(append(b, first, 126), uint16(payload))
	default:
		return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(payload))
	}
}
