package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestFramesOfAllLengthsComeBack(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 100_000} {
		payload := bytes.Repeat([]byte{'p'}, n)
		key := [4]byte{1, 2, 3, 4}
		for _, side := range []struct {
			name  string
			frame []byte
			parse func([]byte) (Frame, []byte, error)
		}{
			{"server", AppendServerFrame(nil, OpText, payload), ParseServerFrame},
			{"client", AppendClientFrame(nil, OpText, key, payload), ParseClientFrame},
		} {
			f, rest, err := side.parse(append(side.frame, "next"...))
			if err != nil || f.Opcode != OpText || !bytes.Equal(f.Payload, payload) || string(rest) != "next" {
				t.Errorf("%s frame of %d bytes: opcode %#x, %d bytes, rest %q, error %v",
					side.name, n, f.Opcode, len(f.Payload), rest, err)
			}
		}
	}
}

// The examples of RFC 6455, section 5.7.
func TestExamplesOfTheRFC(t *testing.T) {
	f, _, err := ParseServerFrame([]byte{0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f})
	if err != nil || string(f.Payload) != "Hello" {
		t.Errorf("unmasked: %q, %v", f.Payload, err)
	}
	masked := []byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}
	f, _, err = ParseClientFrame(masked)
	if err != nil || string(f.Payload) != "Hello" {
		t.Errorf("masked: %q, %v", f.Payload, err)
	}
}

func TestEveryBeginningOfAFrameIsShort(t *testing.T) {
	for _, n := range []int{5, 300, 70_000} {
		frame := AppendServerFrame(nil, OpText, make([]byte, n))
		for _, cut := range []int{0, 1, 2, 3, 5, 9, len(frame) - 1} {
			if cut >= len(frame) {
				continue
			}
			if _, rest, err := ParseServerFrame(frame[:cut]); !errors.Is(err, ErrShort) || len(rest) != cut {
				t.Errorf("%d of %d bytes: rest %d, error %v", cut, len(frame), len(rest), err)
			}
		}
	}
}

func TestBrokenFramesAreErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes []byte
	}{
		{"extension bit", []byte{0xc1, 0x00}},
		{"fragment", []byte{0x01, 0x00}},
		{"continuation", []byte{0x80, 0x00}},
		{"reserved opcode", []byte{0x83, 0x00}},
		{"masked by a server", []byte{0x81, 0x80, 0, 0, 0, 0}},
		{"long control frame", []byte{0x89, 126, 0, 126}},
		{"16-bit length that fits in 7 bits", []byte{0x81, 126, 0, 125}},
		{"64-bit length that fits in 16 bits", []byte{0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff}},
		{"length beyond all sense", []byte{0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0}},
	} {
		if _, _, err := ParseServerFrame(c.bytes); err == nil || errors.Is(err, ErrShort) {
			t.Errorf("%s: error %v", c.name, err)
		}
	}
	if _, _, err := ParseClientFrame([]byte{0x81, 0x00}); err == nil || errors.Is(err, ErrShort) {
		t.Errorf("unmasked by a client: error %v", err)
	}
}

func FuzzParseServerFrame(f *testing.F) {
	f.Add([]byte{0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f})
	f.Add([]byte{0x81, 126, 1, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		frame, rest, err := ParseServerFrame(p)
		if err != nil {
			return
		}
		again := append(AppendServerFrame(nil, frame.Opcode, frame.Payload), rest...)
		if !bytes.Equal(again, p) {
			t.Errorf("%x came back as %x", p, again)
		}
	})
}

func TestPayloadHasItsSizeAndMark(t *testing.T) {
	for _, size := range []int{MinPayload, 128, 512, maxFill + MinPayload, 3 * maxFill} {
		want := Mark{Stream: 7, Seq: 0xfffffffe, Time: 1<<62 + 5}
		p := AppendPayload(nil, want, size)
		m, rest, found, err := NextMark(p)
		if len(p) != size || m != want || !found || err != nil || !bytes.Equal(rest, Tail(size)) {
			t.Errorf("payload of %d: %d bytes, mark %+v, found %t, error %v", size, len(p), m, found, err)
		}
	}
}

func TestMarksAreFoundOneAfterAnother(t *testing.T) {
	var message []byte
	for i := range 3 {
		message = AppendPayload(append(message, `{"push":`...), Mark{Stream: uint32(i)}, 100)
		message = append(message, "}\n"...)
	}
	for i := range 3 {
		m, rest, found, err := NextMark(message)
		if !found || err != nil || m.Stream != uint32(i) {
			t.Fatalf("mark %d: %+v, found %t, error %v", i, m, found, err)
		}
		message = rest
	}
	if _, _, found, err := NextMark(message); found || err != nil {
		t.Errorf("after the last: found %t, error %v", found, err)
	}
}

func TestDamagedMarkIsAnError(t *testing.T) {
	for _, p := range []string{"@", "@1234", "@" + strings.Repeat("g", 32)} {
		if _, _, _, err := NextMark([]byte(p)); !errors.Is(err, ErrBadMark) {
			t.Errorf("%q: error %v", p, err)
		}
	}
}
