package liveclient

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// operation is an operation of this client. Client.mu guards the fields from id on.
type operation struct {
	op, topic     string
	repeatable    bool                // it may be sent again
	onlyConnected bool                // see OnlyConnected
	sub           *Subscription       // of a subscribe; nil: it is another operation
	settle        func(*frame, error) // called once with the answer, or the error; mu is held. nil: nobody waits
	moved         chan struct{}       // holds one element when a part of the answer has come

	id    uint64
	text  []byte    // the frame
	sent  bool      // it was written, or is being written
	begun time.Time // when it was written first; zero: it was not
	over  bool      // settle was called, or nobody waits any more
	parts answerParts
}

// answerParts is what has come of an answer that comes in parts.
type answerParts struct {
	text     strings.Builder
	messages []Message
	members  []Member
	bytes    int
	hasText  bool
	tooBig   bool
}

// CallOption changes how an operation is carried out.
type CallOption func(*calling)

type calling struct {
	uid           string
	onlyConnected bool
}

// ID names a publication: a string of at most 64 bytes that no other publication has. On a topic with
// history a server makes publications of one user with the same ID once, if they come within two minutes. So
// a program that does not know whether a publication was made can publish it again. Publish makes up a random ID if there is none.
// Other operations ignore it.
func ID(uid string) CallOption { return func(c *calling) { c.uid = uid } }

// OnlyConnected makes an operation fail with ErrOffline if there is no connection. A publication is then not sent
// again if the connection breaks before the answer: it fails with ErrDisconnected.
func OnlyConnected() CallOption { return func(c *calling) { c.onlyConnected = true } }

// Publish publishes data to a topic, and returns when the server has the publication for good. data is
// marshalled to JSON; a []byte or json.RawMessage is JSON already, and nil is null. at is the position of
// the publication, or "" if the topic keeps no history.
//
// Without a connection, the publication waits for one. If the connection breaks before the answer, the publication waits
// again, and is sent on the next one before newer ones. Its ID tells the server that it is the same. On a topic with
// history it is published once. On a topic without history it may be published twice. The application's OnPublish is called
// each time. It is not sent again later than 100 seconds after the first time, since servers know an ID for two minutes. Nor is it sent again after a
// close code that says that a message of the client was wrong: it may have been this one. It then fails with ErrDisconnected.
//
// The error is an *Error, or wraps ErrInvalidTopic or ErrInvalidData. If Sent of the error is false, the publication was
// not made. If it is true and Code returns "", the server may or may not have it. The program may then publish again
// with the same ID.
func (c *Client) Publish(ctx context.Context, topic string, data any, opts ...CallOption) (at string, err error) {
	o := callOptions(opts)
	if o.uid == "" {
		o.uid = rand.Text()
	}
	raw, err := marshal(data)
	if err != nil {
		return "", err
	}
	f, err := c.do(ctx, "publish", topic, o, func(b []byte) []byte {
		b = append(append(b, `,"data":`...), raw...)
		return jsonscan.AppendQuoted(append(b, `,"uid":`...), []byte(strings.ToValidUTF8(o.uid, "\uFFFD")))
	})
	if err != nil {
		return "", err
	}
	return f.at, nil
}

// Request asks the application's OnRequest, and returns its answer, which is nil if there is none. It waits for a connection
// as Publish does. But once it was sent, it is not sent a second time: if the connection breaks before the answer, the
// error wraps ErrDisconnected.
func (c *Client) Request(ctx context.Context, topic string, data any, opts ...CallOption) (json.RawMessage, error) {
	raw, err := marshal(data)
	if err != nil {
		return nil, err
	}
	f, err := c.do(ctx, "request", topic, callOptions(opts), func(b []byte) []byte {
		return append(append(b, `,"data":`...), raw...)
	})
	if err != nil {
		return nil, err
	}
	return f.message.Data, nil
}

// History returns the newest publications of a topic, the oldest of them first. limit is how many, at most
// 1,000. The topic need not be subscribed. It waits and fails as Request does.
func (c *Client) History(ctx context.Context, topic string, limit int, opts ...CallOption) ([]Message, error) {
	f, err := c.do(ctx, "history", topic, callOptions(opts), func(b []byte) []byte {
		return strconv.AppendInt(append(b, `,"limit":`...), int64(limit), 10)
	})
	if err != nil {
		return nil, err
	}
	for i := range f.messages {
		f.messages[i].Topic = topic
	}
	return f.messages, nil
}

// Send sends a message to the application's OnMessage. The server does not answer it. Send returns when the message has been
// given to the connection. It may still be lost if that breaks. Without a connection it waits for one. data is as for Publish.
func (c *Client) Send(ctx context.Context, topic string, data any, opts ...CallOption) error {
	raw, err := marshal(data)
	if err != nil {
		return err
	}
	if err := checkTopic(topic); err != nil {
		return err
	}
	text := jsonscan.AppendQuoted([]byte(`{"topic":`), []byte(topic))
	text = append(append(append(text, `,"data":`...), raw...), '}')
	call := &operation{op: "send", topic: topic, text: text}
	_, err = c.await(ctx, call, callOptions(opts))
	return err
}

// Ping asks the server whether it lives, and returns how long the answer took. It fails with ErrOffline if there is no
// connection, with ErrDisconnected if that breaks before the answer, and with ErrTimeout after Options.CallTimeout if ctx has no deadline.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	timer := time.NewTimer(c.timeout(ctx))
	defer timer.Stop()
	defer c.awaitsAnswer()()
	answered := make(chan struct{})
	for {
		begun := time.Now()
		cn, space, err := c.handPing(answered)
		if err != nil {
			return 0, err
		}
		select {
		case <-space:
			continue
		case <-answered:
		case <-cn.dead:
		case <-timer.C:
			return 0, ErrTimeout
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		select {
		case <-cn.dead:
			return 0, ErrDisconnected
		default:
			return time.Since(begun), nil
		}
	}
}

// handPing gives a ping to the connection. space is closed when the caller should try again; nil: it was taken.
func (c *Client) handPing(answered chan struct{}) (cn *conn, space <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cn = c.conn
	switch err := c.isClosed(); {
	case err != nil:
		return nil, nil, err
	case cn == nil:
		return nil, nil, ErrOffline
	case c.isFull(cn):
		return cn, cn.awaitSpace(), nil
	}
	cn.pings = append(cn.pings, answered)
	cn.put(outgoing{text: []byte(`{"op":"ping"}`)})
	return cn, nil, nil
}

// timeout returns how long an operation waits for its answer, besides its context.
func (c *Client) timeout(ctx context.Context) time.Duration {
	if _, ok := ctx.Deadline(); ok || c.opts.CallTimeout < 0 {
		return 1<<63 - 1
	}
	return c.opts.CallTimeout
}

func callOptions(opts []CallOption) calling {
	var o calling
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

func checkTopic(topic string) error {
	switch {
	case topic == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidTopic)
	case !utf8.ValidString(topic):
		return fmt.Errorf("%w: %q is not UTF-8", ErrInvalidTopic, topic)
	}
	return nil
}

func checkJSON(raw []byte) (json.RawMessage, error) {
	if raw == nil {
		return json.RawMessage("null"), nil
	}
	switch {
	case jsonscan.ValidData(raw):
	case jsonscan.Valid(raw):
		return nil, fmt.Errorf("%w: it nests deeper than %d levels", ErrInvalidData, jsonscan.MaxDataDepth)
	default:
		return nil, fmt.Errorf("%w: %.60q", ErrInvalidData, raw)
	}
	return raw, nil
}

// newCall makes an operation; mu is held. members appends the other members of its object, each with a comma before it.
func (c *Client) newCall(op, topic string, members func([]byte) []byte) *operation {
	c.lastID++
	call := &operation{op: op, topic: topic, id: c.lastID}
	b := append(append([]byte(`{"op":"`), op...), `","id":`...)
	b = strconv.AppendUint(b, call.id, 10)
	b = jsonscan.AppendQuoted(append(b, `,"topic":`...), []byte(topic))
	if members != nil {
		b = members(b)
	}
	call.text = append(b, '}')
	return call
}

// do carries out an operation, and waits for its answer.
func (c *Client) do(ctx context.Context, op, topic string, o calling, members func([]byte) []byte) (*frame, error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	c.mu.Lock()
	call := c.newCall(op, topic, members)
	c.mu.Unlock()
	call.repeatable = op == "publish"
	return c.await(ctx, call, o)
}

// await hands a call in, and waits until it is settled.
func (c *Client) await(ctx context.Context, call *operation, o calling) (*frame, error) {
	type result struct {
		answer *frame
		err    error
	}
	done := make(chan result, 1)
	call.onlyConnected = o.onlyConnected
	call.moved = make(chan struct{}, 1)
	call.settle = func(f *frame, err error) { done <- result{f, err} }
	timeout := c.timeout(ctx)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	if err := ctx.Err(); err != nil {
		return nil, call.error(err)
	}
	defer c.awaitsAnswer()()
	space, err := c.hand(call)
	if err != nil {
		return nil, err
	}
	for {
		select {
		case r := <-done:
			return r.answer, r.err
		case <-space:
			space, err = c.hand(call)
			if err != nil {
				return nil, err
			}
		case <-call.moved:
			timer.Reset(timeout)
		case <-ctx.Done():
			c.giveUp(call, ctx.Err())
			r := <-done
			return r.answer, r.err
		case <-timer.C:
			c.giveUp(call, ErrTimeout)
			r := <-done
			return r.answer, r.err
		}
	}
}

// repeatWithin is how long after its first time a publication is sent again. Servers know its ID for two minutes. The rest is for the
// way to the server, and for clocks that run at different speeds.
const repeatWithin = 100 * time.Second

// noteSent notes that the operation is being written; mu is held.
func (call *operation) noteSent() {
	call.sent = true
	if call.begun.IsZero() {
		call.begun = time.Now()
	}
}

// isTooOld reports whether the server may have forgotten that it has made this publication. If it were sent again, it could be made twice; mu is
// held.
func (call *operation) isTooOld() bool {
	return !call.over && !call.begun.IsZero() && time.Since(call.begun) > repeatWithin
}

// giveUp ends a call whose caller waits no longer; mu is not held. It does nothing if the call was settled in the
// meantime. A call that was sent stays in asked, so that Close and a waiting reader know that its answer is due.
func (c *Client) giveUp(call *operation, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call.fail(why)
	c.waiting = slices.DeleteFunc(c.waiting, func(other *operation) bool { return other == call })
	if !call.sent {
		delete(c.asked, call.id)
		c.checkQuiet()
	}
	call.text, call.parts = nil, answerParts{} // the server may never answer
}

// hand gives a call to the connection, or has it wait for one. space is closed when the caller should try again;
// nil: it was taken.
func (c *Client) hand(call *operation) (space <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.isClosed()
	switch cn := c.conn; {
	case err != nil:
	case cn != nil && len(c.waiting) == 0:
		if cn.unsent > 0 && cn.unsent+len(call.text) > c.opts.MaxUnsent {
			return cn.awaitSpace(), nil
		}
		c.give(cn, call)
		return nil, nil
	case call.onlyConnected:
		err = ErrOffline
	case len(c.waiting) >= c.opts.MaxWaiting:
		err = ErrTooManyWaiting
	default:
		c.waiting = append(c.waiting, call)
		return nil, nil
	}
	return nil, call.error(err)
}

// give queues a call on a connection; mu is held.
func (c *Client) give(cn *conn, call *operation) {
	switch {
	case call.over:
	case cn.largest > 0 && len(call.text) > cn.largest:
		call.fail(fmt.Errorf("%w: it has %d bytes, and the server takes %d", ErrTooBig, len(call.text), cn.largest))
	case call.id == 0: // no answer comes
		call.sent = true
		cn.put(outgoing{text: call.text})
		call.settleWith(nil, nil)
	default:
		c.asked[call.id] = call
		cn.put(outgoing{text: call.text, call: call})
	}
}

// awaitsAnswer notes that a caller waits for what the server sends, until the returned function is called. The caller may be
// a callback, so the reader must not wait for callbacks meanwhile. mu is not held.
func (c *Client) awaitsAnswer() (ends func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.callers++
	wakeAll(&c.kicked)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.callers--
	}
}

// settleWith settles a call, unless it is settled already; mu is held.
func (call *operation) settleWith(f *frame, err error) {
	if call.over {
		return
	}
	call.over = true
	if call.settle != nil {
		call.settle(f, err)
	}
}

// fail settles a call with an error of this package; mu is held.
func (call *operation) fail(err error) { call.settleWith(nil, call.error(err)) }

func (call *operation) error(err error) *Error {
	return &Error{Op: call.op, Topic: call.topic, Sent: call.sent, Err: err}
}
