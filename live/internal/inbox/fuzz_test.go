package inbox

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A Reader must agree with the model and with coder/websocket about every input, however it is
// cut, and over every kind of connection.
func FuzzReader(f *testing.F) {
	long := join(frameOf(text, strings.Repeat("x", 10_000)), frameOf(begin, strings.Repeat("y", 5000)), frameOf(last, "z"), closeFrame(1000, ""))
	for _, seed := range [][]byte{
		conversation, long, nil, closeFrame(1000, "bye"), closeFrame(1005, ""), closeFrame(1000, "\xff"), frameOf(closes, "\x03"), closeFrame(2999, "no"),
		join(frameOf(begin, "a"), frameOf(ping, "p"), frameOf(last, "b"), frameOf(last, "c")), join(frameOf(begin, "a"), frameOf(text, "b")),
		frameOf(0x93, "x"), frameOf(0x8b, ""), frameOf(0x09, "x"), {text, 1, 'x'}, frameOf(ping, strings.Repeat("p", 126)),
		appendMasked([]byte{text, 0xfe, 0, 5}, "short"), appendMasked([]byte{text, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0}, ""), appendMasked([]byte{text, 0xff, 0, 0, 1, 0, 0, 0, 0, 0}, "x"),
		join(frameOf(0xc1, "x"), frameOf(0x41, "y"), frameOf(last, "z")), bytes.Repeat(frameOf(ping, "p"), 50),
		join(frameOf(text, ""), frameOf(text, "x")[:6]), join(frameOf(begin, "a"), frameOf(last, "b")[:6]), []byte("\x02\xff\xff\xff\xffw\xaa\xecR\x18"), []byte("\x89\xfe"), []byte("\x89\xfe\x00\x01\x00\x00\x00\x00x"),
	} {
		for flags := range byte(16) {
			f.Add(seed, uint16(0), []byte{0}, flags)
		}
		f.Add(seed, uint16(len(seed)/2), []byte{255, 3, 0, 7}, byte(15))
		f.Add(seed, uint16(3), []byte{255}, byte(8))
	}
	f.Fuzz(func(t *testing.T, in []byte, early uint16, cuts []byte, flags byte) {
		o := Options{ReadLimit: []int{10, 300, 5000, plenty}[flags>>1&3], Compressed: flags&1 == 1}
		with := min(int(early), len(in))
		conn, raw := net.Conn(&script{pieces: cut(in[with:], cuts)}), hasHandles && flags&8 != 0
		var r Reader
		var l listener
		if raw {
			conn, handle := withHandle(t, cut(in[with:], cuts))
			r.Init(conn, handle, bytes.Clone(in[:with]), &l, o)
		} else {
			r.Init(conn, nil, bytes.Clone(in[:with]), &l, o)
		}
		want, why := judge(in, o)
		if diff := differ(l.readAll(&r), want); diff != "" {
			t.Fatalf("%s\n%s", why, diff)
		}
		if !o.Compressed {
			compareWithCoder(t, in, want, why, o)
		}
	})
}

// cut cuts the input into pieces. Each byte of cuts is the size of a piece, of up to 2 KB.
func cut(in, cuts []byte) (pieces [][]byte) {
	for i := 0; len(in) > 0; i++ {
		n := len(in)
		if len(cuts) > 0 {
			c := int(cuts[i%len(cuts)])
			n = min(n, 1+c*c/32)
		}
		pieces = append(pieces, in[:n])
		in = in[n:]
	}
	return pieces
}

// compareWithCoder makes coder/websocket read the same input, and compares the results.
//
// Where the Reader is stricter, coder/websocket goes on: it takes lengths that are not
// minimal, of control frames too, and reasons that are not UTF-8, and reads a message that is too big until it is.
// When a connection ends between the header of a frame and its payload, or between two
// fragments, it takes the message for complete.
func compareWithCoder(t *testing.T, in []byte, want heard, why string, o Options) {
	t.Helper()
	stricter := slices.Contains([]string{"a length that is not minimal", "a long control frame", "a close reason that is not UTF-8"}, why)
	refused := strings.HasPrefix(want.end, "broken")
	if refused {
		in = append(slices.Clone(in), bytes.Repeat([]byte{0xff}, 20)...) // coder/websocket judges a header only when all of it has come
	}
	messages, pings, err := coderReads(t, in, o.ReadLimit)
	cutOff := (want.end == "lost" || why == "too big") && len(messages) == len(want.messages)+1
	if cutOff {
		messages = messages[:len(want.messages)]
	}
	if stricter {
		messages, pings = messages[:min(len(messages), len(want.messages))], pings[:min(len(pings), len(want.pings))]
	}
	if !slices.Equal(messages, want.messages) || !slices.Equal(pings, want.pings) {
		t.Fatalf("%s (%s): coder/websocket has %.300q, %.300q, not %.300q, %.300q", want.end, why, messages, pings, want.messages, want.pings)
	}
	var closed websocket.CloseError
	end := "broken"
	switch {
	case errors.As(err, &closed):
		end = endOf(&CloseError{int(closed.Code), closed.Reason})
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		end = "lost"
	case want.end == "lost" && strings.Contains(err.Error(), "negative payload length"):
		end = "lost" // it does not wait for the mask
	}
	if !stricter && !cutOff && why != "too big" && want.end != end && !(refused && end == "broken") {
		t.Fatalf("it ends with %q (%s), coder/websocket with %v", want.end, why, err)
	}
}

// coderReads returns what coder/websocket makes of what a client sends.
func coderReads(t *testing.T, in []byte, limit int) (messages, pings []string, err error) {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
	} {
		r.Header.Set(name, value)
	}
	ws, err := websocket.Accept(&upgraded{conn: &answering{script: script{pieces: [][]byte{in}}}}, r, &websocket.AcceptOptions{
		OnPingReceived: func(_ context.Context, payload []byte) bool {
			pings = append(pings, string(payload))
			return false
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(int64(limit))
	for {
		_, m, err := ws.Read(context.Background())
		if err != nil {
			return messages, pings, err
		}
		messages = append(messages, string(m))
	}
}

// answering is a script that also accepts writes.
type answering struct{ script }

func (*answering) Write(p []byte) (int, error) { return len(p), nil }
func (*answering) Close() error                { return nil }
func (*answering) SetDeadline(time.Time) error { return nil }

// upgraded is the http.ResponseWriter of a handshake.
type upgraded struct {
	httptest.ResponseRecorder
	conn net.Conn
}

func (u *upgraded) Header() http.Header { return http.Header{} }

func (u *upgraded) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return u.conn, bufio.NewReadWriter(bufio.NewReader(u.conn), bufio.NewWriter(u.conn)), nil
}

// Inflate must agree with compress/flate about every input, within the limit. It must also restore
// every input that compress/flate has compressed.
func FuzzInflate(f *testing.F) {
	texts := payloads()
	for _, name := range []string{"nothing", "a byte", "a word", "1,025 bytes", "text"} {
		for _, d := range []deflated{{level: 6}, {level: 6, final: true}, {level: 0}, {level: -2}, {level: 9, blocks: 100}, {level: 1, flush: 10}} {
			f.Add(d.of(texts[name]), uint16(1025), byte(d.level+2))
			f.Add(d.of(texts[name]), uint16(10), byte(d.level+2))
		}
	}
	f.Add(bytes.Repeat([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00"), 10), uint16(1000), byte(0))
	f.Add([]byte("\xf2\x00\x11\x00\x00"), uint16(1000), byte(0))
	f.Add([]byte(`{"topic":"t"}`), uint16(1000), byte(0))
	f.Fuzz(func(t *testing.T, in []byte, limit uint16, level byte) {
		got, code := inflate(in, int(limit))
		want, wantCode := oracle(in, int(limit))
		if got != want || code != wantCode {
			t.Fatalf("%d bytes, code %d; want %d bytes, code %d", len(got), code, len(want), wantCode)
		}
		d := deflated{level: int(level)%12 - 2, final: limit&1 == 1, flush: int(limit >> 1 & 127), blocks: int(limit >> 8)}
		if d.blocks > 0 {
			d.blocks = max(d.blocks, len(in)/8+1) // a flate.Writer each
		}
		if got, code := inflate(d.of(string(in)), len(in)); got != string(in) || code != 0 {
			t.Fatalf("%+v: of %d bytes came %d, code %d", d, len(in), len(got), code)
		}
	})
}

// oracle decompresses with compress/flate. It takes a new reader after each last block.
func oracle(in []byte, limit int) (string, int) {
	src := bytes.NewReader(append(slices.Clone(in), "\x00\x00\xff\xff\x01\x00\x00\xff\xff"...))
	var out []byte
	for src.Len() > 0 {
		r := flate.NewReaderDict(src, out[max(len(out)-32<<10, 0):])
		more, err := io.ReadAll(io.LimitReader(r, int64(limit+1-len(out))))
		if out = append(out, more...); len(out) > limit {
			return "", codeTooBig
		}
		if err != nil {
			return "", codeInvalid
		}
	}
	return string(out), 0
}
