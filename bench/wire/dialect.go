package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// Dialect is how a server's clients speak.
type Dialect interface {
	// Subscribe returns the messages that subscribe a new session.
	Subscribe(topics []string) [][]byte
	// AppendPublish appends the message that publishes data to a topic.
	AppendPublish(dst []byte, topic string, data []byte) []byte
	// Decode splits one message into its publications, in full: done for
	// the first message of each session, to know that the rest is what it
	// seems to be.
	Decode(message []byte) ([]Publication, error)
	// Answer is called for messages that may need one: those without a mark,
	// and all when MayPing. It returns nil when there is nothing to say.
	Answer(message []byte) ([]byte, error)
	// MayPing says whether the server hides pings among its messages.
	MayPing() bool
}

// Publication is a topic and what was published there.
type Publication struct {
	Topic string
	Data  []byte
}

// Plain is {"topic":…,"data":…} both ways, one publication a message, and the
// data "subscribe" to subscribe.
var Plain Dialect = plain{}

// Centrifuge is the JSON protocol of centrifuge: commands and pushes, one a line.
var Centrifuge Dialect = centrifuge{}

// Envelope is a message of Plain.
type Envelope struct {
	Topic string          `json:"topic"`
	Data  json.RawMessage `json:"data"`
}

// SubscribeData is the data of a message that asks for a subscription.
const SubscribeData = `"subscribe"`

type plain struct{}

func (d plain) Subscribe(topics []string) [][]byte {
	messages := make([][]byte, len(topics))
	for i, topic := range topics {
		messages[i] = d.AppendPublish(nil, topic, []byte(SubscribeData))
	}
	return messages
}

func (plain) AppendPublish(dst []byte, topic string, data []byte) []byte {
	dst = append(dst, `{"topic":"`...)
	dst = append(dst, topic...)
	dst = append(dst, `","data":`...)
	dst = append(dst, data...)
	return append(dst, '}')
}

func (plain) Decode(message []byte) ([]Publication, error) {
	var e Envelope
	if err := json.Unmarshal(message, &e); err != nil {
		return nil, fmt.Errorf("message is no envelope: %w", err)
	}
	return []Publication{{e.Topic, e.Data}}, nil
}

func (plain) Answer(message []byte) ([]byte, error) {
	return nil, fmt.Errorf("unexpected message: %.120q", message)
}

func (plain) MayPing() bool { return false }

type centrifuge struct{}

// Subscribe sends the connect command and all subscriptions in one message, as
// the server's own client does.
func (centrifuge) Subscribe(topics []string) [][]byte {
	b := []byte(`{"id":1,"connect":{}}`)
	for i, topic := range topics {
		b = append(b, "\n{\"id\":"...)
		b = strconv.AppendInt(b, int64(i+2), 10)
		b = append(b, `,"subscribe":{"channel":"`...)
		b = append(b, topic...)
		b = append(b, `"}}`...)
	}
	return [][]byte{b}
}

// publishID is the id of all publish commands: their replies only need one that
// is not zero.
const publishID = `1000000`

func (centrifuge) AppendPublish(dst []byte, topic string, data []byte) []byte {
	dst = append(dst, `{"id":`+publishID+`,"publish":{"channel":"`...)
	dst = append(dst, topic...)
	dst = append(dst, `","data":`...)
	dst = append(dst, data...)
	return append(dst, `}}`...)
}

type centrifugeReply struct {
	Error json.RawMessage `json:"error"`
	Push  *struct {
		Channel string `json:"channel"`
		Pub     *struct {
			Data json.RawMessage `json:"data"`
		} `json:"pub"`
	} `json:"push"`
}

func (centrifuge) Decode(message []byte) ([]Publication, error) {
	var pubs []Publication
	for line := range bytes.Lines(message) {
		var r centrifugeReply
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("message is no reply: %w", err)
		}
		if r.Push != nil && r.Push.Pub != nil {
			pubs = append(pubs, Publication{r.Push.Channel, r.Push.Pub.Data})
		}
	}
	return pubs, nil
}

var (
	centrifugePing  = []byte("{}")
	centrifugeError = []byte(`"error":`)
)

func (centrifuge) Answer(message []byte) ([]byte, error) {
	if bytes.HasPrefix(message, centrifugePing) || bytes.Contains(message, []byte("\n{}")) {
		return centrifugePing, nil
	}
	if bytes.Contains(message, centrifugeError) {
		return nil, fmt.Errorf("the server answered %.120q", message)
	}
	return nil, nil
}

func (centrifuge) MayPing() bool { return true }
