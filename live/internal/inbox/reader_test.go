package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// plenty is a ReadLimit for tests that do not reach it.
const plenty = 1 << 20

// differ returns a text that says how two results differ, or "". Charges are compared only if the
// connection ended as it should. After a protocol error they do not matter.
func differ(got, want heard) string {
	if !strings.HasPrefix(want.end, "close") {
		got.frames, got.bytes, want.frames, want.bytes = 0, 0, 0, 0
	}
	if reflect.DeepEqual(got, want) {
		return ""
	}
	return fmt.Sprintf("got  %.500q\nwant %.500q", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
}

// Each rule of RFC 6455, section 5, is tested on a connection of its own, which begins with a
// message.
func TestRulesOfFrames(t *testing.T) {
	const (
		good   = "good"
		broken = "broken 1002"
	)
	rsv1 := func(first byte) byte { return first | 0x40 }
	long := strings.Repeat("x", 126)
	tests := []struct {
		name      string
		in        []byte
		plain     string // how it ends; good: with a close frame
		negotiate string // the same when compression was agreed; "": no different
	}{
		{"nothing", nil, good, ""},
		{"text", frameOf(text, "x"), good, ""},
		{"binary", frameOf(binar, "\xff"), good, ""},
		{"empty text", frameOf(text, ""), good, ""},
		{"fragments", join(frameOf(begin, "a"), frameOf(more, "b"), frameOf(last, "c")), good, ""},
		{"empty fragments", join(frameOf(begin, ""), frameOf(more, ""), frameOf(last, "")), good, ""},
		{"control frames between fragments", join(frameOf(begin, "a"), frameOf(ping, "p"), frameOf(more, "b"), frameOf(pong, "q"), frameOf(last, "c")), good, ""},
		{"a pong for nothing", frameOf(pong, "x"), good, ""},
		{"the longest control frames", join(frameOf(ping, long[:125]), frameOf(pong, long[:125])), good, ""},

		{"RSV1 on text", frameOf(rsv1(text), "x"), broken, good},
		{"RSV1 on binary", frameOf(rsv1(binar), "x"), broken, good},
		{"RSV1 on the first of two fragments", join(frameOf(rsv1(begin), "x"), frameOf(last, "y")), broken, good},
		{"RSV1 on a continuation", join(frameOf(begin, "x"), frameOf(rsv1(last), "y")), broken, ""},
		{"RSV1 on both fragments", join(frameOf(rsv1(begin), "x"), frameOf(rsv1(last), "y")), broken, ""},
		{"RSV1 on a ping", frameOf(rsv1(ping), ""), broken, ""},
		{"RSV1 on a pong", frameOf(rsv1(pong), ""), broken, ""},
		{"RSV1 on a close frame", frameOf(rsv1(closes), ""), broken, ""},
		{"RSV2", frameOf(text|0x20, "x"), broken, ""},
		{"RSV3", frameOf(text|0x10, "x"), broken, ""},
		{"RSV2 with RSV1", frameOf(text|0x60, "x"), broken, ""},
		{"RSV3 on a ping", frameOf(ping|0x10, ""), broken, ""},
		{"RSV2 on a continuation", join(frameOf(begin, "x"), frameOf(last|0x20, "y")), broken, ""},

		{"not masked", []byte{text, 1, 'x'}, broken, ""},
		{"an empty frame that is not masked", []byte{text, 0}, broken, ""},
		{"a ping that is not masked", []byte{ping, 0}, broken, ""},
		{"a close frame that is not masked", []byte{closes, 0}, broken, ""},
		{"a continuation that is not masked", join(frameOf(begin, "x"), []byte{last, 0}), broken, ""},

		{"a fragmented ping", frameOf(ping&^0x80, "x"), broken, ""},
		{"a fragmented pong", frameOf(pong&^0x80, "x"), broken, ""},
		{"a fragmented close frame", frameOf(closes&^0x80, "\x03\xe8"), broken, ""},
		{"a ping of 126 bytes", frameOf(ping, long), broken, ""},
		{"a pong of 126 bytes", frameOf(pong, long), broken, ""},
		{"a close frame of 126 bytes", frameOf(closes, "\x03\xe8"+long[2:]), broken, ""},
		{"a ping of 65,536 bytes", frameOf(ping, strings.Repeat("x", 1<<16)), broken, ""},

		{"a continuation of nothing", frameOf(last, "x"), broken, ""},
		{"a continuation of nothing that goes on", frameOf(more, "x"), broken, ""},
		{"a continuation after the last", join(frameOf(begin, "x"), frameOf(last, "y"), frameOf(last, "z")), broken, ""},
		{"a text within a text", join(frameOf(begin, "x"), frameOf(text, "y")), broken, ""},
		{"a binary within a text", join(frameOf(begin, "x"), frameOf(binar, "y")), broken, ""},
		{"a fragmented text within a text", join(frameOf(begin, "x"), frameOf(begin, "y")), broken, ""},

		{"125 bytes in the form for 126", appendMasked([]byte{text, 0xfe, 0, 125}, long[:125]), broken, ""},
		{"0 bytes in the form for 126", appendMasked([]byte{text, 0xfe, 0, 0}, ""), broken, ""},
		{"126 bytes in their form", appendMasked([]byte{text, 0xfe, 0, 126}, long), good, ""},
		{"126 bytes in the form for 65,536", appendMasked([]byte{text, 0xff, 0, 0, 0, 0, 0, 0, 0, 126}, long), broken, ""},
		{"0 bytes in the form for 65,536", appendMasked([]byte{text, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}, ""), broken, ""},
		{"65,535 bytes in the form for 65,536", appendMasked([]byte{text, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, strings.Repeat("x", 0xffff)), broken, ""},
		{"65,536 bytes in their form", appendMasked([]byte{text, 0xff, 0, 0, 0, 0, 0, 1, 0, 0}, strings.Repeat("x", 1<<16)), good, ""},
		{"2^63 bytes", appendMasked([]byte{text, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0}, ""), broken, ""},
		{"2^64-1 bytes", appendMasked([]byte{text, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ""), broken, ""},
		{"2^63-1 bytes", appendMasked([]byte{text, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ""), "broken 1009", ""},

		{"a close frame of one byte", frameOf(closes, "\x03"), broken, ""},
		{"a close frame without a code", frameOf(closes, ""), "close 1005 ", ""},
		{"a close frame with a reason", closeFrame(4000, "é"), "close 4000 é", ""},
		{"the longest close frame", closeFrame(1000, long[:123]), "close 1000 " + long[:123], ""},
		{"a close reason that is not UTF-8", closeFrame(1000, "\xff"), "broken 1007", ""},
		{"a close reason that is cut in a character", closeFrame(1000, "é"[:1]), "broken 1007", ""},
		{"a close reason with a surrogate", closeFrame(1000, "\xed\xa0\x80"), "broken 1007", ""},
		{"a wrong code with a reason that is not UTF-8", closeFrame(1005, "\xff"), broken, ""},
	}
	for op := range byte(16) {
		if op > 2 && op < 8 || op > 10 {
			for _, fin := range []byte{0, 0x80} {
				in := frameOf(fin|op, "x")
				tests = append(tests, []struct {
					name      string
					in        []byte
					plain     string
					negotiate string
				}{
					{fmt.Sprintf("opcode %d, FIN %d", op, fin>>7), in, broken, ""},
					{fmt.Sprintf("opcode %d, FIN %d, within a message", op, fin>>7), join(frameOf(begin, "x"), in), broken, ""},
				}...)
			}
		}
	}
	for _, test := range tests {
		for _, compressed := range []bool{false, true} {
			want := test.plain
			if compressed && test.negotiate != "" {
				want = test.negotiate
			}
			if want == good {
				want = "close 1000 bye"
			}
			o := Options{ReadLimit: plenty, Compressed: compressed}
			in := join(frameOf(text, "first"), test.in, closeFrame(1000, "bye"))
			got := read(o, nil, in)
			if got.end != want || len(got.messages) == 0 || got.messages[0] != "first" {
				t.Errorf("%s, compression %v: %q after %.100q, want %q", test.name, compressed, got.end, got.messages, want)
			}
			oracle, why := judge(in, o)
			if diff := differ(got, oracle); diff != "" {
				t.Errorf("%s, compression %v: %s\n%s", test.name, compressed, why, diff)
			}
		}
	}
	t.Log(2*len(tests), "cases")
}

// All first bytes are tested, with lengths of every form, within a message and between messages.
func TestFirstBytesAreJudgedAsTheRFCSays(t *testing.T) {
	cases := 0
	for first := range 256 {
		for _, length := range []int{0, 1, 125, 126, 127, 300} {
			for _, masked := range []bool{true, false} {
				for _, within := range []bool{false, true} {
					for _, compressed := range []bool{false, true} {
						var in []byte
						if within {
							in = frameOf(begin, "a")
						}
						f := frameOf(byte(first), strings.Repeat("x", length))
						if !masked {
							f[1] &^= 0x80
						}
						in = join(in, f, frameOf(ping, "z"), closeFrame(1000, ""))
						o := Options{ReadLimit: plenty, Compressed: compressed}
						want, why := judge(in, o)
						if diff := differ(read(o, nil, in), want); diff != "" {
							t.Fatalf("%#x, %d bytes, masked %v, within %v, compressed %v: %s\n%s", first, length, masked, within, compressed, why, diff)
						}
						cases++
					}
				}
			}
		}
	}
	t.Log(cases, "cases")
}

func TestCloseCodes(t *testing.T) {
	allowed := func(code int) bool { // sections 7.4.1, 7.4.2 and 11.7, with the registry
		switch {
		case code < 1000: // not used
			return false
		case code == 1004, code == 1005, code == 1006, code == 1015: // reserved, or for local use
			return false
		case code <= 1014:
			return true
		case code < 3000: // for revisions of the protocol
			return false
		}
		return code < 5000
	}
	for code := range 1 << 16 {
		for _, reason := range []string{"", "because"} {
			got := read(Options{ReadLimit: plenty}, nil, closeFrame(code, reason))
			want := "broken 1002"
			if allowed(code) {
				want = fmt.Sprintf("close %d %s", code, reason)
			}
			if got.end != want {
				t.Fatalf("code %d: %q, want %q", code, got.end, want)
			}
		}
	}
}

func TestReadLimit(t *testing.T) {
	for _, limit := range []int{1, 2, 125, 126, 127, 4095, 4096, 4097, 8192, 1<<16 - 1, 1 << 16, 100_000, 1 << 20} {
		o := Options{ReadLimit: limit}
		payload := make([]byte, limit+1)
		for i := range payload {
			payload[i] = byte(i * 7)
		}
		exact, over := string(payload[:limit]), string(payload)
		fragments := func(s string, sizes ...int) []byte {
			var b []byte
			first := byte(begin)
			for _, n := range append(sizes, len(s)) {
				n = min(n, len(s))
				b = append(b, frameOf(first, s[:n])...)
				s, first = s[n:], more
			}
			return append(b, frameOf(last, s)...)
		}
		header := func(s string) []byte {
			return bytes.TrimSuffix(frameOf(text, s), frameOf(text, s)[len(frameOf(text, s))-len(s):])
		}
		for _, test := range []struct {
			name string
			in   []byte
			ok   bool
		}{
			{"exact", frameOf(text, exact), true},
			{"one more", frameOf(text, over), false},
			{"the header of one more, without its payload", header(over), false},
			{"exact in fragments", fragments(exact, 0, 1, limit/2), true},
			{"exact and an empty fragment", fragments(exact, limit), true},
			{"one more in fragments", fragments(over, 0, 1, limit/2), false},
			{"one more in the last fragment", fragments(over, limit), false},
			{"the header of the last fragment with one more", join(frameOf(begin, exact), frameOf(last, "x")[:6]), false},
			{"exact, many times", bytes.Repeat(frameOf(text, exact), 3), true},
		} {
			got := read(o, nil, join(test.in, closeFrame(1000, "")))
			want := "close 1000 "
			if !test.ok {
				want = "broken 1009"
			}
			if got.end != want || test.ok && got.messages[0] != exact || !test.ok && len(got.messages) > 0 {
				t.Errorf("limit %d, %s: %d messages, then %q", limit, test.name, len(got.messages), got.end)
			}
		}
	}
}

// conversation has a frame of each kind and form of length, and all alignments of masks.
var conversation = join(
	frameOf(text, ""), frameOf(text, "a"), frameOf(ping, ""), frameOf(ping, "ping"), frameOf(pong, "pong"),
	frameOf(begin, "frag"), frameOf(ping, "between"), frameOf(more, ""), frameOf(more, "men"), frameOf(pong, ""), frameOf(last, "ted"),
	frameOf(binar, "\x00\xff"), frameOf(text, strings.Repeat("0123456789", 13)), frameOf(0xc1, "compressed"),
	frameOf(0x02, "b"), frameOf(last, strings.Repeat("long ", 40)),
	closeFrame(4000, "the end"),
)

var conversing = Options{ReadLimit: plenty, Compressed: true}

// A conversation is the same wherever TCP cuts it, and over every kind of connection.
func TestFramesAreCutAnywhere(t *testing.T) {
	want, _ := judge(conversation, conversing)
	if want.end != "close 4000 the end" || len(want.messages) != 7 {
		t.Fatalf("%+v", want)
	}
	overAll(t, func(t *testing.T, l *line) {
		for cut := 1; cut < len(conversation); cut++ {
			if diff := differ(over(t, l, conversing, nil, conversation[:cut], conversation[cut:]), want); diff != "" {
				t.Fatalf("cut at %d:\n%s", cut, diff)
			}
		}
		for _, size := range []int{1, 2, 3, 5, 7, 14, 15, 16, 17, 100} {
			if diff := differ(over(t, l, conversing, nil, slices.Collect(slices.Chunk(conversation, size))...), want); diff != "" {
				t.Fatalf("in pieces of %d:\n%s", size, diff)
			}
		}
	})
}

// If a conversation ends early, all its complete messages are reported.
func TestConversationThatEndsEarly(t *testing.T) {
	for n := range len(conversation) {
		want, _ := judge(conversation[:n], conversing)
		if want.end != "lost" {
			t.Fatalf("%d bytes: %q", n, want.end)
		}
		if diff := differ(read(conversing, nil, conversation[:n]), want); diff != "" {
			t.Fatalf("%d bytes:\n%s", n, diff)
		}
	}
}

// The bytes that the HTTP server has read after the handshake may end anywhere.
func TestBytesReadWithTheHandshake(t *testing.T) {
	want, _ := judge(conversation, conversing)
	overAll(t, func(t *testing.T, l *line) {
		for n := range len(conversation) + 1 {
			var rest [][]byte
			if n < len(conversation) {
				rest = [][]byte{conversation[n:]}
			}
			if diff := differ(over(t, l, conversing, conversation[:n], rest...), want); diff != "" {
				t.Fatalf("%d bytes were read before:\n%s", n, diff)
			}
		}
	})
	// The bytes do not fit in a buffer, and some messages are longer than a buffer.
	long := join(frameOf(text, strings.Repeat("l", 10_000)), frameOf(begin, strings.Repeat("m", 5000)), frameOf(last, strings.Repeat("n", 5000)), conversation)
	want, _ = judge(long, conversing)
	for n := 0; n <= len(long); n += 61 {
		if diff := differ(read(conversing, long[:n], long[n:]), want); diff != "" {
			t.Fatalf("%d bytes were read before:\n%s", n, diff)
		}
	}
}

// Messages larger than any buffer, with headers at every place of a buffer.
func TestLongMessagesInPieces(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	payload := make([]byte, 300_000)
	for i := range payload {
		payload[i] = byte(random.Uint32())
	}
	var frames [][]byte
	for _, n := range []int{4090, 4091, 4095, 4096, 4097, 8191, 8192, 8193, 12_288, 1<<16 - 1, 1 << 16, len(payload)} {
		s := string(payload[:n])
		frames = append(frames, frameOf(text, s), frameOf(begin, s[:n/3]), frameOf(ping, "p"), frameOf(more, s[n/3:n/2]), frameOf(last, s[n/2:]))
	}
	in := join(append(frames, closeFrame(1000, ""))...)
	want, _ := judge(in, Options{ReadLimit: plenty})
	for name, dial := range lines {
		for _, size := range []int{4096, 5000, 1 << 14, len(in)} {
			t.Run(fmt.Sprintf("%s, in pieces of %d", name, size), func(t *testing.T) {
				l := dial(t)
				go func() { // ends when all is read
					for piece := range slices.Chunk(in, size) {
						l.far.Write(piece)
					}
				}()
				if diff := differ(over(t, l, Options{ReadLimit: plenty}, nil), want); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// Random conversations have mostly valid frames, and are cut anywhere.
func TestRandomConversations(t *testing.T) {
	const rounds = 10_000
	random := rand.New(rand.NewPCG(3, 4))
	ends := make(map[string]int)
	for range rounds {
		in := randomConversation(random)
		o := Options{ReadLimit: []int{10, 300, plenty}[random.IntN(3)], Compressed: random.IntN(2) == 0}
		var pieces [][]byte
		early := random.IntN(len(in) + 1)
		if random.IntN(2) == 0 {
			early = 0
		}
		for rest := in[early:]; len(rest) > 0; {
			n := 1 + random.IntN(min(len(rest), 1+random.IntN(200)))
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		want, why := judge(in, o)
		ends[why]++
		var l listener
		var r Reader
		if random.IntN(4) == 0 {
			conn, handle := withHandle(t, pieces)
			r.Init(conn, handle, bytes.Clone(in[:early]), &l, o)
		} else {
			r.Init(&script{pieces: pieces}, nil, bytes.Clone(in[:early]), &l, o)
		}
		if diff := differ(l.readAll(&r), want); diff != "" {
			t.Fatalf("%x\n%+v, %d before: %s\n%s", in, o, early, why, diff)
		}
	}
	if len(ends) != 14 {
		t.Errorf("not all ends were seen: %v", ends)
	}
}

// randomConversation returns frames of which most are valid.
func randomConversation(random *rand.Rand) []byte {
	seldom := func() bool { return random.IntN(60) == 0 }
	var b []byte
	within := false
	for range 1 + random.IntN(12) {
		var op byte
		switch random.IntN(8) {
		case 0:
			op = ping
		case 1:
			op = pong
		default:
			op = byte(1 + random.IntN(2))
			if within {
				op = more
			}
			if random.IntN(3) > 0 {
				op |= 0x80
			}
			within = op&0x80 == 0
		}
		if seldom() {
			op ^= 1 << random.IntN(8)
		}
		n := random.IntN(20)
		if random.IntN(6) == 0 && op < 0x88 {
			n = random.IntN(400)
		}
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		f := frameOf(op, string(payload))
		if seldom() {
			f[1] ^= 1 << random.IntN(8)
		}
		if seldom() {
			f = appendMasked([]byte{op, 0xff, byte(random.IntN(2) << 7), 0, 0, 0, 0, 0, byte(random.IntN(2)), byte(n)}, string(payload))
		}
		if seldom() {
			f = appendMasked([]byte{op, 0xfe, 0, byte(n)}, string(payload))
		}
		b = append(b, f...)
	}
	switch random.IntN(6) {
	case 0:
		return b[:random.IntN(len(b)+1)]
	case 1:
		return append(b, closeFrame(random.IntN(6000), "reason")...)
	case 2:
		return append(b, frameOf(closes, []string{"", "\x03", "\x03\xe8\xff", "\x03\xe8é"}[random.IntN(4)])...)
	}
	return append(b, closeFrame(1000, "")...)
}

// asked is a script that calls before in front of each read, and counts the bytes.
type asked struct {
	script
	before func()
	given  int // bytes so far
}

func (a *asked) Read(p []byte) (int, error) {
	a.before()
	n, err := a.script.Read(p)
	a.given += n
	return n, err
}

// Frames and bytes are charged before the reader waits for more.
func TestAllIsChargedBeforeTheReaderWaits(t *testing.T) {
	in := join(frameOf(text, "abc"), frameOf(ping, "p"), frameOf(begin, "ab"), frameOf(last, "c"),
		frameOf(text, strings.Repeat("x", 10_000)), conversation)
	want, _ := judge(in, conversing)
	for _, size := range []int{7, 100, 5000, len(in)} {
		var l listener
		var r Reader
		conn := &asked{script: script{pieces: slices.Collect(slices.Chunk(in, size))}}
		conn.before = func() {
			given, _ := judge(in[:conn.given], conversing)
			if l.frames < given.frames || l.bytes < given.bytes {
				t.Errorf("in pieces of %d: it waits with %d frames and %d bytes charged, of %d and %d", size, l.frames, l.bytes, given.frames, given.bytes)
			}
		}
		r.Init(conn, nil, nil, &l, conversing)
		if diff := differ(l.readAll(&r), want); diff != "" {
			t.Errorf("in pieces of %d: %s", size, diff)
		}
	}
}

// Each part of a long frame is charged when it was read.
func TestLongFrameIsChargedInParts(t *testing.T) {
	in := frameOf(text, strings.Repeat("x", 20_000))
	const header = 8
	for _, size := range []int{100, 1000, 5000} {
		var l listener
		var r Reader
		conn := &asked{script: script{pieces: slices.Collect(slices.Chunk(in, size))}}
		conn.before = func() {
			if read := conn.given - header; read > 0 && l.bytes != read {
				t.Errorf("in pieces of %d: %d bytes are charged when %d were read", size, l.bytes, read)
			}
		}
		r.Init(conn, nil, nil, &l, Options{ReadLimit: plenty})
		if h := l.readAll(&r); len(h.messages) != 1 {
			t.Errorf("in pieces of %d: %q", size, h.end)
		}
	}
}

// A read costs the server more than a byte does, so each read is charged. Without a handle, the
// read with which a frame begins is not charged, because another read follows for the rest of the
// frame.
func TestEachReadIsCharged(t *testing.T) {
	for _, test := range []struct {
		name            string
		frames          []byte
		piece           int
		handle, without int // reads that are charged, with a handle and without
	}{
		{"a long frame, a byte at a time", frameOf(text, strings.Repeat("x", 20_000)), 1, 20_008, 20_007},
		{"a short frame, a byte at a time", frameOf(text, strings.Repeat("x", 100)), 1, 106, 105},
		{"a ping, a byte at a time", frameOf(ping, strings.Repeat("x", 125)), 1, 131, 130},
		{"fragments, a byte at a time", join(frameOf(begin, "abc"), frameOf(more, "def"), frameOf(last, "")), 1, 24, 21},
		{"a long frame in segments", frameOf(text, strings.Repeat("x", 20*1448-8)), 1448, 20, 20},
		{"a short frame in each piece", bytes.Repeat(frameOf(text, strings.Repeat("x", 94)), 50), 100, 50, 50},
		{"a frame of 16 bytes in each piece", bytes.Repeat(frameOf(text, "0123456789"), 50), 16, 50, 0},
		{"many frames in a piece", bytes.Repeat(frameOf(text, strings.Repeat("x", 94)), 40), 4000, 1, 1},
		{"a short frame in two pieces", bytes.Repeat(frameOf(text, strings.Repeat("x", 94)), 50), 50, 100, 100},
	} {
		pieces := slices.Collect(slices.Chunk(test.frames, test.piece))
		check := func(kind string, conn net.Conn, raw syscall.RawConn, want int) {
			var l listener
			var r Reader
			r.Init(conn, raw, nil, &l, Options{ReadLimit: plenty})
			if h := l.readAll(&r); h.end != "lost" || l.reads != want {
				t.Errorf("%s, %s: %d reads are charged, want %d; %q", test.name, kind, l.reads, want, h.end)
			}
		}
		check("without a handle", &script{pieces: slices.Clone(pieces)}, nil, test.without)
		if hasHandles {
			conn, raw := withHandle(t, slices.Clone(pieces))
			check("with a handle", conn, raw, test.handle)
		}
	}
}

// From 8 KB on, a session is asked whether it has space for the size to which a message has grown.
func TestLongMessageIsAdmittedInSteps(t *testing.T) {
	const size = 200_000
	in := join(frameOf(begin, strings.Repeat("a", size/2)), frameOf(last, strings.Repeat("b", size/2)))
	for _, piece := range []int{1000, 4096, 10_000} {
		var l listener
		var r Reader
		r.Init(&script{pieces: slices.Collect(slices.Chunk(in, piece))}, nil, nil, &l, Options{ReadLimit: plenty})
		l.admit = func(size int) {
			if size != len(r.msg.Data) {
				t.Errorf("asked for %d, and has %d", size, len(r.msg.Data))
			}
		}
		if h := l.readAll(&r); len(h.messages) != 1 {
			t.Fatalf("%+v", h)
		}
		if len(l.admits) == 0 || l.admits[0] < firstGrowth || l.admits[0] > firstGrowth+max(piece, 4096) || !slices.IsSorted(l.admits) {
			t.Errorf("in pieces of %d it asked for %v", piece, l.admits)
		}
	}
	var l listener
	var r Reader
	r.Init(&script{pieces: [][]byte{in[:8000]}}, nil, nil, &l, Options{ReadLimit: plenty})
	if l.readAll(&r); len(l.admits) > 0 {
		t.Errorf("of less it asked for %v", l.admits)
	}
}

// The session learns why a connection was lost.
func TestLostConnectionSaysWhy(t *testing.T) {
	for name, raw := range map[string]bool{"handle": true, "no handle": false} {
		for _, after := range [][]byte{nil, frameOf(begin, "x"), frameOf(text, "xyz")[:7], frameOf(text, "xyz")[:1], frameOf(text, strings.Repeat("x", 10_000))[:5000]} {
			t.Run(fmt.Sprintf("%s, after %d bytes", name, len(after)), func(t *testing.T) {
				l := tcpLine(t)
				if !raw {
					l.raw = nil
				}
				end := func(reset bool) error {
					var r Reader
					waited := 0
					l.waits = func() {
						if waited++; waited == 1 && len(after) > 0 {
							l.far.Write(after)
							return
						}
						if reset {
							l.far.(*net.TCPConn).SetLinger(0)
						}
						l.far.Close()
					}
					l.init(&r, nil, new(listener), Options{ReadLimit: plenty})
					_, err := r.Next()
					return err
				}
				if err := end(true); !isReset(err) {
					t.Errorf("after a reset: %v", err)
				}
			})
		}
	}
	l := tcpLine(t)
	l.far.Close()
	var r Reader
	l.init(&r, nil, new(listener), Options{})
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	l = tcpLine(t)
	l.waits = func() { go l.conn.Close() }
	l.init(&r, nil, new(listener), Options{})
	if _, err := r.Next(); err == nil || err == io.EOF {
		t.Errorf("when the server hangs up: %v", err)
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "read" && errors.Is(err, syscall.ECONNRESET)
}

// Drain reads until the end, and updates the time at which the client was heard.
func TestDrainReadsToTheEnd(t *testing.T) {
	overAll(t, func(t *testing.T, l *line) {
		var r Reader
		l.init(&r, nil, new(listener), Options{ReadLimit: plenty})
		r.Age(time.Hour)
		drained := make(chan struct{})
		go func() {
			r.Drain()
			close(drained)
		}()
		l.far.Write(make([]byte, 50_000))
		l.far.Close()
		select {
		case <-drained:
		case <-time.After(patience):
			t.Fatal("it still reads")
		}
		if idle := r.Idle(); idle > time.Minute {
			t.Errorf("nothing was heard for %v", idle)
		}
	})
}

// A Read may return no byte and no error. That has no meaning. If a connection goes on doing so,
// the reading ends.
func TestReadsThatReturnNothing(t *testing.T) {
	var pieces [][]byte
	for piece := range slices.Chunk(conversation, 5) {
		pieces = append(pieces, nil, piece, nil, nil)
	}
	want, _ := judge(conversation, conversing)
	if diff := differ(read(conversing, nil, pieces...), want); diff != "" {
		t.Error(diff)
	}
	var r Reader
	r.Init(&script{pieces: make([][]byte, 1000)}, nil, nil, new(listener), conversing)
	if _, err := r.Next(); err != io.ErrNoProgress {
		t.Error(err)
	}
}
