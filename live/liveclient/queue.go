package liveclient

import (
	"encoding/json"
	"time"
)

// event is something that the callbacks of a subscription are to be told.
type event struct {
	kind    eventKind
	message Message         // of a message
	gap     Gap             // of a gap
	state   json.RawMessage // of a state
	at      string
}

type eventKind int

const (
	eventMessage eventKind = iota
	eventGap
	eventState
	eventForget   // all keys are removed
	eventPresence // other members are present than before; see attendance
)

// maxPause is how long the reader waits for slow callbacks, until their queue is half empty. It is far below the ten
// seconds after which a server gives up a client that answers no ping, or takes no bytes.
const maxPause = 2 * time.Second

// deliver gives a message to the subscription of its topic; mu is held, but not while it waits for space. Only the
// goroutine that reads calls it.
func (c *Client) deliver(cn *conn, m Message) {
	s := c.subs[m.Topic]
	if s == nil {
		return
	}
	if !s.local && s.state != on && m.At != "" {
		return // the answer that is due brings it
	}
	size := m.size()
	if s.isFull(size) && !s.dropping && !s.conflating {
		c.awaitSpace(cn, s)
		if s.err != nil {
			return
		}
		if full := s.isFull(size); s.keyed {
			s.conflating = full
		} else {
			s.dropping = full
		}
	}
	switch {
	case s.dropping:
		return
	case s.conflating && s.isFull(size):
		s.compact()
	}
	if m.At != "" && !s.local {
		s.at = m.At
	}
	s.enqueue(event{kind: eventMessage, message: m})
}

// isFull reports whether a message of this size would exceed the bounds of the queue; mu is held.
func (s *Subscription) isFull(size int) bool {
	o := &s.client.opts
	return len(s.queue) > 0 && (len(s.queue) >= o.QueueSize || s.queued+size > o.QueueBytes)
}

// compact drops each waiting value of a keyed topic for which a newer value of its key waits; mu is held. The queue may still
// exceed its bounds: it has up to one value of each key of the topic. These are not dropped and fetched again as messages of other
// topics are, because the keys of a topic come in any order.
func (s *Subscription) compact() {
	if len(s.queue) < 2*s.compacted {
		return // not much would be dropped
	}
	newest := make(map[string]int)
	for i, e := range s.queue {
		if e.kind == eventMessage {
			newest[e.message.Key] = i
		}
	}
	kept := make([]event, 0, 2*len(newest))
	s.queued = 0
	for i, e := range s.queue {
		if e.kind != eventMessage || newest[e.message.Key] == i {
			kept = append(kept, e)
			s.queued += e.size()
		}
	}
	s.queue, s.compacted = kept, len(kept)
}

// awaitSpace waits until the queue of a subscription is half empty, for maxPause at most. Meanwhile nothing is read, so that the server
// learns that this client is slow. It does not wait while a caller waits for an answer, because that may be a callback. mu is
// held before and after.
func (c *Client) awaitSpace(cn *conn, s *Subscription) {
	if c.callers > 0 || c.closing {
		return
	}
	if s.space == nil {
		s.space = make(chan struct{})
	}
	if c.kicked == nil {
		c.kicked = make(chan struct{})
	}
	space, kicked := s.space, c.kicked
	c.mu.Unlock()
	timer := time.NewTimer(maxPause)
	select {
	case <-space:
	case <-kicked:
	case <-cn.dead:
	case <-timer.C:
	}
	timer.Stop()
	cn.tcp.heard.Store(int64(time.Since(cn.tcp.begun))) // nothing was read, so nothing could be heard
	c.mu.Lock()
}

// enqueue adds an event; mu is held.
func (s *Subscription) enqueue(e event) {
	s.queue = append(s.queue, e)
	s.queued += e.size()
	if !s.running {
		s.running = true
		go s.run() // ends when the queue is empty
	}
}

func (e *event) size() int { return e.message.size() + len(e.state) }

// gap queues a gap, unless the newest event is one; mu is held.
func (s *Subscription) gap(reason GapReason) {
	if n := len(s.queue); n > 0 && s.queue[n-1].kind == eventGap {
		return
	}
	s.enqueue(event{kind: eventGap, gap: Gap{s.topic, reason}})
}

// forgetKeys queues the removal of all keys, because the server sends all of them anew; mu is held. Keys that are gone
// meanwhile must not stay.
func (s *Subscription) forgetKeys() {
	s.at = "" // until all have come
	if n := len(s.queue); n > 0 && s.queue[n-1].kind == eventForget {
		return
	}
	s.enqueue(event{kind: eventForget})
}

// replaceState queues the state of the topic in the place of all messages and gaps that wait; mu is held.
func (s *Subscription) replaceState(state json.RawMessage, at string) {
	kept := s.queue[:0]
	s.queued = 0
	for _, e := range s.queue {
		if e.kind == eventPresence {
			kept = append(kept, e)
			s.queued += e.size()
		}
	}
	clear(s.queue[len(kept):])
	s.queue = kept
	wakeAll(&s.space)
	s.enqueue(event{kind: eventState, state: state, at: at})
}

// run calls the callbacks until no event waits.
func (s *Subscription) run() {
	c := s.client
	c.mu.Lock()
	for {
		if len(s.queue) == 0 && s.dropping {
			c.catchUp(s)
		}
		if len(s.queue) == 0 {
			s.queue, s.running = nil, false
			c.mu.Unlock()
			return
		}
		e := s.queue[0]
		s.queue[0] = event{}
		s.queue = s.queue[1:]
		s.queued -= e.size()
		if len(s.queue) <= c.opts.QueueSize/2 && s.queued <= c.opts.QueueBytes/2 {
			s.conflating, s.compacted = false, 0
			wakeAll(&s.space)
		}
		calls := s.callsFor(&e)
		c.mu.Unlock()
		calls()
		c.mu.Lock()
	}
}

// catchUp ends the dropping of messages, when the callbacks have had all that waited; mu is held. What was dropped is fetched
// again from the topic's history.
func (c *Client) catchUp(s *Subscription) {
	s.dropping = false
	switch {
	case s.err != nil:
	case s.local:
		s.gap(GapLost)
	case c.conn == nil || s.state != on: // the next subscribe begins at s.at
	case s.at != "" || s.keyed || s.onState != nil:
		s.state = idle
		c.inform(s.topic, false)
	default:
		s.gap(GapLost)
	}
}

// callsFor returns a function that tells the callbacks of an event; mu is held, but not when the function is called.
func (s *Subscription) callsFor(e *event) func() {
	c := s.client
	switch e.kind {
	case eventGap:
		gap := e.gap
		if s.onGap == nil {
			c.report(&GapError{gap})
			return func() {}
		}
		return func() { s.onGap(gap) }
	case eventState:
		state, at := e.state, e.at
		return func() { s.onState(state, at) }
	case eventForget:
		return s.forget(s.keys)
	case eventPresence:
		return s.presenceCalls()
	}
	m := e.message
	s.noteKey(&m)
	return func() { s.hear(m) }
}

// noteKey keeps the newest value of a message's key; mu is held.
func (s *Subscription) noteKey(m *Message) {
	switch {
	case m.Removed:
		delete(s.keys, m.Key)
	case m.Key != "":
		if s.keys == nil {
			s.keys = make(map[string]json.RawMessage)
		}
		s.keys[m.Key] = m.Data
	}
}

// forget returns a function that tells the callbacks that all keys are removed, one after another.
func (s *Subscription) forget(keys map[string]json.RawMessage) func() {
	s.keys = nil
	return func() {
		for key := range keys {
			s.hear(Message{Topic: s.topic, Key: key, Removed: true})
		}
	}
}
