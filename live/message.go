package live

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
)

// Message is one message to or from a client: {"topic":…,"data":…}.
type Message struct {
	// Topic says what the message is about.
	Topic string `json:"topic,omitempty"`

	// Data is the payload: one JSON value of any kind. Empty: the message has no data.
	Data json.RawMessage `json:"data,omitempty"`

	// Key says of which thing Data is the newest value; "": the message has no key. See the option
	// Key of Publish. Send does not look at it.
	Key string `json:"-"`

	// Removed says that the key has no value any more. Send does not look at it.
	Removed bool `json:"-"`

	// TraceParent is the trace in which the message was published, in messages of Listen and History;
	// "": none is known. See Options.TraceParent. Send does not look at it.
	TraceParent string `json:"-"`

	// Position is that of the publication, in messages of Listen and History on a topic that
	// keeps history. Send does not look at it.
	Position Position `json:"-"`
}

// messageOf returns a publication as a message, whose data the caller may change.
func messageOf(p *broker.Publication) Message {
	return Message{Topic: p.Topic, Data: bytes.Clone(p.Data), Key: p.Key, Removed: p.Removed, TraceParent: p.TraceParent, Position: p.Position}
}

// encode returns the message as a frame. The error wraps ErrInvalidData or
// ErrInvalidTopic.
func (m Message) encode() (*frame.Frame, error) {
	if err := broker.CheckData(m.Data); err != nil {
		return nil, err
	}
	if !utf8.ValidString(m.Topic) {
		return nil, fmt.Errorf("%w: %q is not UTF-8", ErrInvalidTopic, m.Topic)
	}
	if m.Topic != "" {
		return frame.NewEnvelope(m.Topic).Frame(m.Data), nil
	}
	if len(m.Data) == 0 {
		return frame.Text([]byte(`{}`)), nil
	}
	return frame.Text([]byte(`{"data":`), m.Data, []byte(`}`)), nil
}

// checkTopic returns nil for a topic that can be published and subscribed to,
// else an error that wraps ErrInvalidTopic.
func (s *Server) checkTopic(topic string) error {
	switch {
	case topic == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidTopic)
	case len(topic) > s.opts.MaxTopicLength:
		return fmt.Errorf("%w: %.40q… is longer than %d bytes", ErrInvalidTopic, topic, s.opts.MaxTopicLength)
	case !utf8.ValidString(topic):
		return fmt.Errorf("%w: %q is not UTF-8", ErrInvalidTopic, topic)
	}
	return nil
}
