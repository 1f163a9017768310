// Package wire holds what goes over the wire between the servers under test and
// the load generator: RFC 6455 frames, the payloads with their sequence numbers,
// and the messages in which each server wraps them.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Opcodes of RFC 6455, section 5.2.
const (
	OpText   = 0x1
	OpBinary = 0x2
	OpClose  = 0x8
	OpPing   = 0x9
	OpPong   = 0xA
)

// maxControl is the longest payload of a control frame (RFC 6455, section 5.5).
const maxControl = 125

// maxFrame bounds a frame's payload, so that a broken length field is an error
// and not an endless wait for more bytes. No workload sends a tenth of it.
const maxFrame = 16 << 20

// ErrShort says that the bytes end before the frame does.
var ErrShort = errors.New("wire: frame is not complete yet")

// Frame is one frame; Payload points into the bytes that were parsed.
type Frame struct {
	Opcode  byte
	Payload []byte
}

// ParseServerFrame reads the first frame of p as a client must: unmasked. It
// returns the rest of p, or ErrShort when p holds no whole frame.
func ParseServerFrame(p []byte) (Frame, []byte, error) {
	return parse(p, false)
}

// ParseClientFrame reads the first frame of p as a server must: masked. It
// unmasks the payload in place.
func ParseClientFrame(p []byte) (Frame, []byte, error) {
	return parse(p, true)
}

func parse(p []byte, wantMask bool) (Frame, []byte, error) {
	if len(p) < 2 {
		return Frame{}, p, ErrShort
	}
	f := Frame{Opcode: p[0] & 0x0f}
	if err := checkFirstByte(p[0]); err != nil {
		return Frame{}, p, err
	}
	if masked := p[1]&0x80 != 0; masked != wantMask {
		return Frame{}, p, fmt.Errorf("wire: mask bit is %t", masked)
	}
	length, header, err := parseLength(p, f.Opcode >= OpClose)
	if err != nil {
		return Frame{}, p, err
	}
	var key []byte
	if wantMask {
		if len(p) < header+4 {
			return Frame{}, p, ErrShort
		}
		key = p[header : header+4]
		header += 4
	}
	if len(p)-header < length {
		return Frame{}, p, ErrShort
	}
	f.Payload = p[header : header+length]
	if wantMask {
		xor(f.Payload, key)
	}
	return f, p[header+length:], nil
}

// checkFirstByte refuses what no server under test may send. Extension bits are refused
// because no extension was offered. Fragments are refused because a message that is ready when
// it is sent needs none.
func checkFirstByte(b byte) error {
	if b&0x70 != 0 {
		return fmt.Errorf("wire: extension bits %#x without an extension", b&0x70)
	}
	if b&0x80 == 0 {
		return errors.New("wire: message in fragments")
	}
	switch b & 0x0f {
	case OpText, OpBinary, OpClose, OpPing, OpPong:
		return nil
	}
	return fmt.Errorf("wire: opcode %#x", b&0x0f)
}

func parseLength(p []byte, control bool) (length, header int, err error) {
	switch n := p[1] & 0x7f; {
	case n <= maxControl:
		return int(n), 2, nil
	case control:
		return 0, 0, errors.New("wire: control frame of more than 125 bytes")
	case n == 126:
		if len(p) < 4 {
			return 0, 0, ErrShort
		}
		length, header = int(binary.BigEndian.Uint16(p[2:])), 4
		if length <= maxControl {
			return 0, 0, errors.New("wire: length is not in its shortest form")
		}
	default:
		if len(p) < 10 {
			return 0, 0, ErrShort
		}
		long := binary.BigEndian.Uint64(p[2:])
		if long > maxFrame {
			return 0, 0, fmt.Errorf("wire: frame of %d bytes", long)
		}
		length, header = int(long), 10
		if length < 1<<16 {
			return 0, 0, errors.New("wire: length is not in its shortest form")
		}
	}
	return length, header, nil
}

// AppendServerFrame appends an unmasked frame.
func AppendServerFrame(dst []byte, opcode byte, payload []byte) []byte {
	return append(appendHeader(dst, opcode, 0, len(payload)), payload...)
}

// AppendClientFrame appends a frame masked with key.
func AppendClientFrame(dst []byte, opcode byte, key [4]byte, payload []byte) []byte {
	dst = appendHeader(dst, opcode, 0x80, len(payload))
	dst = append(dst, key[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	xor(dst[start:], key[:])
	return dst
}

func appendHeader(dst []byte, opcode, mask byte, length int) []byte {
	dst = append(dst, 0x80|opcode)
	switch {
	case length <= maxControl:
		return append(dst, mask|byte(length))
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, mask|126), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(dst, mask|127), uint64(length))
	}
}

func xor(p, key []byte) {
	for i := range p {
		p[i] ^= key[i&3]
	}
}
