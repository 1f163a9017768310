package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// decodePublications reads the body of a request to a PublishHandler: one object, or an array of them.
// many says that it is an array. The data of the publications are parts of body. Unknown members are
// refused here, though not in the frames of clients: a program that writes "keys" for "key" must learn
// of it.
func decodePublications(body []byte) (all []HTTPPublication, many bool, refused *publishError) {
	if !jsonscan.Valid(body) {
		return nil, false, badPublication("", notJSON(body))
	}
	switch jsonscan.Kind(body) {
	case '{':
		p, err := decodePublication(body)
		return []HTTPPublication{p}, false, err
	case '[':
	default:
		return nil, false, badPublication("", "the body must be an object, or an array of objects")
	}
	jsonscan.Elements(body, func(one []byte) bool {
		var p HTTPPublication
		if len(all) == maxPublications {
			refused = &publishError{status: http.StatusRequestEntityTooLarge, Code: "too_big",
				Message: fmt.Sprintf("a request may have %d publications", maxPublications)}
			return false
		}
		if p, refused = decodePublication(one); refused != nil {
			refused = refused.at(len(all))
			return false
		}
		all = append(all, p)
		return true
	})
	return all, true, refused
}

// decodePublication reads one publication from valid JSON.
func decodePublication(raw []byte) (p HTTPPublication, refused *publishError) {
	if jsonscan.Kind(raw) != '{' {
		return p, badPublication("", "a publication must be an object")
	}
	var topic, data, id, key, remove []byte
	jsonscan.Members(raw, func(name, value []byte) bool {
		switch string(name) {
		case "topic":
			topic = value
		case "data":
			data = value
		case "id":
			id = value
		case "key":
			key = value
		case "remove":
			remove = value
		default:
			name := shorten(string(name))
			refused = badPublication(name, fmt.Sprintf("a publication has no member %q", name))
		}
		return refused == nil
	})
	text := func(member string, value []byte, into *string) {
		if refused == nil && present(value) && (hasHalfPair(value) || !readString(value, into)) {
			refused = badPublication(member, member+" must be a string of valid Unicode")
		}
	}
	text("topic", topic, &p.Topic)
	text("id", id, &p.ID)
	text("key", key, &p.Key)
	switch {
	case refused != nil:
	case !present(topic):
		refused = badPublication("topic", "topic is missing")
	case present(remove) && string(remove) != "true" && string(remove) != "false":
		refused = badPublication("remove", "remove must be true or false")
	case string(remove) != "true" && data == nil:
		refused = badPublication("data", "data is missing; it may be null")
	case string(remove) == "true" && present(data):
		refused = badPublication("data", "data must be left out if remove is true")
	case string(remove) == "true":
		p.Remove = true
	default:
		p.Data = data[:len(data):len(data)] // an append to it must not overwrite the body
	}
	return p, refused
}

func badPublication(member, message string) *publishError {
	return &publishError{status: http.StatusBadRequest, Code: "bad_request", Member: member, Message: message}
}

// notJSON says what is wrong with a body that is not valid JSON.
func notJSON(body []byte) string {
	var v json.RawMessage
	var syntax *json.SyntaxError
	switch err := json.Unmarshal(body, &v); {
	case errors.As(err, &syntax):
		return fmt.Sprintf("the body is not JSON: %v, at byte %d", err, syntax.Offset)
	case !utf8.Valid(body):
		return "the body is not UTF-8"
	}
	return "the body is not JSON"
}
