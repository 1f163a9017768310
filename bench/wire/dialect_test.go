package wire

import (
	"bytes"
	"testing"
)

func TestPlainDecodesWhatItPublishes(t *testing.T) {
	data := AppendPayload(nil, Mark{Stream: 1}, 100)
	publications, err := Plain.Decode(Plain.AppendPublish(nil, "t", data))
	if err != nil || len(publications) != 1 || publications[0].Topic != "t" || !bytes.Equal(publications[0].Data, data) {
		t.Errorf("%v, error %v", publications, err)
	}
	if _, err := Plain.Answer([]byte(`{"op":"hello"}`)); err == nil {
		t.Error("a message without a publication was accepted")
	}
}

func TestCentrifugeDecodesJoinedPushes(t *testing.T) {
	message := []byte(`{"push":{"channel":"a","pub":{"data":{"x":1}}}}` + "\n{}\n" +
		`{"push":{"channel":"b","pub":{"data":{"x":2}}}}`)
	publications, err := Centrifuge.Decode(message)
	if err != nil || len(publications) != 2 || publications[0].Topic != "a" || string(publications[1].Data) != `{"x":2}` {
		t.Errorf("%v, error %v", publications, err)
	}
}

func TestLiveV1TakesWhatWasMissedInBothForms(t *testing.T) {
	d := &LiveV1{Topic: "t", Since: "e.1"}
	for message, want := range map[string]int{
		`{"op":"reply","id":1,"at":"e.3","recovered":true,"messages":[{"data":2,"at":"e.2"},{"data":3,"at":"e.3"}]}`: 2,
		`{"topic":"t","data":4,"at":"e.4","recovered":true}`:                                                         1,
	} {
		publications, err := d.Decode([]byte(message))
		if err != nil || len(publications) != want || publications[0].Topic != "t" {
			t.Errorf("%q: %v, error %v", message, publications, err)
		}
		if answer, err := d.Answer([]byte(message)); err != nil || answer != nil {
			t.Errorf("%q: answer %q, error %v", message, answer, err)
		}
	}
	if d.At != "e.3" {
		t.Errorf("at %q", d.At)
	}
	if answer, err := d.Answer([]byte(`{"op":"ping"}`)); err != nil || string(answer) != `{"op":"pong"}` {
		t.Errorf("ping: answer %q, error %v", answer, err)
	}
	for _, message := range []string{`{"op":"gap","topic":"t"}`, `{"op":"reply","id":1,"at":"e.9","recovered":false}`} {
		if _, err := d.Answer([]byte(message)); err == nil {
			t.Errorf("%q was accepted", message)
		}
	}
	if _, err := d.Decode([]byte(`{"topic":"t","data":4,"at":"e.4"}`)); err == nil {
		t.Error("a publication that is not marked as recovered was accepted")
	}
}

func TestCentrifugePingsAreAnswered(t *testing.T) {
	for message, want := range map[string]string{
		`{}`:                          `{}`,
		"{\"push\":{}}\n{}":           `{}`,
		`{"id":1,"connect":{}}`:       ``,
		`{"push":{"data":{"x":"{}"}}`: ``,
	} {
		answer, err := Centrifuge.Answer([]byte(message))
		if err != nil || string(answer) != want {
			t.Errorf("%q: answer %q, error %v", message, answer, err)
		}
	}
	if _, err := Centrifuge.Answer([]byte(`{"id":2,"error":{"code":103}}`)); err == nil {
		t.Error("an error reply was accepted")
	}
}
