package livetest

import (
	"encoding/json"
	"slices"

	"github.com/livetopic/livetopic/live"
)

// operation is a frame of a client, as docs/protocol.md has it.
type operation struct {
	Op     string          `json:"op"`
	ID     int             `json:"id"`
	Topic  string          `json:"topic"`
	Data   json.RawMessage `json:"data,omitempty"`
	Since  string          `json:"since,omitempty"`
	Last   int             `json:"last,omitempty"`
	Limit  int             `json:"limit,omitempty"`
	Info   json.RawMessage `json:"info,omitempty"`
	Unseen bool            `json:"unseen,omitempty"`
}

// call is an operation and its answer. Client.mu guards the fields, and done says that they do not
// change any more.
type call struct {
	op       operation
	done     bool
	answer   *frame
	messages []past // of all parts of the answer
	text     []byte // of all parts of the answer
}

// SubscribeOption changes what Subscribe asks for.
type SubscribeOption func(*subscribing)

type subscribing struct {
	since  string
	last   int
	info   any
	unseen bool
}

// Since asks for what was published after a position: that of a Message, of Client.Position, or of
// live.Position.String.
func Since(position string) SubscribeOption { return func(s *subscribing) { s.since = position } }

// Last asks for the newest n publications.
func Last(n int) SubscribeOption { return func(s *subscribing) { s.last = n } }

// Info is what the other members of the topic see of this session. It is marshalled to JSON.
func Info(v any) SubscribeOption { return func(s *subscribing) { s.info = v } }

// Unseen makes the client watch a topic without being present in it.
func Unseen() SubscribeOption { return func(s *subscribing) { s.unseen = true } }

// Subscribe subscribes to a topic, and waits for the server's answer. What Since and Last have asked
// for can then be expected as other messages can, and the state of a topic with a Snapshot by
// ExpectState.
func (c *Client) Subscribe(topic string, opts ...SubscribeOption) {
	c.t.Helper()
	var s subscribing
	for _, opt := range opts {
		opt(&s)
	}
	if c.ask(c.subscribeTo(topic, s)) == nil {
		return
	}
	if !slices.Contains(c.order, topic) {
		c.order = append(c.order, topic)
	}
	s.since, s.last = "", 0 // these are for this time only
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topic(topic).subscribed = &s
}

func (c *Client) subscribeTo(topic string, s subscribing) operation {
	c.t.Helper()
	op := operation{Op: "subscribe", Topic: topic, Since: s.since, Last: s.last, Unseen: s.unseen}
	if s.info != nil {
		op.Info = marshal(c.t, s.info)
	}
	return op
}

// resubscribe subscribes to all topics in one frame, from their newest positions.
func (c *Client) resubscribe() {
	c.t.Helper()
	var operations []operation
	for _, topic := range c.order {
		c.mu.Lock()
		s := *c.topics[topic].subscribed
		s.since = c.topics[topic].at
		c.mu.Unlock()
		operations = append(operations, c.subscribeTo(topic, s))
	}
	for _, a := range c.begin(operations...) {
		c.finish(a)
	}
}

// Unsubscribe ends a subscription, and waits for the server's answer. No publication of the topic
// comes after it.
func (c *Client) Unsubscribe(topic string) {
	c.t.Helper()
	if c.ask(operation{Op: "unsubscribe", Topic: topic}) == nil {
		return
	}
	c.order = slices.DeleteFunc(c.order, func(name string) bool { return name == topic })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topics[topic] = &topicState{at: c.topic(topic).at, count: -1}
}

// Publish publishes a value, and waits for the server's answer. It returns the position of the
// publication on a topic with history.
func (c *Client) Publish(topic string, data any) (at string) {
	c.t.Helper()
	if f := c.ask(operation{Op: "publish", Topic: topic, Data: marshal(c.t, data)}); f != nil {
		at = f.At
	}
	return at
}

// Request sends a request, and waits for the answer of OnRequest. The answer is unmarshalled to
// what answer points to; nil: it is ignored.
func (c *Client) Request(topic string, question, answer any) {
	c.t.Helper()
	f := c.ask(operation{Op: "request", Topic: topic, Data: marshal(c.t, question)})
	switch {
	case f == nil || answer == nil:
	case f.Data == nil:
		c.fatalf("request %q was answered without data", topic)
	default:
		if err := json.Unmarshal(f.Data, answer); err != nil {
			c.fatalf("request %q was answered by %s: %v", topic, shorten(string(f.Data)), err)
		}
	}
}

// History returns the newest publications of a topic, at most limit, oldest first.
func (c *Client) History(topic string, limit int) []Message {
	c.t.Helper()
	a := c.finished(operation{Op: "history", Topic: topic, Limit: limit})
	if a == nil {
		return nil
	}
	all := make([]Message, len(a.messages))
	for i, p := range a.messages {
		all[i] = p.in(topic)
	}
	return all
}

// Present makes the client present in a topic, with an info that the other members see, or changes
// the info. nil is no info.
func (c *Client) Present(topic string, info any) {
	c.t.Helper()
	op := operation{Op: "present", Topic: topic}
	if info != nil {
		op.Info = marshal(c.t, info)
	}
	c.ask(op)
}

// Absent makes the client not present in a topic.
func (c *Client) Absent(topic string) {
	c.t.Helper()
	c.ask(operation{Op: "absent", Topic: topic})
}

// Position returns the newest position of a topic that has come. "": none has, for example because the
// topic keeps no history.
func (c *Client) Position(topic string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.topic(topic).at
}

// ExpectError calls operations, which calls methods of the client. The server must answer the last
// of them by an error with this code. ExpectError returns the error. Further codes are in
// docs/protocol.md.
func (c *Client) ExpectError(code string, operations func()) *live.ClientError {
	c.t.Helper()
	c.refusing, c.refused = true, nil
	defer func() { c.refusing = false }()
	operations()
	switch {
	case c.refused == nil:
		c.fatalf("the server has answered without an error, want the error %q", code)
	case c.refused.Code != code:
		c.fatalf("the server has answered by the error %q (%s), want %q", c.refused.Code, c.refused.Message, code)
	}
	return c.refused
}

// ask carries out an operation. It returns the reply, or nil if there was an error within
// ExpectError.
func (c *Client) ask(op operation) *frame {
	c.t.Helper()
	if a := c.finished(op); a != nil {
		return a.answer
	}
	return nil
}

func (c *Client) finished(op operation) *call {
	c.t.Helper()
	return c.finish(c.begin(op)[0])
}

// begin sends operations in one frame.
func (c *Client) begin(operations ...operation) []*call {
	c.t.Helper()
	if c.as.plain {
		c.fatalf("a plain client cannot %s: Send a message instead", operations[0].Op)
	}
	calls := make([]*call, len(operations))
	c.mu.Lock()
	for i, op := range operations {
		c.lastID++
		op.ID = c.lastID
		operations[i] = op
		calls[i] = &call{op: op}
		c.calls[op.ID] = calls[i]
	}
	c.mu.Unlock()
	switch len(operations) {
	case 0:
	case 1:
		c.write(operations[0])
	default:
		c.write(operations)
	}
	return calls
}

// finish waits for the answer of an operation. It returns nil if that is an error within
// ExpectError.
func (c *Client) finish(a *call) *call {
	c.t.Helper()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	inTime := c.await(func() bool { return a.done || conn.end != nil })
	switch {
	case !inTime:
		c.fatalf("%s %q was not answered within %v", a.op.Op, a.op.Topic, c.srv.Patience)
	case !a.done:
		c.fatalf("%s %q was not answered: %s", a.op.Op, a.op.Topic, conn.describe())
	case a.answer.Op == "reply":
		c.refused = nil
		return a
	case !c.refusing:
		c.fatalf("%s %q was answered by the error %q: %s", a.op.Op, a.op.Topic, a.answer.Code, a.answer.Message)
	}
	c.refused = &live.ClientError{Code: a.answer.Code, Message: a.answer.Message}
	return nil
}
