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
