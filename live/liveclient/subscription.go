package liveclient

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// Subscription is a topic that this client hears. Its methods may be called from any goroutine, and from
// callbacks.
//
// Its callbacks run one after another, in the order in which things happened. Callbacks of different subscriptions
// may run at the same time.
type Subscription struct {
	client *Client
	topic  string
	local  bool // Listen has made it: the server does not know of it
	hear   func(Message)
	hearing

	// Client.mu guards the fields below.
	state    subState
	askedOn  *conn  // where the server was asked for it, so that it may have it; nil: it has not
	known    bool   // the server has accepted it before
	at       string // everything up to here has come; "": no position is known
	keyed    bool
	failures int         // attempts that failed since the last success
	retry    *time.Timer // nil: none
	ready    chan struct{}
	over     chan struct{} // closed when it has ended
	err      error         // why; nil: it has not ended

	queue      []event
	conflating bool          // a keyed topic's queue was full: it keeps only the newest value of each key, until it is half empty
	compacted  int           // the length of queue after compact; 0: there was none while conflating
	queued     int           // bytes of queue
	running    bool          // a goroutine calls the callbacks
	dropping   bool          // the queue was full: what comes is dropped, and fetched again when the queue is empty
	space      chan struct{} // closed when the queue is half empty; nil: nobody waits for that

	keys map[string]json.RawMessage // as the callbacks have seen them

	attendance
}

type subState int

const (
	idle  subState = iota // the server does not know of it, or must be asked anew
	asked                 // subscribe was sent
	on                    // the server has accepted it
)

// hearing is what the options of a subscription say.
type hearing struct {
	since      string
	last       int
	unseen     bool // Client.mu guards it: ClearPresence changes it
	info       json.RawMessage
	optionErr  error // of an option; Subscribe returns it
	onGap      func(Gap)
	onState    func(state json.RawMessage, at string)
	onPresence func(Presence)
	onJoin     func(Member)
	onLeave    func(Member)
	onChange   func(now, before Member)
}

// SubscribeOption changes what Subscribe does.
type SubscribeOption func(*hearing)

// Since resumes after a position: the At of a Message, or what Publish has returned. If the history no longer reaches back so
// far, there is a gap, and Last counts. "": no position.
func Since(at string) SubscribeOption { return func(h *hearing) { h.since = at } }

// Last has the server send the newest n messages first, at most 1,000, if the topic keeps history. They are Recovered. After
// a reconnect it counts only if the history no longer has all missed messages.
func Last(n int) SubscribeOption { return func(h *hearing) { h.last = n } }

// OnGap is called where messages of the topic were lost, or may have been. Without it a gap is an error for Options.OnError.
func OnGap(fn func(Gap)) SubscribeOption { return func(h *hearing) { h.onGap = fn } }

// OnState is called with the state of the topic, if the application has a Snapshot for it. The state takes the place of everything
// before it, and every message after it follows. It comes at first, and again where messages were lost, instead of a gap.
// Messages that still waited for callbacks are then dropped. at is the position of the state. Last does not count for
// such a topic.
func OnState(fn func(state json.RawMessage, at string)) SubscribeOption {
	return func(h *hearing) { h.onState = fn }
}

// Gap says that messages of a topic are missing, or may be missing, between the newest message that came and the next.
type Gap struct {
	Topic  string    // of which messages are missing
	Reason GapReason // why
}

// GapReason says why there is a gap.
type GapReason string

const (
	// GapLost: the server has dropped messages, mostly because this client was too slow. Or this client has dropped them,
	// because a callback was too slow and the topic keeps no history.
	GapLost GapReason = "lost"

	// GapNotRecovered: after a reconnect, or at first with Since, the topic's history does not reach back far enough, or
	// it has begun anew.
	GapNotRecovered GapReason = "not_recovered"

	// GapNoHistory: after a reconnect the topic keeps no history, so it is not known whether messages were missed.
	GapNoHistory GapReason = "no_history"
)

// GapError is what Options.OnError gets for a gap of a subscription without OnGap.
type GapError struct{ Gap }

// Error returns the topic and the reason.
func (e *GapError) Error() string {
	return fmt.Sprintf("liveclient: messages of %q may be missing: %s", e.Topic, e.Reason)
}

// Subscribe subscribes to a topic, and has fn called for each of its messages. It does not wait for the server: see
// Subscription.Wait. The subscription lasts until its Unsubscribe is called, the client ends, or the server refuses it. Each
// new connection renews it.
//
// If the topic keeps history, the messages that were published while there was no connection come first after a reconnect.
// Each message comes once and in order, or there is a gap. If the application has subscribed this client's session to the
// topic as well, the two are one subscription at the server, and Unsubscribe ends both.
//
// The server may answer that it cannot decide now (CodeUnavailable, CodeInternal). Then Options.OnError is told, and the client
// asks again after about a second at first and at most 20 s later. Any other error of the server ends the
// subscription.
//
// The error is ErrSubscribed if the topic has a Subscription already, or wraps ErrClosed, ErrInvalidTopic, or ErrInvalidData for an Info.
func (c *Client) Subscribe(topic string, fn func(Message), opts ...SubscribeOption) (*Subscription, error) {
	return c.add(topic, fn, false, opts)
}

// Listen has fn called for each message of a topic that comes, without a subscription at the server. It is for topics to which
// the application subscribes its sessions, and for messages that it sends to this session only. Of the options only
// OnGap and those of presence have a meaning. The errors are those of Subscribe.
func (c *Client) Listen(topic string, fn func(Message), opts ...SubscribeOption) (*Subscription, error) {
	return c.add(topic, fn, true, opts)
}

func (c *Client) add(topic string, fn func(Message), local bool, opts []SubscribeOption) (*Subscription, error) {
	if err := checkTopic(topic); err != nil {
		return nil, err
	}
	s := &Subscription{client: c, topic: topic, local: local, hear: fn, ready: make(chan struct{}), over: make(chan struct{})}
	for _, opt := range opts {
		opt(&s.hearing)
	}
	if s.optionErr != nil {
		return nil, s.optionErr
	}
	if s.hear == nil {
		s.hear = func(Message) {}
	}
	s.at = s.since
	s.count = -1
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.isClosed(); err != nil {
		return nil, err
	}
	if c.subs[topic] != nil {
		return nil, fmt.Errorf("%w: %q", ErrSubscribed, topic)
	}
	c.subs[topic] = s
	switch {
	case local:
		close(s.ready)
	default:
		if s.info != nil {
			c.infos[topic] = &ownInfo{info: s.info}
		}
		c.inform(topic, false)
	}
	return s, nil
}

// Topic returns the topic.
func (s *Subscription) Topic() string { return s.topic }

// Wait waits until the server has accepted the subscription for the first time. Every message that is published later is
// delivered. It returns the error of the subscription if that has ended, and that of ctx if ctx ends first. A
// subscription of Listen need not be accepted.
func (s *Subscription) Wait(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	default:
	}
	defer s.client.awaitsAnswer()()
	select {
	case <-s.ready:
		return nil
	case <-s.over:
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done returns a channel that is closed when the subscription has ended.
func (s *Subscription) Done() <-chan struct{} { return s.over }

// Err returns why the subscription has ended: ErrUnsubscribed, or an *Error that says what the server answered, or that wraps ErrClosed.
// It is nil while the subscription lasts.
func (s *Subscription) Err() error {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.err
}

// At returns the position up to which messages have come. Some of them may still wait for the callbacks: a program that keeps
// its position should keep At of the Message that it has handled. "": there is none.
func (s *Subscription) At() string {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.at
}

// Keys returns the newest value of each key of the topic, as far as the callbacks have been told. A call during the callback for a
// message returns its value too. On a keyed topic these are all keys that the topic has. The caller may change the map.
func (s *Subscription) Keys() map[string]json.RawMessage {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return maps.Clone(s.keys)
}

// Unsubscribe ends the subscription. Messages that wait do not reach the callbacks. A callback that is running already may end
// after Unsubscribe has returned. So a callback may call it. A second call does nothing.
func (s *Subscription) Unsubscribe() {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err == nil {
		c.leave(s, ErrUnsubscribed)
	}
}

// leave ends a subscription; mu is held.
func (c *Client) leave(s *Subscription, why error) {
	delete(c.subs, s.topic)
	if !s.local {
		c.inform(s.topic, s.askedOn != nil)
		delete(c.infos, s.topic)
		c.waiting = slices.DeleteFunc(c.waiting, func(call *operation) bool {
			if call.op != "present" || call.topic != s.topic {
				return false
			}
			call.fail(ErrUnsubscribed)
			return true
		})
	}
	s.finish(why)
}

// finish marks a subscription as ended; mu is held.
func (s *Subscription) finish(why error) {
	s.err = why
	s.queue, s.queued = nil, 0
	if s.retry != nil {
		s.retry.Stop()
	}
	wakeAll(&s.space)
	close(s.over)
}

// inform tells the server what has become of the subscription to a topic; mu is held. ended says that there was another one before, which the
// server may have. If there is no space, the server is told later. It is then told only of the newest subscription, so that a
// program which subscribes and unsubscribes faster than the server reads does not fill the memory.
func (c *Client) inform(topic string, ended bool) {
	cn := c.conn
	if cn == nil {
		return
	}
	s := c.subs[topic]
	if c.isFull(cn) {
		ended = ended || cn.untold[topic]
		if s == nil && !ended {
			delete(cn.untold, topic)
			return
		}
		if cn.untold == nil {
			cn.untold = make(map[string]bool)
		}
		cn.untold[topic] = ended
		return
	}
	if ended {
		cn.put(outgoing{text: append(jsonscan.AppendQuoted([]byte(`{"op":"unsubscribe","topic":`), []byte(topic)), '}')})
	}
	if s != nil {
		c.join([]*Subscription{s})
	}
}

// informRest tells the server what there was no space for; mu is held.
func (c *Client) informRest(cn *conn) {
	if cn != c.conn {
		return
	}
	for topic, ended := range cn.untold {
		if c.isFull(cn) {
			return
		}
		delete(cn.untold, topic)
		c.inform(topic, ended)
	}
}

// Bounds of one frame with subscriptions. docs/protocol.md bounds their number. The bytes leave space for other
// frames between them.
const (
	maxBatch      = 1000
	maxBatchBytes = 64 << 10
)

// joinAll renews all subscriptions, in as few frames as possible; mu is held.
func (c *Client) joinAll() {
	all := make([]*Subscription, 0, len(c.subs))
	for _, s := range c.subs {
		all = append(all, s)
	}
	c.join(all)
}

// join asks the server for those subscriptions that are idle; mu is held.
func (c *Client) join(subs []*Subscription) {
	cn := c.conn
	if cn == nil {
		return
	}
	limit := maxBatchBytes
	if cn.largest > 0 {
		limit = min(limit, cn.largest)
	}
	var batch []byte
	n := 0
	flush := func() {
		if n > 0 {
			cn.put(outgoing{text: append(batch, ']')})
		}
		batch, n = nil, 0
	}
	for _, s := range subs {
		if s.local || s.err != nil || s.state != idle {
			continue
		}
		call := c.newCall("subscribe", s.topic, s.ask)
		if cn.largest > 0 && len(call.text)+2 > cn.largest {
			c.refused(s, call.error(ErrTooBig))
			continue
		}
		s.state, s.dropping, s.askedOn = asked, false, cn
		if s.retry != nil {
			s.retry.Stop()
		}
		call.sub, call.sent = s, true
		c.asked[call.id] = call
		if n == maxBatch || n > 0 && len(batch)+len(call.text)+2 > limit {
			flush()
		}
		if n == 0 {
			batch = append(batch, '[')
		} else {
			batch = append(batch, ',')
		}
		batch = append(batch, call.text...)
		n++
	}
	flush()
}

// ask appends the members of the subscribe operation; mu is held.
func (s *Subscription) ask(b []byte) []byte {
	if s.at != "" {
		b = jsonscan.AppendQuoted(append(b, `,"since":`...), []byte(s.at))
	}
	if s.last > 0 && (s.at != "" || !s.known) {
		b = strconv.AppendInt(append(b, `,"last":`...), int64(s.last), 10)
	}
	if own := s.client.infos[s.topic]; own != nil && own.info != nil {
		b = append(append(b, `,"info":`...), own.info...)
	}
	if s.unseen {
		b = append(b, `,"unseen":true`...)
	}
	return b
}

// joined takes the reply to a subscribe; mu is held.
func (c *Client) joined(cn *conn, s *Subscription, f *frame) {
	if s.err != nil {
		return
	}
	resumed := s.known || s.at != ""
	first := !s.known
	s.state, s.known, s.failures, s.keyed = on, true, 0, f.keyed
	switch {
	case f.state != nil && s.onState != nil:
		s.replaceState(f.state, f.at)
	case f.keyed:
		if !f.recovered {
			s.forgetKeys()
		}
	case resumed && !f.recovered:
		s.gap(gapReason(f.at))
	}
	for _, m := range f.messages {
		m.Topic, m.Recovered = s.topic, true
		c.deliver(cn, m)
		if s.err != nil {
			return
		}
	}
	if s.state == on && !s.dropping {
		s.at = f.at
	}
	if first {
		close(s.ready)
	}
}

func gapReason(at string) GapReason {
	if at == "" {
		return GapNoHistory
	}
	return GapNotRecovered
}

// The waiting times before a subscription is asked for again, after an error that passes. docs/protocol.md names these errors.
const (
	minRetry = time.Second
	maxRetry = 20 * time.Second
)

// refused takes an error as the answer to a subscribe; mu is held.
func (c *Client) refused(s *Subscription, err *Error) {
	if s.err != nil {
		return
	}
	s.state = idle
	c.report(err)
	if err.Code != "" && !s.known { // else the server may have it
		s.askedOn = nil
	}
	if err.Code != CodeUnavailable && err.Code != CodeInternal {
		c.leave(s, err)
		return
	}
	bound := minRetry
	for n := s.failures; n > 0 && bound < maxRetry; n-- {
		bound *= 2
	}
	s.failures++
	bound = min(bound, maxRetry)
	s.retry = time.AfterFunc(bound/2+c.random(bound/2), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if s.err == nil {
			c.inform(s.topic, false)
		}
	})
}

// noteGap takes a gap frame; mu is held.
func (c *Client) noteGap(f *frame) {
	s := c.subs[f.topic]
	switch {
	case s == nil, s.dropping: // what is dropped is fetched again, or is a gap itself
	case s.local:
		s.gap(GapLost)
	case s.state != on: // the answer that is due tells
	case s.keyed:
		s.forgetKeys()
	case s.onState != nil:
		s.state, s.at = idle, ""
		c.inform(s.topic, false)
	default:
		if f.at != "" {
			s.at = f.at
		}
		s.gap(GapLost)
	}
}
