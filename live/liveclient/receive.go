package liveclient

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// receive handles one frame. Only the goroutine of run calls it.
func (c *Client) receive(cn *conn, raw []byte) {
	f, err := decodeFrame(raw)
	c.mu.Lock()
	defer c.mu.Unlock()
	if cn.garbled != nil {
		c.report(cn.garbled)
		cn.garbled = nil
	}
	if err != nil && f.isGarbled {
		// It may be the first part of a frame that the end of a TLS connection has cut off: conn.read then does not learn of the cut. So it
		// is reported only when a further frame has come. No operation waits for it, since it has no id.
		cn.garbled = err
		return
	}
	if err != nil {
		c.report(err)
		if call := c.asked[f.id]; call != nil && (f.op == "reply" || f.op == "part" || f.op == "error") {
			c.settled(call)
			c.failed(call, err)
		}
		return
	}
	switch f.op {
	case "":
		m := f.message
		m.Topic, m.At, m.Recovered = f.topic, f.at, f.recovered
		c.deliver(cn, m)
	case "ping":
		cn.pong()
	case "pong":
		if len(cn.pings) > 0 {
			close(cn.pings[0])
			cn.pings = cn.pings[1:]
		}
	case "drain":
		cn.window = f.within
	case "gap":
		c.noteGap(f)
	case "presence":
		c.attend(f)
	case "reply", "part":
		c.answer(cn, f)
	case "error":
		c.answerError(f)
	}
}

// answer takes an answer to an operation, or a part of one; mu is held.
func (c *Client) answer(cn *conn, f *frame) {
	call := c.asked[f.id]
	if call == nil {
		return // an answer that nobody waits for
	}
	if !call.over { // else nobody needs it
		call.parts.add(f, 4*c.opts.ReadLimit)
	}
	if f.more || f.op == "part" {
		if call.parts.tooBig { // the rest is ignored
			c.failed(call, call.parts.tooBigError())
			call.over = true
		}
		select {
		case call.moved <- struct{}{}:
		default:
		}
		return
	}
	c.settled(call)
	err := call.parts.join(f)
	switch {
	case err != nil:
		c.failed(call, err)
	case call.sub != nil:
		call.over = true
		c.joined(cn, call.sub, f)
	default:
		call.settleWith(f, nil)
	}
}

// answerError takes an error that the server answered; mu is held. All operations of this client have an id. So an error without an id
// is only reported.
func (c *Client) answerError(f *frame) {
	if f.code == "" {
		f.code = CodeInternal
	}
	call := c.asked[f.id]
	if call == nil {
		if f.id == 0 {
			c.report(&Error{Op: "operation", Topic: f.topic, Code: f.code, Message: f.reason, Sent: true})
		}
		return
	}
	c.settled(call)
	refusal := &Error{Op: call.op, Topic: call.topic, Code: f.code, Message: f.reason, Sent: true}
	if call.sub != nil {
		c.refused(call.sub, refusal)
		return
	}
	call.settleWith(nil, refusal)
}

// failed ends an operation whose answer is not valid; mu is held.
func (c *Client) failed(call *operation, err error) {
	if call.sub != nil {
		c.refused(call.sub, call.error(err))
		return
	}
	call.fail(err)
}

// settled notes that no answer to a call is due any more; mu is held.
func (c *Client) settled(call *operation) {
	delete(c.asked, call.id)
	c.checkQuiet()
}

// add keeps what a part of an answer has. limit bounds the bytes of all parts together.
func (p *answerParts) add(f *frame, limit int) {
	p.bytes += len(f.text)
	for _, m := range f.messages {
		p.bytes += m.size()
	}
	for _, m := range f.members {
		p.bytes += m.size()
	}
	if p.bytes > limit {
		*p = answerParts{bytes: p.bytes, tooBig: true}
		return
	}
	if f.hasText {
		p.hasText = true
		p.text.WriteString(f.text)
	}
	p.messages = append(p.messages, f.messages...)
	p.members = append(p.members, f.members...)
}

// join makes the last frame of an answer the whole answer.
func (p *answerParts) join(f *frame) error {
	switch {
	case p.tooBig:
		return p.tooBigError()
	case p.hasText && !jsonscan.Valid([]byte(p.text.String())):
		return fmt.Errorf("%w: the parts of the answer are not JSON", ErrBadFrame)
	case p.hasText:
		f.message.Data = json.RawMessage(bytes.TrimSpace([]byte(p.text.String())))
		f.state = f.message.Data
	}
	f.messages, f.members = p.messages, p.members
	return nil
}

func (p *answerParts) tooBigError() error {
	return fmt.Errorf("%w: the answer has more than %d bytes", ErrTooBig, p.bytes-1)
}

// size returns about how many bytes a message holds.
func (m *Message) size() int {
	const overhead = 128 // of the struct, and of its place in the heap
	return overhead + len(m.Data) + len(m.Key) + len(m.At)
}

func (m *Member) size() int {
	const overhead = 64
	n := overhead + len(m.ID)
	for _, info := range m.Sessions {
		n += overhead + len(info)
	}
	return n
}
