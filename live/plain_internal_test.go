package live

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

func TestDecodeMessage(t *testing.T) {
	tests := []struct {
		raw         string
		topic, data string
		ok          bool
	}{
		{`{"topic":"t","data":{"a":1}}`, "t", `{"a":1}`, true},
		{` {"data":[1, 2],"topic":"t"} `, "t", `[1, 2]`, true},
		{`{"topic":"t"}`, "t", ``, true},
		{`{"topic":"t","data":null}`, "t", `null`, true},
		{`{"data":1}`, "", `1`, true},
		{`{}`, "", ``, true},
		{`{"topic":"t","data":1,"unknown":{"x":[]}}`, "t", `1`, true},
		{`{"topic":"\u00e9\ud83d\ude00"}`, "é😀", ``, true},
		{`{"topic":"\\ud83d\uD83D\uDE00\ufffd"}`, `\ud83d😀` + "\uFFFD", ``, true},
		{`{"topic":"\\ud83d\uD83D\uDE00\ufffd"}`, `\ud83d😀` + "\uFFFD", ``, true},
		{`{"topic":"` + strings.Repeat("t", 255) + `"}`, strings.Repeat("t", 255), ``, true},
		{`{"topic":"` + strings.Repeat("t", 256) + `"}`, "", ``, false},
		{``, "", ``, false},
		{` `, "", ``, false},
		{`null`, "", ``, false},
		{`[]`, "", ``, false},
		{`"topic"`, "", ``, false},
		{`42`, "", ``, false},
		{`{"topic":5}`, "", ``, false},
		{`{"topic":"t"`, "", ``, false},
		{`{"topic":"t"}}`, "", ``, false},
		{`{"topic":"t","data":}`, "", ``, false},
		{"{\"topic\":\"\xff\"}", "", ``, false},
		{"\x00\x01\x02", "", ``, false},
		{`{"data":` + strings.Repeat("[", 1_000_000), "", ``, false},
		{`{"data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, "", ``, false},
	}
	for _, tt := range tests {
		m, err := decodeMessage([]byte(tt.raw), 255)
		if (err == nil) != tt.ok || m.Topic != tt.topic || string(m.Data) != tt.data {
			t.Errorf("%.60q: %q %q %v", tt.raw, m.Topic, m.Data, err)
		}
	}
}

func TestDecodedDataIsACopy(t *testing.T) {
	raw := []byte(`{"topic":"t","data":{"a":1}}`)
	m, err := decodeMessage(raw, 255)
	if err != nil {
		t.Fatal(err)
	}
	clear(raw)
	if m.Topic != "t" || string(m.Data) != `{"a":1}` {
		t.Fatal(m)
	}
}

// What is accepted is what a generic decoder sees in the same bytes, and what is
// published again makes the same message.
func FuzzDecodeMessage(f *testing.F) {
	for _, seed := range []string{
		`{"topic":"t","data":{"a":1}}`, `{"topic":"t","data": 1}`, `{"topic":"é","data":"x","data":2}`, `{"topic":"\"","data":1}`,
		`{"topic":"a\",\"data\":","data":1}`, `{}`, `null`, `[]`, `{"topic":1}`, `{"data":[[[[]]]]}`,
		`{"topic":"\ud800","data":"\u0000"}`, "{\"topic\":\"\xc3\x28\"}", `{"Topic":"T"}`, ` {"topic":"a","topic":"b"} `,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := decodeMessage(raw, 255)
		if scanned, ok := scanMessage(raw); ok {
			var slow Message
			if err := json.Unmarshal(raw, &slow); err != nil || slow.Topic != scanned.Topic || !bytes.Equal(slow.Data, scanned.Data) {
				t.Fatalf("%q scanned as %v; encoding/json says %v, %v", raw, scanned, slow, err)
			}
		}
		if err != nil {
			return
		}
		if !utf8.Valid(raw) || !utf8.ValidString(m.Topic) || len(m.Topic) > 255 {
			t.Fatalf("accepted %q", raw)
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(raw, &object); err != nil || object == nil {
			t.Fatalf("accepted %q, which is no object: %v", raw, err)
		}
		out, err := m.encode()
		if err != nil {
			t.Fatalf("%q cannot be sent again: %v", raw, err)
		}
		payload := out.Bytes()[bytes.IndexByte(out.Bytes(), '{'):]
		again, err := decodeMessage(payload, 255)
		if err != nil || again.Topic != m.Topic || !bytes.Equal(again.Data, m.Data) {
			t.Fatalf("%q became %q, %v", raw, payload, err)
		}
	})
}

// Whatever a live.v1 client sends is taken apart without harm: an operation that is
// accepted is what a generic decoder sees.
func FuzzOperations(f *testing.F) {
	for _, seed := range []string{
		`{"op":"subscribe","id":1,"topic":"a","since":"x.1","last":2}`, `[{"op":"publish","topic":"a","data":null},{}]`,
		`{"op":1}`, `{"id":9007199254740992,"op":"x"}`, `{"id":-1,"op":"x"}`, `[[]]`, `[1]`, `null`, ` [ ] `, `{"op":"history","limit":1e9}`,
		`{"op":"a","op":"b"}`, `{"Op":"a"}`, `{"op":"x","topic":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !jsonscan.Valid(raw) {
			return
		}
		frames := []json.RawMessage{raw}
		switch jsonscan.Kind(raw) {
		case '{':
		case '[':
			err := checkOperations(raw)
			json.Unmarshal(raw, &frames)
			if (err == nil) != (len(frames) <= maxOperations && allObjects(frames)) {
				t.Fatalf("%q: %v", raw, err)
			}
			if err != nil {
				return
			}
		default:
			return
		}
		for _, one := range frames {
			op, isOp, ok := parseOperation(one)
			var members map[string]any
			if err := json.Unmarshal(one, &members); err != nil {
				t.Fatalf("%q is taken for an object: %v", one, err)
			}
			if (members["op"] != nil) != isOp {
				t.Fatalf("%q is an operation: %v", one, isOp)
			}
			if !isOp || !ok {
				continue
			}
			if op.op != members["op"] || op.id > maxID || op.last < 0 || op.limit < 0 {
				t.Fatalf("%q became %+v", one, op)
			}
			if topic := members["topic"]; (topic != nil) != op.hasTopic || topic != nil && topic != op.topic {
				t.Fatalf("%q became %+v", one, op)
			}
		}
	})
}

func allObjects(frames []json.RawMessage) bool {
	for _, one := range frames {
		if one[0] != '{' {
			return false
		}
	}
	return true
}

func FuzzDecodeBroadcast(f *testing.F) {
	f.Add(encodeBroadcast(typeApp, "kind", []byte("data")))
	f.Add(encodeBroadcast(typeDisconnect, "", nil))
	f.Add([]byte{typeApp, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		typ, first, second, ok := decodeBroadcast(raw)
		if !ok {
			return
		}
		// The same may be written with a longer number, so only its meaning comes back.
		again := encodeBroadcast(typ, first, second)
		l, f, s, ok := decodeBroadcast(again)
		if !ok || l != typ || f != first || !bytes.Equal(s, second) {
			t.Fatalf("%q became %q", raw, again)
		}
	})
}
