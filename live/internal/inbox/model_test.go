package inbox

import (
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// This is a second implementation of the rules of RFC 6455, as one function of all bytes that a
// client has sent. It is the oracle for tests with random input.

// judge returns what a reader must report for a connection that carries in and then ends. It
// counts the charges of complete frames only.
func judge(in []byte, o Options) (h heard, why string) {
	var message []byte
	within, compressed := false, false
	for {
		if len(in) < 2 {
			return h.ends("lost"), "the end"
		}
		fin, rsv1, rsv23 := in[0]>>7 == 1, in[0]>>6&1 == 1, in[0]>>4&3 != 0
		op, masked, length := in[0]&15, in[1]>>7 == 1, uint64(in[1]&127)
		control := op&8 != 0
		starts := op == 1 || op == 2

		// Section 5.2: "MUST be 0 unless an extension is negotiated". RFC 7692, section 6:
		// only the first frame of a message has RSV1, and no control frame.
		if rsv23 || rsv1 && !(o.Compressed && starts) {
			return h.ends("broken 1002"), "a reserved bit"
		}
		// Section 5.1: "a server MUST close the connection upon receiving a frame that is not masked".
		if !masked {
			return h.ends("broken 1002"), "not masked"
		}
		// Section 5.2, opcodes: "%x3-7 are reserved", "%xB-F are reserved".
		if op > 2 && op < 8 || op > 10 {
			return h.ends("broken 1002"), "an unknown opcode"
		}
		// Section 5.5: "MUST have a payload length of 125 bytes or less and MUST NOT be fragmented".
		if control && !fin {
			return h.ends("broken 1002"), "a fragmented control frame"
		}
		if control && length > 125 {
			return h.ends("broken 1002"), "a long control frame"
		}
		// Section 5.4: the fragments of one message are not interleaved with another's.
		if starts && within || op == 0 && !within {
			return h.ends("broken 1002"), "an interleaved message"
		}

		in = in[2:]
		if wide := map[uint64]int{126: 2, 127: 8}[length]; wide > 0 {
			if len(in) < wide+4 { // a header is judged when its mask has come
				return h.ends("lost"), "the end"
			}
			length = 0
			for _, b := range in[:wide] {
				length = length<<8 | uint64(b)
			}
			in = in[wide:]
			// Section 5.2: "the most significant bit MUST be 0", and "the minimal number of
			// bytes MUST be used to encode the length".
			if bits.Len64(length) == 64 {
				return h.ends("broken 1002"), "a length of 64 bits"
			}
			if length < 126 || wide == 8 && length < 1<<16 {
				return h.ends("broken 1002"), "a length that is not minimal"
			}
		}
		if len(in) < 4 {
			return h.ends("lost"), "the end"
		}
		mask := in[:4]
		in = in[4:]
		if !control && length > uint64(o.ReadLimit-len(message)) {
			return h.ends("broken 1009"), "too big"
		}
		if uint64(len(in)) < length {
			return h.ends("lost"), "the end"
		}
		payload := make([]byte, length)
		for i := range payload {
			payload[i] = in[i] ^ mask[i&3]
		}
		in = in[length:]
		h.frames++

		switch op {
		case 8:
			end, why := judgeClose(payload)
			return h.ends(end), why
		case 9:
			h.pings = append(h.pings, string(payload))
			continue
		case 10:
			continue
		case 1, 2:
			compressed = rsv1
		}
		h.bytes += int(length)
		message = append(message, payload...)
		if within = !fin; fin {
			h.messages = append(h.messages, string(message))
			h.flags = append(h.flags, compressed)
			message = nil
		}
	}
}

func (h heard) ends(how string) heard {
	h.end = how
	return h
}

// judgeClose follows section 5.5.1 with section 7.4. The codes 1012 to 1014 are in the registry of
// close codes.
func judgeClose(payload []byte) (end, why string) {
	if len(payload) == 0 {
		return "close 1005 ", "a close frame"
	}
	if len(payload) == 1 {
		return "broken 1002", "half a close code"
	}
	code := int(payload[0])<<8 + int(payload[1])
	registered := map[int]bool{1000: true, 1001: true, 1002: true, 1003: true, 1007: true, 1008: true, 1009: true,
		1010: true, 1011: true, 1012: true, 1013: true, 1014: true}
	if !registered[code] && (code < 3000 || code > 4999) {
		return "broken 1002", "a close code that must not be sent"
	}
	if !utf8.Valid(payload[2:]) {
		return "broken 1007", "a close reason that is not UTF-8"
	}
	return fmt.Sprintf("close %d %s", code, payload[2:]), "a close frame"
}
