package liveclient

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"testing"
	"time"
)

// The examples of docs/protocol.md that a server sends are decoded.
func TestExamplesOfTheProtocolPageDecode(t *testing.T) {
	page, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```json server\n(.*?)\n```$").FindAllSubmatch(page, -1)
	if len(blocks) < 20 {
		t.Fatalf("%d examples found", len(blocks))
	}
	for _, block := range blocks {
		f, err := decodeFrame(block[1])
		if err != nil || f.op == "" && f.topic == "" {
			t.Errorf("%s: %+v, %v", block[1], f, err)
		}
	}
}

func TestDecodeFrame(t *testing.T) {
	f, err := decodeFrame([]byte(`{"op":"reply","Op":"no","id":7,"at":"e.1","recovered":true,"keyed":true,"more":true,
		"messages":[{"data":null,"at":"e.0"},{"key":"k","removed":true}],"text":"\u00e4","member":"ann"}`))
	if err != nil || f.op != "reply" || f.id != 7 || f.at != "e.1" || !f.recovered || !f.keyed || !f.more || f.text != "ä" || f.member != "ann" {
		t.Errorf("%+v, %v", f, err)
	}
	if len(f.messages) != 2 || string(f.messages[0].Data) != "null" || f.messages[0].At != "e.0" || !f.messages[1].Removed || f.messages[1].Key != "k" {
		t.Errorf("messages %+v", f.messages)
	}
	f, err = decodeFrame([]byte(` {"op":"hello","ping":1e3,"largest":9e99,"session":"s"}`))
	if err != nil || f.ping != time.Second || f.largest < 1<<30 {
		t.Errorf("%+v, %v", f, err)
	}
	f, err = decodeFrame([]byte(`{"op":"presence","topic":"t","members":[{"id":"a","sessions":[null,{"x":1}]}],"left":["b"],"count":3}`))
	if err != nil || !f.hasMembers || len(f.members[0].Sessions) != 2 || f.members[0].Sessions[0] != nil || f.left[0] != "b" || f.count != 3 {
		t.Errorf("%+v, %v", f, err)
	}
}

// A frame shares no memory with what it was decoded from: the reader uses that again.
func FuzzDecodeFrame(f *testing.F) {
	for _, seed := range []string{
		`{"topic":"a","data":{"x":[1,2]},"at":"e.1","key":"k","recovered":true}`,
		`{"op":"reply","id":1,"messages":[{"data":1,"at":"e.1"}],"state":[1],"text":"x","more":false}`,
		`{"op":"presence","topic":"r","members":[{"id":"a","sessions":[{"t":true}]}],"joined":[],"left":["x"],"count":2}`,
		`{"op":"error","id":3,"topic":"t","code":"c","message":"\ud83d\ude00"}`,
		`{"op":"hello","ping":25000,"largest":1,"session":"\u0000","within":-0}`, `{`, ``, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		input := append([]byte(nil), raw...)
		got, err := decodeFrame(input)
		for i := range input {
			input[i] = 'X'
		}
		if err != nil {
			if !errors.Is(err, ErrBadFrame) {
				t.Errorf("the error is %v", err)
			}
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatalf("%q was decoded, and is no object: %v", raw, err)
		}
		if got.op == "" && want["topic"] == nil {
			t.Errorf("%q has neither op nor topic", raw)
		}
		for _, data := range []json.RawMessage{got.message.Data, got.state} {
			if data != nil && !json.Valid(data) {
				t.Errorf("%q: %q is not JSON", raw, data)
			}
		}
		for _, m := range got.messages {
			if m.Data != nil && !json.Valid(m.Data) {
				t.Errorf("%q: %q is not JSON", raw, m.Data)
			}
		}
		if got.op != "" {
			var op string
			if json.Unmarshal(want["op"], &op); op != got.op {
				t.Errorf("op is %q, want %q", got.op, op)
			}
		}
	})
}
