package livetest

import (
	"encoding/json"
	"fmt"
)

// Message is what a client is told of a topic: a publication, a message that Session.Send has sent,
// or that there is a gap.
type Message struct {
	Topic   string          // to which it was published
	Key     string          // "": it has none
	Data    json.RawMessage // nil: it has none
	Removed bool            // the key has no value any more
	At      string          // the position; "": it has none
	Past    bool            // it was published before, and came because the client has subscribed with Since or Last
	Gap     bool            // publications were lost here; there is no Data
}

// String returns the message in one line.
func (m Message) String() string {
	what := string(m.Data)
	switch {
	case m.Gap:
		what = "a gap"
	case m.Removed:
		what = "removed"
	case m.Data == nil:
		what = "no data"
	}
	if m.Key != "" {
		what = fmt.Sprintf("key %q: %s", m.Key, what)
	}
	return fmt.Sprintf("%q: %s", m.Topic, shorten(what))
}

// longest is how many bytes of a message a failure shows. More is hard to read.
const longest = 2000

func shorten(text string) string {
	if len(text) > longest {
		return text[:longest] + "…"
	}
	return text
}

// frame is a text frame of the server, as docs/protocol.md has it.
type frame struct {
	Op        string          `json:"op"`
	ID        int             `json:"id"`
	Topic     string          `json:"topic"`
	Key       string          `json:"key"`
	Data      json.RawMessage `json:"data"`
	Removed   bool            `json:"removed"`
	At        string          `json:"at"`
	Recovered *bool           `json:"recovered"`
	Keyed     bool            `json:"keyed"`
	State     json.RawMessage `json:"state"`
	Text      *string         `json:"text"`
	Messages  []past          `json:"messages"`
	More      bool            `json:"more"`
	Code      string          `json:"code"`
	Message   string          `json:"message"`

	// Of presence.
	Members   []member `json:"members"` // nil: there is no such member
	Continued bool     `json:"continued"`
	Joined    []member `json:"joined"`
	Changed   []member `json:"changed"`
	Left      []string `json:"left"`
	Count     *int     `json:"count"`
}

// past is a publication in a reply.
type past struct {
	Key     string          `json:"key"`
	Data    json.RawMessage `json:"data"`
	Removed bool            `json:"removed"`
	At      string          `json:"at"`
}

func (p past) in(topic string) Message {
	return Message{Topic: topic, Key: p.Key, Data: p.Data, Removed: p.Removed, At: p.At, Past: true}
}

type member struct {
	ID       string            `json:"id"`
	Sessions []json.RawMessage `json:"sessions"`
}

// receive takes in a frame. It reports whether the frame is a ping, which has to be answered.
func (c *Client) receive(conn *connection, text []byte) (ping bool) {
	var f frame
	if err := json.Unmarshal(text, &f); err != nil {
		f = frame{Topic: "(not JSON)", Data: text} // the test sees it as a message that it did not expect
	}
	if f.Op == "ping" {
		return true
	}
	c.set(func() {
		switch f.Op {
		case "hello":
			conn.greeted = true
		case "reply", "part", "error":
			c.answered(&f)
		case "presence":
			c.topic(f.Topic).see(&f)
		case "gap":
			c.missed(&f)
		case "":
			c.publication(&f)
		}
	})
	return false
}

// publication takes in a publication, or a message of Session.Send; mu is held.
func (c *Client) publication(f *frame) {
	if c.as.plain && f.Topic == syncTopic {
		json.Unmarshal(f.Data, &c.synced) // it is the number that sync has sent
		return
	}
	if f.At != "" {
		c.topic(f.Topic).at = f.At
	}
	past := f.Recovered != nil && *f.Recovered
	c.unread = append(c.unread, Message{
		Topic: f.Topic, Key: f.Key, Data: f.Data, Removed: f.Removed, At: f.At, Past: past,
	})
}

// missed takes in a gap; mu is held.
func (c *Client) missed(f *frame) {
	t := c.topic(f.Topic)
	if f.At != "" || t.keyed { // every key follows, and a position with the last
		t.at = f.At
	}
	c.unread = append(c.unread, Message{Topic: f.Topic, At: f.At, Gap: true})
}

// answered takes in an answer, or a part of one; mu is held.
func (c *Client) answered(f *frame) {
	a := c.calls[f.ID]
	if a == nil {
		return
	}
	a.messages = append(a.messages, f.Messages...)
	if f.Text != nil {
		a.text = append(a.text, *f.Text...)
	}
	if f.Op == "part" || f.More {
		return
	}
	delete(c.calls, f.ID)
	if f.Text != nil && f.Op == "reply" {
		f.Data, f.State = a.text, a.text // the operation has one of the two
	}
	a.done, a.answer = true, f
	if f.Op == "reply" && a.op.Op == "subscribe" {
		c.hasSubscribed(a)
	}
}

// hasSubscribed takes in what a subscription begins with; mu is held. The publications that follow are
// taken in after it.
func (c *Client) hasSubscribed(a *call) {
	f, t := a.answer, c.topic(a.op.Topic)
	recovered := f.Recovered != nil && *f.Recovered
	t.keyed, t.state = f.Keyed, f.State
	if f.At != "" || f.Keyed && !recovered { // then every key comes, and a position with the last
		t.at = f.At
	}
	if a.op.Since != "" && !recovered && f.State == nil && !f.Keyed {
		c.unread = append(c.unread, Message{Topic: a.op.Topic, Gap: true})
	}
	for _, p := range a.messages {
		c.unread = append(c.unread, p.in(a.op.Topic))
	}
}

// see takes in a frame of presence.
func (t *topicState) see(f *frame) {
	switch {
	case f.Count != nil:
		t.members, t.count = nil, *f.Count
		return
	case f.Members != nil && !f.Continued || t.members == nil:
		t.members = make(map[string][]json.RawMessage)
	}
	for _, list := range [][]member{f.Members, f.Joined, f.Changed} {
		for _, m := range list {
			t.members[m.ID] = m.Sessions
		}
	}
	for _, id := range f.Left {
		delete(t.members, id)
	}
	t.count = len(t.members)
}
