// Package frame turns one publication into the bytes that every subscriber's
// socket gets: the JSON envelope with the RFC 6455 header in front of it.
//
// A frame is built once per publication and shared by pointer by all sessions
// that get it, so its bytes are never changed after it was built.
package frame

import (
	"encoding/binary"
	"encoding/json"
	"unicode/utf8"
)

// First bytes of the frames a server sends: FIN and the opcode (RFC 6455,
// section 5.2). A server does not mask.
const (
	finText  = 0x81
	finClose = 0x88
	finPing  = 0x89
)

// MaxReason is how many bytes of text fit in a close frame: a control frame
// carries at most 125 bytes (RFC 6455, section 5.5), two of them the code.
const MaxReason = 123

// Ping is an empty ping, the same for every session.
var Ping = &Frame{bytes: []byte{finPing, 0}}

// Frame is one whole WebSocket frame, header and payload.
type Frame struct {
	bytes    []byte
	deflated []byte // the same, compressed; nil: it is not

	// Set before the frame is shared, for what a full queue does. Tag is what the
	// frame is about; Free says that it counts for no bound, and is not dropped; Gap
	// that it tells of frames that were.
	Tag  any
	Free bool
	Gap  bool
}

// Bytes returns the frame as it goes on the socket. It must not be changed.
func (f *Frame) Bytes() []byte { return f.bytes }

// Compact returns the shorter form of the frame for a peer that has agreed to
// permessage-deflate: compressed, if Deflate was called and that paid.
func (f *Frame) Compact() []byte {
	if f.deflated != nil {
		return f.deflated
	}
	return f.bytes
}

// Len returns the number of bytes that the frame takes on the socket.
func (f *Frame) Len() int { return len(f.bytes) }

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

// Raw returns a frame whose bytes are a copy of b, a whole frame already.
func Raw(b []byte) *Frame { return &Frame{bytes: append([]byte(nil), b...)} }

// Close returns a close frame. A reason longer than MaxReason bytes is cut
// between two characters, since it must be UTF-8 (RFC 6455, section 5.5.1).
func Close(code int, reason string) *Frame {
	for len(reason) > MaxReason {
		_, size := utf8.DecodeLastRuneInString(reason)
		reason = reason[:len(reason)-size]
	}
	b := appendHeader(make([]byte, 0, 4+len(reason)), finClose, 2+len(reason))
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return &Frame{bytes: append(b, reason...)}
}

// Envelope is what stands around every publication of one topic. It is made
// once per topic, so that the topic's name is escaped once.
type Envelope struct {
	open []byte // {"topic":"…","data":
	bare []byte // {"topic":"…"}
}

// NewEnvelope returns the envelope of a topic.
func NewEnvelope(topic string) Envelope {
	name, err := json.Marshal(topic)
	if err != nil {
		panic(err) // a string always marshals
	}
	head := append([]byte(`{"topic":`), name...)
	return Envelope{
		open: append(head[:len(head):len(head)], `,"data":`...),
		bare: append(head[:len(head):len(head)], '}'),
	}
}

var closeBrace = []byte{'}'}

// FrameAt returns the text frame of one publication that has a position. at must
// need no escape in a JSON string.
func (e Envelope) FrameAt(data []byte, at string) *Frame {
	if len(data) == 0 {
		return Text(e.bare[:len(e.bare)-1], []byte(`,"at":"`), []byte(at), []byte(`"}`))
	}
	return Text(e.open, data, []byte(`,"at":"`), []byte(at), []byte(`"}`))
}

// Frame returns the text frame of one publication. data must be valid JSON;
// when it is empty the envelope has no data member.
func (e Envelope) Frame(data []byte) *Frame {
	if len(data) == 0 {
		return Text(e.bare)
	}
	return Text(e.open, data, closeBrace)
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
