package live

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

var (
	errNotObject = errors.New("not a JSON object")
	errNotUTF8   = errors.New("not UTF-8")
	errLongTopic = errors.New("topic too long")
)

// decodeMessage reads what a plain client sent: an object with a topic, a
// string, and data, any JSON value, each of which may be missing. Members
// besides these are ignored. The result shares no memory with raw.
//
// Depth is bounded by encoding/json (10,000 levels), which does not recurse
// into what becomes a RawMessage, so that nesting costs no stack.
func decodeMessage(raw []byte, maxTopic int) (Message, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{")) {
		return Message{}, errNotObject
	}
	if !utf8.Valid(raw) {
		return Message{}, errNotUTF8
	}
	var m Message
	if err := json.Unmarshal(raw, &m); err != nil {
		return Message{}, err
	}
	if len(m.Topic) > maxTopic {
		return Message{}, errLongTopic
	}
	return m, nil
}
