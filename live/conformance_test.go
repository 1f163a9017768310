package live_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live"
)

// RFC 6455 and RFC 7692 as a client sees them that makes every frame by hand, over TCP: a
// server that sends each message back.

// echo is such a server.
type echo struct {
	*host
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
	e.host = hosting{}.start(t, opts)
	return e
}

// More first bytes of frames: a text that goes on, a continuation, and the last.
const (
	fBegin  = 0x01
	fMore   = 0x00
	fLast   = 0x80
	fBinary = 0x82
)

// hear returns the next frame as it came.
func (p *peer) hear() (first byte, payload []byte, err error) {
	var head [10]byte
	if _, err := io.ReadFull(p.in, head[:2]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		_, err = io.ReadFull(p.in, head[2:4])
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		_, err = io.ReadFull(p.in, head[2:10])
		n = binary.BigEndian.Uint64(head[2:])
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(p.in, payload)
	return head[0], payload, err
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
func (a *talk) take(p *peer, echoes, pongs int) {
	for a.extra == "" && (len(a.echoes) < echoes || len(a.pongs) < pongs) {
		first, payload, err := p.hear()
		switch {
		case err == io.EOF && a.close != "none":
			return
		case err != nil:
			a.extra += fmt.Sprintf("error: %v;", err)
		case a.close != "none":
			a.extra += fmt.Sprintf("%#x %.100q after the close frame;", first, payload)
		case first == fText:
			a.echoes = append(a.echoes, string(payload))
		case first == fText|0x40:
			text, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
			if err != nil {
				a.extra += fmt.Sprintf("%v in a compressed message;", err)
			}
			a.echoes = append(a.echoes, string(text))
		case first == fPong:
			a.pongs = append(a.pongs, string(payload))
		case first == fClose:
			a.close = string(payload)
			p.write(masked(fClose, payload)) // without an answer the server waits
		default:
			a.extra += fmt.Sprintf("%#x %.100q;", first, payload)
		}
	}
}

// toTheEnd is more than ever comes.
const toTheEnd = 1 << 30

// say has a client send frames in one write, and returns what came back to the end. When
// all that is wanted has come before the close frame, the client says goodbye.
func (e *echo) say(t testing.TB, o dialling, want talk, frames ...[]byte) talk {
	t.Helper()
	p, err := e.tryDial(o)
	if err != nil {
		t.Fatal(err)
	}
	return p.converse(want, frames...)
}

// converse is say on a connection that is there. The client hangs up with a RST after the
// server has: no port stays taken.
func (p *peer) converse(want talk, frames ...[]byte) talk {
	defer p.reset()
	p.conn.SetDeadline(time.Now().Add(patience))
	go p.write(slices.Concat(frames...)) // ends with the connection
	a := talk{close: "none"}
	if want.close == bye {
		a.take(p, len(want.echoes), len(want.pongs))
		p.write(closeWith(live.CloseNormal, ""))
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

func closeWith(code int, reason string) []byte {
	return masked(fClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
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
		{"text", masked(fText, m), talk{echoes: []string{m}, close: bye}},
		{"binary", masked(fBinary, m), talk{echoes: []string{m}, close: bye}},
		{"two fragments", slices.Concat(masked(fBegin, m[:5]), masked(fLast, m[5:])), talk{echoes: []string{m}, close: bye}},
		{"binary in fragments", slices.Concat(masked(0x02, m[:5]), masked(fLast, m[5:])), talk{echoes: []string{m}, close: bye}},
		{"empty fragments", slices.Concat(masked(fBegin, ""), masked(fMore, ""), masked(fMore, m), masked(fLast, "")), talk{echoes: []string{m}, close: bye}},
		{"a ping between fragments", slices.Concat(masked(fBegin, m[:5]), masked(fPing, "p"), masked(fLast, m[5:])), talk{echoes: []string{m}, pongs: []string{"p"}, close: bye}},
		{"a pong for nothing", masked(fPong, "x"), talk{close: bye}},
		{"a close frame between fragments", slices.Concat(masked(fBegin, m[:5]), closeWith(4000, ""), masked(fLast, m[5:])), talk{close: "\x0f\xa0"}},
		{"two close frames", slices.Concat(closeWith(4000, "first"), closeWith(4001, "second")), talk{close: "\x0f\xa0first"}},
		{"a message after the close frame", slices.Concat(closeWith(4000, ""), masked(fText, m), masked(fPing, "p")), talk{close: "\x0f\xa0"}},

		{"RSV1", masked(fText|0x40, m), talk{close: broken}},
		{"RSV2", masked(fText|0x20, m), talk{close: broken}},
		{"RSV3", masked(fText|0x10, m), talk{close: broken}},
		{"RSV1 on a ping", masked(fPing|0x40, ""), talk{close: broken}},
		{"RSV1 on a continuation", slices.Concat(masked(fBegin, m[:5]), masked(fLast|0x40, m[5:])), talk{close: broken}},
		{"RSV2 on a close frame", masked(fClose|0x20, bye), talk{close: broken}},
		{"opcode 3", masked(0x83, m), talk{close: broken}}, {"opcode 4", masked(0x84, m), talk{close: broken}}, {"opcode 5", masked(0x85, m), talk{close: broken}},
		{"opcode 6", masked(0x86, m), talk{close: broken}}, {"opcode 7", masked(0x87, ""), talk{close: broken}}, {"opcode 7 with more", masked(0x07, m), talk{close: broken}},
		{"opcode 11", masked(0x8b, ""), talk{close: broken}}, {"opcode 12", masked(0x8c, "x"), talk{close: broken}}, {"opcode 13", masked(0x8d, ""), talk{close: broken}},
		{"opcode 14", masked(0x8e, ""), talk{close: broken}}, {"opcode 15", masked(0x8f, "x"), talk{close: broken}}, {"opcode 11 with more", masked(0x0b, ""), talk{close: broken}},
		{"an unmasked text", unmasked(masked(fText, m)), talk{close: broken}},
		{"an unmasked ping", []byte{fPing, 0}, talk{close: broken}},
		{"an unmasked close frame", []byte{fClose, 2, 0x03, 0xe8}, talk{close: broken}},
		{"a ping in fragments", slices.Concat(masked(0x09, "p"), masked(fLast, "q")), talk{close: broken}},
		{"a ping of 126 bytes", masked(fPing, long), talk{close: broken}},
		{"a ping of 65,536 bytes", masked(fPing, strings.Repeat("p", 1<<16)), talk{close: broken}},
		{"a close frame of 126 bytes", masked(fClose, bye+long[2:]), talk{close: broken}},
		{"a close frame of one byte", masked(fClose, "\x03"), talk{close: broken}},
		{"a continuation of nothing", masked(fLast, m), talk{close: broken}},
		{"a continuation of nothing that goes on", masked(fMore, m), talk{close: broken}},
		{"a text within a text", slices.Concat(masked(fBegin, m[:5]), masked(fText, m)), talk{close: broken}},
		{"5 bytes in the form for 126", append([]byte{fText, 0xfe, 0, 5}, masked(fText, "hello")[2:]...), talk{close: broken}},
		{"5 bytes in the form for 65,536", append([]byte{fText, 0xff, 0, 0, 0, 0, 0, 0, 0, 5}, masked(fText, "hello")[2:]...), talk{close: broken}},
		{"2^63 bytes", append([]byte{fText, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0}, masked(fText, "hello")[2:]...), talk{close: broken}},
		{"2^62 bytes", append([]byte{fText, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0}, masked(fText, "hello")[2:]...), talk{close: tooLarge}},
		{"a close reason that is not UTF-8", closeWith(1000, "\xff"), talk{close: notUTF8}},
		{"a close reason with a surrogate", closeWith(1000, "\xed\xa0\x80"), talk{close: notUTF8}},
		{"a close reason that ends in a character", closeWith(1000, "é"[:1]), talk{close: notUTF8}},
	} {
		p, err := e.tryDial(dialling{})
		if err != nil {
			t.Fatal(err)
		}
		p.conn.SetDeadline(time.Now().Add(patience))
		p.write(masked(fText, m))
		first := talk{close: "none"}
		first.take(p, 1, 0)
		first.check(t, "first", talk{echoes: []string{m}, close: "none"})
		p.converse(tt.want, tt.in).check(t, tt.name, tt.want)

		// A client that goes on sending reads the close frame all the same.
		if tt.want.close != bye {
			e.say(t, dialling{}, tt.want, tt.in, bytes.Repeat([]byte("x"), 1<<20)).check(t, tt.name+", and a megabyte", tt.want)
		}
	}
}

func TestPingsAreAnsweredWithTheirPayload(t *testing.T) {
	e := startEcho(t, live.Options{})
	for _, o := range []dialling{{}, {v1: true}, {deflate: true}} {
		p := e.dial(t, o)
		p.conn.SetDeadline(time.Now().Add(patience))
		if o.v1 {
			p.hear() // hello
		}
		expect := func(want string) {
			t.Helper()
			if first, payload, err := p.hear(); first != fPong || string(payload) != want || err != nil {
				t.Fatalf("%#x %q, %v, want a pong with %q", first, payload, err, want)
			}
		}
		payload := make([]byte, 125)
		for i := range payload {
			payload[i] = byte(255 - i)
		}
		for n := range 126 {
			p.write(masked(fPing, payload[:n]))
			expect(string(payload[:n]))
		}
		var many []byte
		for i := range 20 { // of the longest
			payload[0] = byte(i)
			many = append(many, masked(fPing, payload)...)
		}
		p.write(many)
		for i := range 20 {
			payload[0] = byte(i)
			expect(string(payload))
		}
		for _, n := range []int{126, 127, 200, 70_000} {
			got := e.say(t, o, talk{}, masked(fPing, make([]byte, n)))
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
		{"a ping", masked(fPing, "p"), []string{"p"}},
		{"pings and pongs", slices.Concat(masked(fPing, ""), masked(fPong, "x"), masked(fPing, "q")), []string{"", "q"}},
	} {
		for i := range len(text) + 1 {
			var in []byte // one connection for each first cut
			want := talk{close: bye}
			add := func(parts ...string) {
				first := byte(fBegin)
				for _, part := range parts[:len(parts)-1] {
					in = append(append(in, masked(first, part)...), between.frames...)
					want.pongs = append(want.pongs, between.pongs...)
					first = fMore
				}
				in = append(in, masked(first|0x80, parts[len(parts)-1])...)
				want.echoes = append(want.echoes, text)
			}
			add(text[:i], text[i:])
			for j := i; j <= len(text); j++ {
				add(text[:i], text[i:j], text[j:])
			}
			e.say(t, dialling{}, want, in).check(t, fmt.Sprintf("%s, cut at %d", between.name, i), want)
		}
	}
	var in []byte // a fragment for each byte
	first := byte(fBegin)
	for i := range len(text) {
		in = append(in, masked(first, text[i:i+1])...)
		first = fMore
	}
	want := talk{echoes: []string{text}, close: bye}
	e.say(t, dialling{}, want, in, masked(fLast, "")).check(t, "bytes", want)
}

// It does not matter where TCP cuts, nor how much comes with the handshake.
func TestConnectionIsCutAnywhere(t *testing.T) {
	e := startEcho(t, live.Options{})
	in := slices.Concat(masked(fText, m), masked(fPing, "p"), masked(fBegin, m[:3]), masked(fLast, m[3:]))
	want := talk{echoes: []string{m, m}, pongs: []string{"p"}, close: bye}
	for i := range len(in) + 1 {
		p, err := e.tryDial(dialling{})
		if err != nil {
			t.Fatal(err)
		}
		p.write(in[:i])
		if i%8 == 0 {
			time.Sleep(time.Millisecond) // so that some of it is read before the rest comes
		}
		p.converse(want, in[i:]).check(t, fmt.Sprintf("cut at %d", i), want)
		e.dialWith(t, in[:i]).converse(want, in[i:]).check(t, fmt.Sprintf("%d bytes with the handshake", i), want)
	}
	for i := range len(in) + 1 { // the close frame too
		ends := slices.Concat(masked(fText, m), closeWith(4000, "é"))
		i = min(i, len(ends))
		want := talk{echoes: []string{m}, close: "\x0f\xa0é"}
		e.dialWith(t, ends[:i]).converse(want, ends[i:]).check(t, fmt.Sprintf("closed, %d bytes with the handshake", i), want)
	}
}

// dialWith connects a peer that sends frames in one write with the handshake.
func (e *echo) dialWith(t testing.TB, frames []byte) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", e.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	conn.Write(append([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"), frames...))
	p := &peer{t: t, conn: conn, line: &slowLine{Conn: conn}, in: bufio.NewReader(conn)}
	resp, err := http.ReadResponse(p.in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	return p
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
				frames := [][]byte{masked(fBegin, text[:cut]), masked(fPing, ""), masked(fLast, text[cut:])}
				want := talk{close: bye, echoes: append(hello, text, m), pongs: []string{""}}
				if cut == from {
					frames, want.pongs = [][]byte{masked(fText, text)}, nil
				}
				if !tt.valid {
					want.close, want.echoes = notUTF8, hello
				}
				got := e.say(t, dialling{v1: v1}, want, slices.Concat(frames...), masked(fText, m))
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
	e := startEcho(t, live.Options{})
	allowed := func(code int) bool {
		return code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999
	}
	try := func(code int, reason string) {
		want := talk{close: string([]byte{byte(code >> 8), byte(code)}) + reason}
		if !allowed(code) {
			want.close = broken
		}
		got := e.say(t, dialling{}, talk{}, closeWith(code, reason))
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
				try(code, []string{"", "because", "é"}[code%3])
			}
		})
	}
	all.Wait()
	for _, code := range []int{0, 999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 65535} {
		for _, reason := range []string{"", "a reason", strings.Repeat("r", 123), strings.Repeat("€", 41)} {
			try(code, reason)
		}
	}
	e.say(t, dialling{}, talk{}, masked(fClose, "")).check(t, "no code", talk{close: ""})
	eventually(t, "every session has ended", func() bool { return e.Stats().Sessions == 0 })
}

// Sizes around those at which the form of a length and the way of a message change, up to a
// ReadLimit of 16 MiB.
func TestSizesUpToReadLimit(t *testing.T) {
	// With a key of zeros, since masking megabytes takes the race detector seconds.
	masked := func(first byte, payload string) []byte {
		var key [4]byte
		header := masked(first, payload[:min(len(payload), 1<<16)])
		header = header[:len(header)-min(len(payload), 1<<16)-len(key)]
		if len(payload) > 1<<16 {
			binary.BigEndian.PutUint64(header[2:], uint64(len(payload)))
		}
		return slices.Concat(header, key[:], []byte(payload))
	}
	const limit = 16 << 20
	const around = len(`{"data":""}`)
	e := startEcho(t, live.Options{ReadLimit: limit})
	of := func(size int) string {
		return `{"data":"` + strings.Repeat("0123456789abcdef", (size-around)/16+1)[:size-around] + `"}`
	}
	for _, size := range []int{around, 100, 125, 126, 127, 128, 1000, 4095, 4096, 4097, 8191, 8192, 8193, 1<<16 - 1, 1 << 16, 1<<16 + 1, 100_000, 1 << 20, limit} {
		text := of(size)
		frames := [][]byte{masked(fText, text)}
		want := talk{echoes: []string{text}, close: bye}
		if size < 1<<20 {
			frames = append(frames, masked(fBegin, text[:size/3]), masked(fMore, text[size/3:size/2]), masked(fLast, text[size/2:]))
			want.echoes = append(want.echoes, text)
		}
		e.say(t, dialling{}, want, frames...).check(t, fmt.Sprintf("%d bytes", size), want)
	}
	for name, frames := range map[string][][]byte{
		"in a frame":       {masked(fText, of(limit+1))},
		"in fragments":     {masked(fBegin, of(limit)), masked(fLast, " ")},
		"the header alone": {masked(fText, of(limit+1))[:14]},
	} {
		e.say(t, dialling{}, talk{}, frames...).check(t, "one more, "+name, talk{close: tooLarge})
	}
	before := e.Stats().Malformed
	want := talk{echoes: []string{m}, close: bye}
	e.say(t, dialling{}, want, masked(fText, ""), masked(fBegin, ""), masked(fLast, ""), masked(fText, m)).check(t, "nothing", want)
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
	agreed := dialling{deflate: true}
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
				in = append(in, masked(fText|rsv1, c), masked(fBegin|rsv1, c[:n]), masked(fPing, "p"), masked(fMore, ""), masked(fLast, c[n:]), masked(fText, text))
				want.echoes = append(want.echoes, text, text, text)
				want.pongs = append(want.pongs, "p")
			}
		}
	}
	e.say(t, agreed, want, in...).check(t, "valid", want)

	whole := compressedText(m, 6, false)
	for _, tt := range []struct {
		name string
		o    dialling
		in   []byte
		code int
	}{
		{"not agreed", dialling{}, masked(fText|rsv1, whole), 1002},
		{"on a continuation", agreed, slices.Concat(masked(fBegin|rsv1, whole[:3]), masked(fLast|rsv1, whole[3:])), 1002},
		{"on a continuation only", agreed, slices.Concat(masked(fBegin, "x"), masked(fLast|rsv1, whole)), 1002},
		{"on a ping", agreed, masked(fPing|rsv1, ""), 1002},
		{"with RSV2", agreed, masked(fText|0x60, whole), 1002},
		{"not deflate", agreed, masked(fText|rsv1, m), 1007},
		{"nothing", agreed, masked(fText|rsv1, ""), 1007},
		{"cut", agreed, masked(fText|rsv1, whole[:len(whole)-3]), 1007},
		{"a bomb", agreed, masked(fText|rsv1, compressedText(strings.Repeat("x", 10<<20), 1, false)), 1009},
		{"a byte too much", agreed, masked(fText|rsv1, compressedText(strings.Repeat("x", 1<<20+1), 9, false)), 1009},
		{"not UTF-8, live.v1", dialling{deflate: true, v1: true}, masked(fText|rsv1, compressedText("{\"data\":\"\xff\"}", 6, false)), 1007},
	} {
		if got := e.say(t, tt.o, talk{}, tt.in); got.code() != tt.code || got.extra != "" {
			t.Errorf("%s: %d, %s, want %d", tt.name, got.code(), got.extra, tt.code)
		}
	}
	if _, ok := e.ends.Load(live.ErrMessageTooBig.Error()); !ok {
		t.Error("no session ended with ErrMessageTooBig")
	}
}
