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
	errNotJSON   = errors.New("not JSON, or nested more than 10,000 deep")
	errNotString = errors.New("the topic is not a string")
	errLongTopic = errors.New("topic too long")
)

// decodeMessage reads what a plain client sent: an object with a topic, a
// string, and data, any JSON value, each of which may be missing. Members
// besides these are ignored. The result shares no memory with raw. Beyond the result
// only names with escapes, of topics and members, and values that nest more than 64 deep
// allocate, and that is garbage at once.
func decodeMessage(raw []byte, maxTopic int) (Message, error) {
	if m, ok := scanMessage(raw); ok && len(m.Topic) <= maxTopic {
		return m, nil
	}
	if jsonscan.Kind(raw) != '{' {
		return Message{}, errNotObject
	}
	if !jsonscan.Valid(raw) {
		if !utf8.Valid(raw) {
			return Message{}, errNotUTF8
		}
		return Message{}, errNotJSON
	}
	var topic, data []byte
	jsonscan.Members(raw, func(name, value []byte) bool {
		switch string(name) {
		case "topic":
			topic = value
		case "data":
			data = value
		}
		return true
	})
	var m Message
	if present(topic) && !readString(topic, &m.Topic) {
		return Message{}, errNotString
	}
	if len(m.Topic) > maxTopic {
		return Message{}, errLongTopic
	}
	m.Data = bytes.Clone(data)
	return m, nil
}

// present reports whether a member is there: one that is null is as if it were not.
func present(value []byte) bool { return len(value) > 0 && string(value) != "null" }

// readString reads a valid JSON value that must be a string. Half of a surrogate pair in it
// becomes U+FFFD, as for mizu's live.
func readString(value []byte, into *string) bool {
	if value[0] != '"' {
		return false
	}
	if inner := value[1 : len(value)-1]; isPlain(inner) {
		*into = string(inner)
		return true
	}
	return json.Unmarshal(value, into) == nil
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
