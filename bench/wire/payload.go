package wire

import (
	"bytes"
	"errors"
	"fmt"
)

// A payload is a JSON object of a fixed size with a Mark in it. No server sends markStart
// anywhere else. So the generator finds the mark without decoding JSON, whatever
// surrounds the payload.
//
//	{"mark":"@sssssssseeeeeeeetttttttttttttttt","fill":"xxxxxxxx…"}
const (
	markStart   = '@'
	payloadHead = `{"mark":"`
	payloadMid  = `","fill":"`
	payloadEnd  = `"}`
	markLen     = 1 + 8 + 8 + 16
)

// MinPayload is the size of a payload without any filling.
const MinPayload = len(payloadHead) + markLen + len(payloadMid) + len(payloadEnd)

// Mark says which delivery this is.
type Mark struct {
	Stream uint32 // whose sequence: a topic's, or in the chat a sender's
	Seq    uint32 // from 0, without holes
	Time   int64  // when it was meant to be sent, by Now
}

// ErrBadMark says that bytes which begin like a mark are none.
var ErrBadMark = errors.New("wire: mark is damaged")

// CheckPayloadSize returns an error for a size that no payload can have.
func CheckPayloadSize(size int) error {
	if size < MinPayload {
		return fmt.Errorf("a payload of %d bytes is too small: the least is %d", size, MinPayload)
	}
	return nil
}

// AppendPayload appends a payload of exactly size bytes.
func AppendPayload(dst []byte, m Mark, size int) []byte {
	dst = append(dst, payloadHead...)
	dst = append(dst, markStart)
	dst = appendHex(dst, uint64(m.Stream), 8)
	dst = appendHex(dst, uint64(m.Seq), 8)
	dst = appendHex(dst, uint64(m.Time), 16)
	return appendTail(dst, size)
}

// maxFill is how much filling is kept ready; longer payloads build their own.
const maxFill = 64 << 10

// filling ends like every payload. So each tail is one slice of it.
var filling = append(bytes.Repeat([]byte{'x'}, maxFill), payloadEnd...)

// appendTail appends what follows the mark in a payload of size bytes.
func appendTail(dst []byte, size int) []byte {
	dst = append(dst, payloadMid...)
	fill := max(size-MinPayload, 0)
	for ; fill > maxFill; fill -= maxFill {
		dst = append(dst, filling[:maxFill]...)
	}
	return append(dst, filling[maxFill-fill:]...)
}

// Tail returns what follows the mark in every payload of size bytes.
func Tail(size int) []byte { return appendTail(nil, size) }

// NextMark finds the first mark in p and returns what follows it.
func NextMark(p []byte) (m Mark, rest []byte, found bool, err error) {
	i := bytes.IndexByte(p, markStart)
	if i < 0 {
		return Mark{}, nil, false, nil
	}
	p = p[i+1:]
	if len(p) < markLen-1 {
		return Mark{}, nil, false, ErrBadMark
	}
	stream, ok1 := parseHex(p[:8])
	seq, ok2 := parseHex(p[8:16])
	at, ok3 := parseHex(p[16:32])
	if !ok1 || !ok2 || !ok3 {
		return Mark{}, nil, false, ErrBadMark
	}
	return Mark{Stream: uint32(stream), Seq: uint32(seq), Time: int64(at)}, p[32:], true, nil
}

const hexDigits = "0123456789abcdef"

func appendHex(dst []byte, v uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, hexDigits[v>>shift&0xf])
	}
	return dst
}

// hexValue is the value of each digit, 0xff for other bytes.
var hexValue = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range []byte(hexDigits) {
		t[c] = byte(i)
	}
	return t
}()

func parseHex(p []byte) (uint64, bool) {
	var v uint64
	var bad byte
	for _, c := range p {
		d := hexValue[c]
		bad |= d & 0xf0
		v = v<<4 | uint64(d&0x0f)
	}
	return v, bad == 0
}

// TopicName is the name of topic i, of the same length for all.
func TopicName(i int) string { return fmt.Sprintf("topic-%06d", i) }
