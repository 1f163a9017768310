package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// LiveV1 is the subprotocol of that name, for clients that subscribe to one topic with
// history (docs/protocol.md).
type LiveV1 struct {
	Topic string
	Since string // the position to resume from; empty: begin now
	At    string // the position of the last reply
}

// Subscribe implements Dialect.
func (d *LiveV1) Subscribe([]string) [][]byte {
	b := []byte(`{"op":"subscribe","id":1,"topic":"` + d.Topic)
	if d.Since != "" {
		b = append(b, `","since":"`+d.Since...)
	}
	return [][]byte{append(b, `"}`...)}
}

// AppendPublish implements Dialect: as in Plain.
func (d *LiveV1) AppendPublish(dst []byte, topic string, data []byte) []byte {
	return Plain.AppendPublish(dst, topic, data)
}

// liveMessage is a publication, or a reply with the first of what was missed.
type liveMessage struct {
	Op        string
	At        string
	Topic     string
	Data      json.RawMessage
	Recovered bool
	Messages  []struct{ Data json.RawMessage }
}

// Decode implements Dialect. A client here gets only what it has missed, so everything must be
// marked as recovered.
func (d *LiveV1) Decode(message []byte) ([]Publication, error) {
	var m liveMessage
	if err := json.Unmarshal(message, &m); err != nil {
		return nil, fmt.Errorf("message is no frame of live.v1: %w", err)
	}
	if !m.Recovered {
		return nil, fmt.Errorf("not marked as recovered: %.120q", message)
	}
	if m.Op == "" {
		return []Publication{{m.Topic, m.Data}}, nil
	}
	var pubs []Publication
	for _, missed := range m.Messages {
		pubs = append(pubs, Publication{d.Topic, missed.Data})
	}
	return pubs, nil
}

var liveOperation = []byte(`{"op":"`)

// Answer implements Dialect.
func (d *LiveV1) Answer(message []byte) ([]byte, error) {
	op, isOperation := bytes.CutPrefix(message, liveOperation)
	name, _, _ := bytes.Cut(op, []byte(`"`))
	switch {
	case !isOperation || string(name) == "hello":
		return nil, nil
	case string(name) == "ping":
		return []byte(`{"op":"pong"}`), nil
	case string(name) != "reply":
		return nil, fmt.Errorf("the server answered %.120q", message)
	}
	var m liveMessage
	if err := json.Unmarshal(message, &m); err != nil {
		return nil, err
	}
	if d.Since != "" && !m.Recovered {
		return nil, fmt.Errorf("not everything was recovered: %.120q", message)
	}
	d.At = m.At
	return nil, nil
}

// MayPing implements Dialect: replies hold publications.
func (d *LiveV1) MayPing() bool { return true }
