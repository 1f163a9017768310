package frame

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// parse reads one frame as RFC 6455, section 5.2, describes it.
func parse(t *testing.T, b []byte) (first byte, payload []byte) {
	t.Helper()
	if len(b) < 2 || b[1]&0x80 != 0 {
		t.Fatalf("no frame of a server: % x", b)
	}
	n, head := uint64(b[1]), 2
	switch n {
	case 126:
		n, head = uint64(binary.BigEndian.Uint16(b[2:])), 4
		if n < 126 {
			t.Fatalf("%d in the 16-bit form", n)
		}
	case 127:
		n, head = binary.BigEndian.Uint64(b[2:]), 10
		if n < 1<<16 {
			t.Fatalf("%d in the 64-bit form", n)
		}
	}
	if uint64(len(b)-head) != n {
		t.Fatalf("length says %d, %d follow", n, len(b)-head)
	}
	return b[0], b[head:]
}

func TestTextAtEveryLengthForm(t *testing.T) {
	for _, n := range []int{0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537, 1 << 20} {
		want := bytes.Repeat([]byte{'x'}, n)
		f := Text(want[:n/2], nil, want[n/2:])
		first, payload := parse(t, f.Bytes())
		if first != 0x81 || !bytes.Equal(payload, want) || f.Len() != len(f.Bytes()) {
			t.Errorf("%d bytes: first byte %#x, %d bytes", n, first, len(payload))
		}
	}
}

func TestClose(t *testing.T) {
	for _, reason := range []string{"", "bye", strings.Repeat("x", MaxReason)} {
		first, payload := parse(t, Close(4100, reason).Bytes())
		if first != 0x88 || binary.BigEndian.Uint16(payload) != 4100 || string(payload[2:]) != reason {
			t.Errorf("%q: %#x % x", reason, first, payload)
		}
	}
	for _, long := range []string{strings.Repeat("x", 200), strings.Repeat("é", 100)} {
		_, payload := parse(t, Close(1000, long).Bytes())
		if len(payload) > 125 || !utf8.Valid(payload[2:]) || !strings.HasPrefix(long, string(payload[2:])) {
			t.Errorf("%d bytes: %q", len(payload), payload[2:])
		}
	}
}

func TestPing(t *testing.T) {
	if first, payload := parse(t, Ping.Bytes()); first != 0x89 || len(payload) != 0 {
		t.Errorf("%#x % x", first, payload)
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add("chat:1", []byte(`{"a":1}`))
	f.Add(`"\<&>`+"\x00\u2028", []byte(` [1, 2] `))
	f.Add("é", []byte(nil))
	f.Add(strings.Repeat("t", 300), []byte(`"`+strings.Repeat("x", 70_000)+`"`))
	f.Fuzz(func(t *testing.T, topic string, data []byte) {
		if !utf8.ValidString(topic) || len(data) > 0 && !json.Valid(data) {
			return
		}
		first, payload := parse(t, NewEnvelope(topic).Frame(data).Bytes())
		var got struct {
			Topic string
			Data  json.RawMessage
		}
		if err := json.Unmarshal(payload, &got); err != nil {
			t.Fatalf("%q: %v", payload, err)
		}
		want := bytes.Trim(data, " \t\r\n")
		if first != 0x81 || got.Topic != topic || !bytes.Equal(got.Data, want) {
			t.Fatalf("%q, %q became %q", topic, data, payload)
		}
	})
}
