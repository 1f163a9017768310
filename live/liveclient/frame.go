package liveclient

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// Message is a publication, or a message for this client alone.
type Message struct {
	Topic string // to which it was published, or which the application has named

	// Data is one JSON value. It is nil if the message has none.
	Data json.RawMessage

	// At is the position of the publication, for Since. It is opaque. "": the topic keeps no history, or
	// the message is for this client alone.
	At string

	// Key says of which thing Data is the newest value. "": the message has no key.
	Key string

	// Removed says that the key has no value any more.
	Removed bool

	// Recovered says that the message was published earlier: while there was no connection, or before
	// a subscription with Since or Last.
	Recovered bool
}

// Member is a user who is present in a topic, or one session without a user.
type Member struct {
	// ID is the user's. That of a session without a user begins with one colon.
	ID string

	// Sessions has an element for each session of the member: its info, or nil if it has none.
	Sessions []json.RawMessage
}

// frame is one frame of the server. It depends on op which of its members count. It shares no memory with
// what it was decoded from.
type frame struct {
	isGarbled bool // it is not JSON

	op       string // "": a publication
	id       uint64 // 0: none
	topic    string
	hasTopic bool
	code     string
	reason   string // of an error, for a person
	text     string
	hasText  bool
	session  string
	member   string

	ping    time.Duration
	within  time.Duration
	largest int

	message   Message // a publication's
	messages  []Message
	state     json.RawMessage // nil: none
	at        string
	recovered bool
	keyed     bool
	more      bool
	continued bool

	members    []Member
	hasMembers bool
	joined     []Member
	changed    []Member
	left       []string
	count      int // -1: none
}

// decodeFrame decodes a frame. The error wraps ErrBadFrame. If the frame is an object, its op and id are
// set even then, as far as they are valid.
func decodeFrame(raw []byte) (f *frame, err error) {
	f = &frame{count: -1}
	if !jsonscan.Valid(raw) {
		f.isGarbled = true
		return f, fmt.Errorf("%w: not JSON in UTF-8: %.60q", ErrBadFrame, raw)
	}
	if jsonscan.Kind(raw) != '{' {
		return f, fmt.Errorf("%w: not an object: %.60q", ErrBadFrame, raw)
	}
	bad := ""
	jsonscan.Members(raw, func(name, value []byte) bool {
		if isNull(value) && string(name) != "data" && string(name) != "state" {
			return true // as if it were not there
		}
		if !f.read(string(name), value) && bad == "" {
			bad = string(name)
		}
		return true
	})
	if bad == "" && f.op == "" && !f.hasTopic {
		bad = "topic"
	}
	if bad != "" {
		return f, fmt.Errorf("%w: %q is missing or of the wrong kind: %.60q", ErrBadFrame, bad, raw)
	}
	return f, nil
}

// read reads one member of the object. ok is false if it is of the wrong kind.
func (f *frame) read(name string, value []byte) (ok bool) {
	switch name {
	case "op":
		return readString(value, &f.op)
	case "id":
		f.id, ok = readID(value)
		return ok
	case "topic":
		f.hasTopic = true
		return readString(value, &f.topic)
	case "data":
		f.message.Data = bytes.Clone(value)
	case "state":
		f.state = bytes.Clone(value)
	case "at":
		return readString(value, &f.at)
	case "key":
		return readString(value, &f.message.Key)
	case "code":
		return readString(value, &f.code)
	case "message":
		return readString(value, &f.reason)
	case "text":
		f.hasText = true
		return readString(value, &f.text)
	case "session":
		return readString(value, &f.session)
	case "member":
		return readString(value, &f.member)
	case "ping":
		return readMilliseconds(value, &f.ping)
	case "within":
		return readMilliseconds(value, &f.within)
	case "largest":
		return readCount(value, &f.largest)
	case "count":
		return readCount(value, &f.count)
	case "removed":
		return readBool(value, &f.message.Removed)
	case "recovered":
		return readBool(value, &f.recovered)
	case "keyed":
		return readBool(value, &f.keyed)
	case "more":
		return readBool(value, &f.more)
	case "continued":
		return readBool(value, &f.continued)
	case "messages":
		return readEach(value, &f.messages, readMessage)
	case "members":
		f.hasMembers = true
		return readEach(value, &f.members, readMember)
	case "joined":
		return readEach(value, &f.joined, readMember)
	case "changed":
		return readEach(value, &f.changed, readMember)
	case "left":
		return readEach(value, &f.left, readString)
	}
	return true // unknown members are ignored
}

func isNull(value []byte) bool { return string(value) == "null" }

func readString(value []byte, into *string) bool {
	if value[0] != '"' {
		return false
	}
	if inner := value[1 : len(value)-1]; bytes.IndexByte(inner, '\\') < 0 {
		*into = string(inner)
		return true
	}
	return json.Unmarshal(value, into) == nil
}

func readBool(value []byte, into *bool) bool {
	*into = string(value) == "true"
	return *into || string(value) == "false"
}

// maxID is the greatest whole number that JavaScript can count to.
const maxID = 1<<53 - 1

func readID(value []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(value), 10, 64)
	return n, err == nil && n <= maxID
}

// readNumber reads a number of any form that is not negative.
func readNumber(value []byte) (float64, bool) {
	if value[0] == '"' {
		return 0, false
	}
	n, err := strconv.ParseFloat(string(value), 64)
	return n, err == nil && n >= 0
}

func readCount(value []byte, into *int) bool {
	n, ok := readNumber(value)
	if ok {
		*into = int(min(n, math.MaxInt32))
	}
	return ok
}

func readMilliseconds(value []byte, into *time.Duration) bool {
	n, ok := readNumber(value)
	if ok {
		*into = time.Duration(min(n, math.MaxInt32)) * time.Millisecond
	}
	return ok
}

// readEach reads an array.
func readEach[T any](value []byte, into *[]T, read func([]byte, *T) bool) (ok bool) {
	if value[0] != '[' {
		return false
	}
	ok = true
	*into = nil
	jsonscan.Elements(value, func(one []byte) bool {
		var v T
		ok = read(one, &v)
		*into = append(*into, v)
		return ok
	})
	return ok
}

// readMessage reads a message of an answer, which has no topic.
func readMessage(value []byte, m *Message) bool {
	if value[0] != '{' {
		return false
	}
	ok := true
	jsonscan.Members(value, func(name, value []byte) bool {
		switch string(name) {
		case "data":
			m.Data = bytes.Clone(value)
		case "at":
			ok = isNull(value) || readString(value, &m.At)
		case "key":
			ok = isNull(value) || readString(value, &m.Key)
		case "removed":
			ok = isNull(value) || readBool(value, &m.Removed)
		}
		return ok
	})
	return ok
}

func readMember(value []byte, m *Member) bool {
	if value[0] != '{' {
		return false
	}
	ok, hasID := true, false
	jsonscan.Members(value, func(name, value []byte) bool {
		switch string(name) {
		case "id":
			hasID = true
			ok = readString(value, &m.ID)
		case "sessions":
			ok = readEach(value, &m.Sessions, readInfo)
		}
		return ok
	})
	return ok && hasID
}

// readInfo reads the info of a session; null: it has none.
func readInfo(value []byte, info *json.RawMessage) bool {
	if !isNull(value) {
		*info = bytes.Clone(value)
	}
	return true
}
