package live

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
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
	if m, ok := scanMessage(raw); ok && len(m.Topic) <= maxTopic {
		return m, nil
	}
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

// scanMessage reads a message as JSON.stringify({topic, data}) writes it, with a
// topic that has nothing to unescape: nearly all of them, at a fraction of the
// cost.
func scanMessage(raw []byte) (Message, bool) {
	rest, ok := bytes.CutPrefix(raw, []byte(`{"topic":"`))
	if !ok {
		return Message{}, false
	}
	topic, rest, ok := bytes.Cut(rest, []byte(`","data":`))
	if !ok || !isPlain(topic) {
		return Message{}, false
	}
	end := jsonscan.Value(rest, 0)
	if end < 0 || string(rest[end:]) != "}" {
		return Message{}, false
	}
	data := bytes.TrimLeft(rest[:end], " \t\r\n")
	return Message{Topic: string(topic), Data: bytes.Clone(data)}, true
}

// isPlain reports whether s stands for itself in a JSON string.
func isPlain(s []byte) bool {
	for _, c := range s {
		if c < ' ' || c == '"' || c == '\\' {
			return false
		}
	}
	return utf8.Valid(s)
}
