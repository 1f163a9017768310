package live_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// RFC 6455 and RFC 7692 as a client sees them that makes every frame by hand, over TCP: a
// server that sends each message back.

// echo is such a server.
type echo struct {
	*livetest.Host
	ends sync.Map // errors of sessions, by text, that ended with one
}

// startEcho starts one, whose plain clients are not bounded by a rate.
func startEcho(t testing.TB, opts live.Options) *echo {
	t.Helper()
	e := new(echo)
	opts.InboundRate = -1
	opts.QueueSize, opts.QueueBytes = 10_000, 64<<20
	opts.OnMessage = func(_ context.Context, s *live.Session, topic string, data []byte) {
		s.Send(live.Message{Topic: topic, Data: data})
	}
	opts.OnClose = func(_ *live.Session, err error) {
		if err != nil {
			e.ends.Store(err.Error(), err)
		}
	}
	e.Host = livetest.Hosting{}.Start(t, opts)
	return e
}

// talk is what a client heard to the end of its connection.
type talk struct {
	echoes []string
	pongs  []string
	close  string // payload of the close frame; "none" if there was none
	extra  string // what should not have come
}

// code returns the close code, or 0.
func (a talk) code() int {
	if a.close == "none" || len(a.close) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16([]byte(a.close)))
}

// take reads until so many echoes and pongs have come, or to the end.
func (a *talk) take(p *livetest.Client, echoes, pongs int) {
	for a.extra == "" && (len(a.echoes) < echoes || len(a.pongs) < pongs) {
		first, payload, err := livetest.ReadRaw(p.In)
		switch {
		case err == io.EOF && a.close != "none":
			return
		case err != nil:
			a.extra += fmt.Sprintf("error: %v;", err)
		case a.close != "none":
			a.extra += fmt.Sprintf("%#x %.100q after the close frame;", first, payload)
		case first == livetest.TextFrame:
			a.echoes = append(a.echoes, string(payload))
		case first == livetest.TextFrame|0x40:
			text, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
			if err != nil {
				a.extra += fmt.Sprintf("%v in a compressed message;", err)
			}
			a.echoes = append(a.echoes, string(text))
		case first == livetest.PongFrame:
			a.pongs = append(a.pongs, string(payload))
		case first == livetest.CloseFrame:
			a.close = string(payload)
			p.Write(livetest.Masked(livetest.CloseFrame, payload)) // without an answer the server waits
		default:
			a.extra += fmt.Sprintf("%#x %.100q;", first, payload)
		}
	}
}

// toTheEnd is more than ever comes.
const toTheEnd = 1 << 30

// say has a client send frames in one write, and returns what came back to the end. When
// all that is wanted has come before the close frame, the client says goodbye.
func (e *echo) say(t testing.TB, o livetest.Dialing, want talk, frames ...[]byte) talk {
	t.Helper()
	p, err := livetest.Try(t, e.Endpoint, o)
	if err != nil {
		t.Fatal(err)
	}
	return converse(p, want, frames...)
}

// converse is say on a connection that is there. The client hangs up with a RST after the
// server has: no port stays taken.
func converse(p *livetest.Client, want talk, frames ...[]byte) talk {
	defer p.Reset()
	p.Conn.SetDeadline(time.Now().Add(livetest.Patience))
	go p.Write(slices.Concat(frames...)) // ends with the connection
	a := talk{close: "none"}
	if want.close == bye {
		a.take(p, len(want.echoes), len(want.pongs))
		p.Write(livetest.Closing(live.CloseNormal, ""))
	}
	a.take(p, toTheEnd, toTheEnd)
	return a
}

// check compares what came with what is wanted. The reasons of the server's own codes are for
// people.
func (a talk) check(t *testing.T, what string, want talk) {
	t.Helper()
	if code := want.code(); code > 1000 && code < 3000 && len(want.close) == 2 && len(a.close) > 2 {
		a.close = a.close[:2]
	}
	if slices.Equal(a.echoes, want.echoes) && slices.Equal(a.pongs, want.pongs) && a.close == want.close && a.extra == "" {
		return
	}
	t.Errorf("%s: %d echoes, pongs %q, close frame %q, %s; want %d echoes, pongs %q, close frame %q",
		what, len(a.echoes), a.pongs, a.close, a.extra, len(want.echoes), want.pongs, want.close)
}

// Payloads of close frames.
const (
	bye      = "\x03\xe8" // a client's goodbye, and its answer
	broken   = "\x03\xea" // 1002
	notUTF8  = "\x03\xef" // 1007
	tooLarge = "\x03\xf1" // 1009
)

// m is a message that comes back as it is.
const m = `{"topic":"t","data":"é"}`

// Each rule in a connection of its own. Behind a fault more comes, which does not keep the
// client from seeing the close frame.
func TestServerKeepsTheRulesOfFrames(t *testing.T) {
	e := startEcho(t, live.Options{})
	long := strings.Repeat("p", 126)
	unmasked := func(f []byte) []byte { return append([]byte{f[0], f[1] &^ 0x80}, f[6:]...) }
	for _, tt := range []struct {
		name string
		in   []byte
		want talk
	}{
		{"nothing", nil, talk{close: bye}},
		{"text", livetest.Masked(livetest.TextFrame, m), talk{echoes: []string{m}, close: bye}},
		{"binary", livetest.Masked(livetest.BinaryFrame, m), talk{echoes: []string{m}, close: bye}},
		{"two fragments", slices.Concat(livetest.Masked(livetest.BeginFrame, m[:5]), livetest.Masked(livetest.LastFrame, m[5:])), talk{echoes: []string{m}, close: bye}},
		{"binary in fragments", slices.Concat(livetest.Masked(0x02, m[:5]), livetest.Masked(livetest.LastFrame, m[5:])), talk{echoes: []string{m}, close: bye}},
		{"empty fragments", slices.Concat(livetest.Masked(livetest.BeginFrame, ""), livetest.Masked(livetest.MoreFrame, ""), livetest.Masked(livetest.MoreFrame, m), livetest.Masked(livetest.LastFrame, "")), talk{echoes: []string{m}, close: bye}},
		{"a ping between fragments", slices.Concat(livetest.Masked(livetest.BeginFrame, m[:5]), livetest.Masked(livetest.PingFrame, "p"), livetest.Masked(livetest.LastFrame, m[5:])), talk{echoes: []string{m}, pongs: []string{"p"}, close: bye}},
		{"a pong for nothing", livetest.Masked(livetest.PongFrame, "x"), talk{close: bye}},
		{"a close frame between fragments", slices.Concat(livetest.Masked(livetest.BeginFrame, m[:5]), livetest.Closing(4000, ""), livetest.Masked(livetest.LastFrame, m[5:])), talk{close: "\x0f\xa0"}},
		{"two close frames", slices.Concat(livetest.Closing(4000, "first"), livetest.Closing(4001, "second")), talk{close: "\x0f\xa0first"}},
		{"a message after the close frame", slices.Concat(livetest.Closing(4000, ""), livetest.Masked(livetest.TextFrame, m), livetest.Masked(livetest.PingFrame, "p")), talk{close: "\x0f\xa0"}},

		{"RSV1", livetest.Masked(livetest.TextFrame|0x40, m), talk{close: broken}},
		{"RSV2", livetest.Masked(livetest.TextFrame|0x20, m), talk{close: broken}},
		{"RSV3", livetest.Masked(livetest.TextFrame|0x10, m), talk{close: broken}},
		{"RSV1 on a ping", livetest.Masked(livetest.PingFrame|0x40, ""), talk{close: broken}},
		{"RSV1 on a continuation", slices.Concat(livetest.Masked(livetest.BeginFrame, m[:5]), livetest.Masked(livetest.LastFrame|0x40, m[5:])), talk{close: broken}},
		{"RSV2 on a close frame", livetest.Masked(livetest.CloseFrame|0x20, bye), talk{close: broken}},
		{"opcode 3", livetest.Masked(0x83, m), talk{close: broken}}, {"opcode 4", livetest.Masked(0x84, m), talk{close: broken}}, {"opcode 5", livetest.Masked(0x85, m), talk{close: broken}},
		{"opcode 6", livetest.Masked(0x86, m), talk{close: broken}}, {"opcode 7", livetest.Masked(0x87, ""), talk{close: broken}}, {"opcode 7 with more", livetest.Masked(0x07, m), talk{close: broken}},
		{"opcode 11", livetest.Masked(0x8b, ""), talk{close: broken}}, {"opcode 12", livetest.Masked(0x8c, "x"), talk{close: broken}}, {"opcode 13", livetest.Masked(0x8d, ""), talk{close: broken}},
		{"opcode 14", livetest.Masked(0x8e, ""), talk{close: broken}}, {"opcode 15", livetest.Masked(0x8f, "x"), talk{close: broken}}, {"opcode 11 with more", livetest.Masked(0x0b, ""), talk{close: broken}},
		{"an unmasked text", unmasked(livetest.Masked(livetest.TextFrame, m)), talk{close: broken}},
		{"an unmasked ping", []byte{livetest.PingFrame, 0}, talk{close: broken}},
		{"an unmasked close frame", []byte{livetest.CloseFrame, 2, 0x03, 0xe8}, talk{close: broken}},
		{"a ping in fragments", slices.Concat(livetest.Masked(0x09, "p"), livetest.Masked(livetest.LastFrame, "q")), talk{close: broken}},
		{"a ping of 126 bytes", livetest.Masked(livetest.PingFrame, long), talk{close: broken}},
		{"a ping of 65,536 bytes", livetest.Masked(livetest.PingFrame, strings.Repeat("p", 1<<16)), talk{close: broken}},
		{"a close frame of 126 bytes", livetest.Masked(livetest.CloseFrame, bye+long[2:]), talk{close: broken}},
		{"a close frame of one byte", livetest.Masked(livetest.CloseFrame, "\x03"), talk{close: broken}},
		{"a continuation of nothing", livetest.Masked(livetest.LastFrame, m), talk{close: broken}},
		{"a continuation of nothing that goes on", livetest.Masked(livetest.MoreFrame, m), talk{close: broken}},
		{"a text within a text", slices.Concat(livetest.Masked(livetest.BeginFrame, m[:5]), livetest.Masked(livetest.TextFrame, m)), talk{close: broken}},
		{"5 bytes in the form for 126", append([]byte{livetest.TextFrame, 0xfe, 0, 5}, livetest.Masked(livetest.TextFrame, "hello")[2:]...), talk{close: broken}},
		{"5 bytes in the form for 65,536", append([]byte{livetest.TextFrame, 0xff, 0, 0, 0, 0, 0, 0, 0, 5}, livetest.Masked(livetest.TextFrame, "hello")[2:]...), talk{close: broken}},
		{"2^63 bytes", append([]byte{livetest.TextFrame, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0}, livetest.Masked(livetest.TextFrame, "hello")[2:]...), talk{close: broken}},
		{"2^62 bytes", append([]byte{livetest.TextFrame, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0}, livetest.Masked(livetest.TextFrame, "hello")[2:]...), talk{close: tooLarge}},
		{"a close reason that is not UTF-8", livetest.Closing(1000, "\xff"), talk{close: notUTF8}},
		{"a close reason with a surrogate", livetest.Closing(1000, "\xed\xa0\x80"), talk{close: notUTF8}},
		{"a close reason that ends in a character", livetest.Closing(1000, "é"[:1]), talk{close: notUTF8}},
	} {
		p, err := livetest.Try(t, e.Endpoint, livetest.Dialing{})
		if err != nil {
			t.Fatal(err)
		}
		p.Conn.SetDeadline(time.Now().Add(livetest.Patience))
		p.Write(livetest.Masked(livetest.TextFrame, m))
		first := talk{close: "none"}
		first.take(p, 1, 0)
		first.check(t, "first", talk{echoes: []string{m}, close: "none"})
		converse(p, tt.want, tt.in).check(t, tt.name, tt.want)

		// A client that goes on sending reads the close frame all the same.
		if tt.want.close != bye {
			e.say(t, livetest.Dialing{}, tt.want, tt.in, bytes.Repeat([]byte("x"), 1<<20)).check(t, tt.name+", and a megabyte", tt.want)
		}
	}
}

func TestPingsAreAnsweredWithTheirPayload(t *testing.T) {
	e := startEcho(t, live.Options{})
	for _, o := range []livetest.Dialing{{}, {V1: true}, {Deflate: true}} {
		p := e.Connect(t, o)
		p.Conn.SetDeadline(time.Now().Add(livetest.Patience))
		if o.V1 {
			livetest.ReadRaw(p.In) // hello
		}
		expect := func(want string) {
			t.Helper()
			if first, payload, err := livetest.ReadRaw(p.In); first != livetest.PongFrame || string(payload) != want || err != nil {
				t.Fatalf("%#x %q, %v, want a pong with %q", first, payload, err, want)
			}
		}
		payload := make([]byte, 125)
		for i := range payload {
			payload[i] = byte(255 - i)
		}
		for n := range 126 {
			p.Write(livetest.Masked(livetest.PingFrame, payload[:n]))
			expect(string(payload[:n]))
		}
		var many []byte
		for i := range 20 { // of the longest
			payload[0] = byte(i)
			many = append(many, livetest.Masked(livetest.PingFrame, payload)...)
		}
		p.Write(many)
		for i := range 20 {
			payload[0] = byte(i)
			expect(string(payload))
		}
		for _, n := range []int{126, 127, 200, 70_000} {
			got := e.say(t, o, talk{}, livetest.Masked(livetest.PingFrame, make([]byte, n)))
			got.echoes = nil // hello
			got.check(t, fmt.Sprintf("a ping of %d bytes", n), talk{close: broken})
		}
	}
}

// A message is cut into two and three fragments at every byte, with control frames between
// them.
func TestFragmentsInAllSplits(t *testing.T) {
	const text = `{"data":"é€😀x"}`
	e := startEcho(t, live.Options{})
	for _, between := range []struct {
		name   string
		frames []byte
		pongs  []string
	}{
		{"nothing", nil, nil},
		{"a ping", livetest.Masked(livetest.PingFrame, "p"), []string{"p"}},
		{"pings and pongs", slices.Concat(livetest.Masked(livetest.PingFrame, ""), livetest.Masked(livetest.PongFrame, "x"), livetest.Masked(livetest.PingFrame, "q")), []string{"", "q"}},
	} {
		for i := range len(text) + 1 {
			var in []byte // one connection for each first cut
			want := talk{close: bye}
			add := func(parts ...string) {
				first := byte(livetest.BeginFrame)
				for _, part := range parts[:len(parts)-1] {
					in = append(append(in, livetest.Masked(first, part)...), between.frames...)
					want.pongs = append(want.pongs, between.pongs...)
					first = livetest.MoreFrame
				}
				in = append(in, livetest.Masked(first|0x80, parts[len(parts)-1])...)
				want.echoes = append(want.echoes, text)
			}
			add(text[:i], text[i:])
			for j := i; j <= len(text); j++ {
				add(text[:i], text[i:j], text[j:])
			}
			e.say(t, livetest.Dialing{}, want, in).check(t, fmt.Sprintf("%s, cut at %d", between.name, i), want)
		}
	}
	var in []byte // a fragment for each byte
	first := byte(livetest.BeginFrame)
	for i := range len(text) {
		in = append(in, livetest.Masked(first, text[i:i+1])...)
		first = livetest.MoreFrame
	}
	want := talk{echoes: []string{text}, close: bye}
	e.say(t, livetest.Dialing{}, want, in, livetest.Masked(livetest.LastFrame, "")).check(t, "bytes", want)
}

// It does not matter where TCP cuts, nor how much comes with the handshake.
func TestConnectionIsCutAnywhere(t *testing.T) {
	e := startEcho(t, live.Options{})
	in := slices.Concat(livetest.Masked(livetest.TextFrame, m), livetest.Masked(livetest.PingFrame, "p"), livetest.Masked(livetest.BeginFrame, m[:3]), livetest.Masked(livetest.LastFrame, m[3:]))
	want := talk{echoes: []string{m, m}, pongs: []string{"p"}, close: bye}
	for i := range len(in) + 1 {
		p, err := livetest.Try(t, e.Endpoint, livetest.Dialing{})
		if err != nil {
			t.Fatal(err)
		}
		p.Write(in[:i])
		if i%8 == 0 {
			time.Sleep(time.Millisecond) // so that some of it is read before the rest comes
		}
		converse(p, want, in[i:]).check(t, fmt.Sprintf("cut at %d", i), want)
		converse(e.dialWith(t, in[:i]), want, in[i:]).check(t, fmt.Sprintf("%d bytes with the handshake", i), want)
	}
	for i := range len(in) + 1 { // the close frame too
		ends := slices.Concat(livetest.Masked(livetest.TextFrame, m), livetest.Closing(4000, "é"))
		i = min(i, len(ends))
		want := talk{echoes: []string{m}, close: "\x0f\xa0é"}
		converse(e.dialWith(t, ends[:i]), want, ends[i:]).check(t, fmt.Sprintf("closed, %d bytes with the handshake", i), want)
	}
}

// dialWith connects a peer that sends frames in one write with the handshake.
func (e *echo) dialWith(t testing.TB, frames []byte) *livetest.Client {
	t.Helper()
	return e.Connect(t, livetest.Dialing{Early: string(frames)})
}

// texts are strings of JSON: their bytes, and whether they are UTF-8.
var texts = []struct {
	name, text string
	valid      bool
}{
	{"ASCII", "plain", true},
	{"two, three and four bytes", "é€😀", true},
	{"the first and last of each length", "\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff", true},
	{"noncharacters", "\ufffe\uffff\ufdd0", true},
	{"a replacement character", "\ufffd", true},
	{"the RFC's greeting", "κόσμε Hello-µ@ßöäüàá-UTF-8!!", true},
	{"a byte order mark", "\ufeff", true},
	{"an escaped surrogate", `\ud800`, true}, // that is JSON's matter
	{"a lone continuation", "\x80", false},
	{"a lone continuation after ASCII", "abc\xbf", false},
	{"two bytes without the second", "\xc3", false},
	{"three bytes without the third", "\xe2\x82", false},
	{"four bytes without the fourth", "\xf0\x9f\x98", false},
	{"two bytes and ASCII", "\xc3x", false},
	{"overlong, two bytes", "\xc0\xaf", false},
	{"overlong, two bytes, the greatest", "\xc1\xbf", false},
	{"overlong, three bytes", "\xe0\x80\xaf", false},
	{"overlong, three bytes, the greatest", "\xe0\x9f\xbf", false},
	{"overlong, four bytes", "\xf0\x80\x80\xaf", false},
	{"overlong, four bytes, the greatest", "\xf0\x8f\xbf\xbf", false},
	{"five bytes", "\xf8\x88\x80\x80\x80", false},
	{"six bytes", "\xfc\x84\x80\x80\x80\x80", false},
	{"the first surrogate", "\xed\xa0\x80", false},
	{"the last surrogate", "\xed\xbf\xbf", false},
	{"a pair of surrogates", "\xed\xa0\xbd\xed\xb8\x80", false},
	{"beyond Unicode", "\xf4\x90\x80\x80", false},
	{"0xfe", "\xfe", false},
	{"0xff", "\xff", false},
	{"the RFC's greeting with a surrogate", "κόσμε\xed\xa0\x80edited", false},
}

// Text comes back as it was if it is UTF-8, wherever a fragment or a TCP segment ends. Text
// that is not ends the connection with 1007 (RFC 6455, section 8.1).
func TestTextIsUTF8(t *testing.T) {
	e := startEcho(t, live.Options{})
	cases := 0
	for _, tt := range texts {
		if utf8.ValidString(tt.text) != tt.valid {
			t.Fatalf("%s is not what it says", tt.name)
		}
		text := `{"data":"` + tt.text + `"}`
		from := len(`{"data":"`)
		for _, v1 := range []bool{false, true} {
			var hello []string
			if v1 {
				hello = []string{""}
			}
			for cut := from; cut <= from+len(tt.text); cut++ {
				frames := [][]byte{livetest.Masked(livetest.BeginFrame, text[:cut]), livetest.Masked(livetest.PingFrame, ""), livetest.Masked(livetest.LastFrame, text[cut:])}
				want := talk{close: bye, echoes: append(hello, text, m), pongs: []string{""}}
				if cut == from {
					frames, want.pongs = [][]byte{livetest.Masked(livetest.TextFrame, text)}, nil
				}
				if !tt.valid {
					want.close, want.echoes = notUTF8, hello
				}
				got := e.say(t, livetest.Dialing{V1: v1}, want, slices.Concat(frames...), livetest.Masked(livetest.TextFrame, m))
				if v1 {
					if len(got.echoes) == 0 || !strings.HasPrefix(got.echoes[0], `{"op":"hello"`) {
						t.Fatalf("%s: %+q", tt.name, got)
					}
					got.echoes[0] = ""
				}
				got.check(t, fmt.Sprintf("%s, cut at %d, live.v1 %v", tt.name, cut, v1), want)
				cases++
			}
		}
	}
	t.Log(cases, "cases")
}

// A close frame is answered with its own code and reason, and ends the connection. A code that
// may not be sent is a fault (section 7.4).
func TestCloseCodesComeBack(t *testing.T) {
	t.Parallel()
	e := startEcho(t, live.Options{})
	allowed := func(code int) bool {
		return code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999
	}
	try := func(code int, reason string) {
		want := talk{close: string([]byte{byte(code >> 8), byte(code)}) + reason}
		if !allowed(code) {
			want.close = broken
		}
		got := e.say(t, livetest.Dialing{}, talk{}, livetest.Closing(code, reason))
		if allowed(code) && got.close != want.close {
			t.Errorf("%d %q is answered with %q", code, reason, got.close)
			return
		}
		got.check(t, fmt.Sprintf("%d %q", code, reason), want)
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for code := int(next.Add(1)) - 1; code <= 5000; code = int(next.Add(1)) - 1 {
				if code < 1100 || code%11 == 0 { // package inbox tests each of them without a connection
					try(code, []string{"", "because", "é"}[code%3])
				}
			}
		})
	}
	all.Wait()
	for _, code := range []int{0, 999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 65535} {
		for _, reason := range []string{"", "a reason", strings.Repeat("r", 123), strings.Repeat("€", 41)} {
			try(code, reason)
		}
	}
	e.say(t, livetest.Dialing{}, talk{}, livetest.Masked(livetest.CloseFrame, "")).check(t, "no code", talk{close: ""})
	livetest.Eventually(t, "every session has ended", func() bool { return e.Stats().Sessions == 0 })
}

// Sizes around those at which the form of a length and the way of a message change, up to a
// ReadLimit of 4 MiB.
func TestSizesUpToReadLimit(t *testing.T) {
	t.Parallel()
	// With a key of zeros, since masking megabytes takes the race detector seconds.
	masked := func(first byte, payload string) []byte {
		var key [4]byte
		header := livetest.Masked(first, payload[:min(len(payload), 1<<16)])
		header = header[:len(header)-min(len(payload), 1<<16)-len(key)]
		if len(payload) > 1<<16 {
			binary.BigEndian.PutUint64(header[2:], uint64(len(payload)))
		}
		return slices.Concat(header, key[:], []byte(payload))
	}
	const limit = 4 << 20
	const around = len(`{"data":""}`)
	e := startEcho(t, live.Options{ReadLimit: limit})
	of := func(size int) string {
		return `{"data":"` + strings.Repeat("0123456789abcdef", (size-around)/16+1)[:size-around] + `"}`
	}
	for _, size := range []int{around, 100, 125, 126, 127, 128, 1000, 4095, 4096, 4097, 8191, 8192, 8193, 1<<16 - 1, 1 << 16, 1<<16 + 1, 100_000, 1 << 20, limit} {
		text := of(size)
		frames := [][]byte{masked(livetest.TextFrame, text)}
		want := talk{echoes: []string{text}, close: bye}
		if size < 1<<20 {
			frames = append(frames, masked(livetest.BeginFrame, text[:size/3]), masked(livetest.MoreFrame, text[size/3:size/2]), masked(livetest.LastFrame, text[size/2:]))
			want.echoes = append(want.echoes, text)
		}
		e.say(t, livetest.Dialing{}, want, frames...).check(t, fmt.Sprintf("%d bytes", size), want)
	}
	for name, frames := range map[string][][]byte{
		"in a frame":       {masked(livetest.TextFrame, of(limit+1))},
		"in fragments":     {masked(livetest.BeginFrame, of(limit)), masked(livetest.LastFrame, " ")},
		"the header alone": {masked(livetest.TextFrame, of(limit+1))[:14]},
	} {
		e.say(t, livetest.Dialing{}, talk{}, frames...).check(t, "one more, "+name, talk{close: tooLarge})
	}
	before := e.Stats().Malformed
	want := talk{echoes: []string{m}, close: bye}
	e.say(t, livetest.Dialing{}, want, masked(livetest.TextFrame, ""), masked(livetest.BeginFrame, ""), masked(livetest.LastFrame, ""), masked(livetest.TextFrame, m)).check(t, "nothing", want)
	if got := e.Stats().Malformed - before; got != 2 {
		t.Errorf("%d of 2 empty messages count as malformed", got)
	}
	if _, ok := e.ends.Load(live.ErrMessageTooBig.Error()); !ok {
		t.Error("no session ended with ErrMessageTooBig")
	}
}

// compressedText returns the payload of a compressed message.
func compressedText(text string, level int, final bool) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		panic(err)
	}
	io.WriteString(w, text)
	if final { // RFC 7692, section 7.2.3.4
		w.Close()
		return b.String() + "\x00"
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

func TestCompressedMessages(t *testing.T) {
	e := startEcho(t, live.Options{Compression: true, ReadLimit: 1 << 20})
	const rsv1 = 0x40
	agreed := livetest.Dialing{Deflate: true}
	var in [][]byte
	want := talk{close: bye}
	for _, size := range []int{0, 1, 100, 1000, 50_000, 1<<20 - len(`{"data":""}`)} {
		text := `{"data":"` + strings.Repeat("lorem ipsum ", size/12+1)[:size] + `"}`
		for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, flate.BestSpeed, flate.BestCompression} {
			for _, final := range []bool{false, true} {
				if size > 100_000 && (level != flate.BestSpeed || final) {
					continue // once is enough
				}
				c := compressedText(text, level, final)
				n := len(c) / 2
				in = append(in, livetest.Masked(livetest.TextFrame|rsv1, c), livetest.Masked(livetest.BeginFrame|rsv1, c[:n]), livetest.Masked(livetest.PingFrame, "p"), livetest.Masked(livetest.MoreFrame, ""), livetest.Masked(livetest.LastFrame, c[n:]), livetest.Masked(livetest.TextFrame, text))
				want.echoes = append(want.echoes, text, text, text)
				want.pongs = append(want.pongs, "p")
			}
		}
	}
	e.say(t, agreed, want, in...).check(t, "valid", want)

	whole := compressedText(m, 6, false)
	for _, tt := range []struct {
		name string
		o    livetest.Dialing
		in   []byte
		code int
	}{
		{"not agreed", livetest.Dialing{}, livetest.Masked(livetest.TextFrame|rsv1, whole), 1002},
		{"on a continuation", agreed, slices.Concat(livetest.Masked(livetest.BeginFrame|rsv1, whole[:3]), livetest.Masked(livetest.LastFrame|rsv1, whole[3:])), 1002},
		{"on a continuation only", agreed, slices.Concat(livetest.Masked(livetest.BeginFrame, "x"), livetest.Masked(livetest.LastFrame|rsv1, whole)), 1002},
		{"on a ping", agreed, livetest.Masked(livetest.PingFrame|rsv1, ""), 1002},
		{"with RSV2", agreed, livetest.Masked(livetest.TextFrame|0x60, whole), 1002},
		{"not deflate", agreed, livetest.Masked(livetest.TextFrame|rsv1, m), 1007},
		{"nothing", agreed, livetest.Masked(livetest.TextFrame|rsv1, ""), 1007},
		{"cut", agreed, livetest.Masked(livetest.TextFrame|rsv1, whole[:len(whole)-3]), 1007},
		{"a bomb", agreed, livetest.Masked(livetest.TextFrame|rsv1, compressedText(strings.Repeat("x", 10<<20), 1, false)), 1009},
		{"a byte too much", agreed, livetest.Masked(livetest.TextFrame|rsv1, compressedText(strings.Repeat("x", 1<<20+1), 9, false)), 1009},
		{"not UTF-8, live.v1", livetest.Dialing{Deflate: true, V1: true}, livetest.Masked(livetest.TextFrame|rsv1, compressedText("{\"data\":\"\xff\"}", 6, false)), 1007},
	} {
		if got := e.say(t, tt.o, talk{}, tt.in); got.code() != tt.code || got.extra != "" {
			t.Errorf("%s: %d, %s, want %d", tt.name, got.code(), got.extra, tt.code)
		}
	}
	if _, ok := e.ends.Load(live.ErrMessageTooBig.Error()); !ok {
		t.Error("no session ended with ErrMessageTooBig")
	}
}

// What the outbox rests on: coder/websocket hands over each of its control frames
// whole, in one Write. Were it to split one, the outbox would refuse it, and
// the longest pong and the longest close echo would not come back.
func TestLongestControlFramesComeBack(t *testing.T) {
	_, url := serve(t, live.Options{})
	c := dial(t, url)
	conn, br := c.Conn, c.In
	conn.SetDeadline(time.Now().Add(livetest.Patience))
	masked := func(first byte, payload string) string {
		return string([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
	}
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(br, got); err != nil || string(got) != want {
			t.Fatalf("got % .20x…, %v; want % .20x…", got, err, want)
		}
	}
	long := strings.Repeat("p", 125)
	// A ping between the parts of a message is coder/websocket's to answer.
	fmt.Fprint(conn, masked(0x01, `{"topic"`), masked(0x89, long), masked(0x80, `:"t"}`))
	expect("\x8a\x7d" + long)
	fmt.Fprint(conn, masked(0x89, long))
	expect("\x8a\x7d" + long)
	fmt.Fprint(conn, masked(0x88, "\x03\xe8"+long[:123]))
	expect("\x88\x7d\x03\xe8" + long[:123])
}
