package live

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// Listen calls fn for every publication of a topic, from every server of the Broker, until
// Unsubscribe. The calls are made one after another, in the order of the publications. They run
// in a goroutine of their own, so that a slow fn delays nobody else. If QueueSize publications
// wait for fn already, the oldest is dropped; see OnGap. A panic in fn is logged, and ends
// nothing. A call that began before Unsubscribe may still run after Unsubscribe has returned.
//
// On a keyed topic fn may get a value again that it has already had, and may miss a value that a
// newer one of its key has replaced. After a gap it gets every key that the topic then has.
//
// The error wraps ErrInvalidTopic, or is the broker's.
func (s *Server) Listen(topic string, fn func(Message), opts ...ListenOption) (Subscription, error) {
	l, err := s.listen(topic, fn, opts)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// ListenOption changes what Listen does.
type ListenOption func(*listener)

// OnGap makes Listen call fn where publications of the topic were lost. Such a call never runs
// at the same time as a call of Listen's function. Publications are lost if the broker loses
// them, if its history begins anew, or if the listener is too slow. On a topic without history
// only the last of these is noticed. Without OnGap a gap is logged as a warning. On a keyed topic
// fn should forget all keys, since those that the topic has follow.
func OnGap(fn func(topic string)) ListenOption {
	return func(l *listener) { l.onGap = fn }
}

// OnState has fn called with the state of a topic that has TopicOptions.Snapshot, as JSON: once
// before the first call of Listen's function, and again where publications were lost. The
// publications after the state follow it. Then OnGap is called only if there is no new state
// either. Listen asks for the first state itself: it takes as long as Snapshot does, and its error
// may wrap ErrSnapshot, or ErrNoHistory if the topic has no Snapshot.
func OnState(fn func(state json.RawMessage)) ListenOption {
	return func(l *listener) { l.onState = fn }
}

// Sampled has Listen call fn for the first perSecond publications of each second, and leave the others out.
// A perSecond below 1 counts as 1. Sampled is for code that watches a busy topic. The publications
// that are left out are no gap, and do not count as dropped. TopicStats.Published counts them. After a
// gap fn does not get the keys of a keyed topic.
func Sampled(perSecond int) ListenOption {
	return func(l *listener) { l.perSecond = max(perSecond, 1) }
}

func (s *Server) listen(topic string, fn func(Message), opts []ListenOption) (*listener, error) {
	if err := s.checkTopic(topic); err != nil {
		return nil, err
	}
	if s.closed.Load() {
		return nil, ErrServerClosed
	}
	ctx, cancel := context.WithTimeout(context.Background(), brokerTimeout)
	defer cancel()
	t, err := s.topics.lockReady(ctx, nil, topic)
	if err != nil {
		return nil, err
	}
	defer s.topics.unlock(t)
	l := &listener{server: s, topic: t, fn: fn}
	for _, opt := range opts {
		opt(l)
	}
	if l.onState != nil {
		if err := l.begin(); err != nil {
			return nil, err
		}
	}
	l.index = len(t.listeners)
	t.listeners = append(t.listeners, l)
	return l, nil
}

// Listen is Server.Listen until the session ends. It returns ErrSessionClosed if the session has
// ended already.
func (s *Session) Listen(topic string, fn func(Message), opts ...ListenOption) (Subscription, error) {
	if s.IsClosed() {
		return nil, ErrSessionClosed // before the broker is asked
	}
	l, err := s.server.listen(topic, fn, opts)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		if s.listeners == nil {
			s.listeners = make(map[*listener]struct{})
		}
		s.listeners[l] = struct{}{}
		l.session = s
	}
	s.mu.Unlock()
	if closed {
		l.Unsubscribe()
		return nil, ErrSessionClosed
	}
	return l, nil
}

// listener is Go code that is subscribed to a topic.
type listener struct {
	server    *Server
	topic     *topic
	fn        func(Message)
	onGap     func(topic string)    // nil: a gap is logged
	onState   func(json.RawMessage) // nil: it wants no state
	perSecond int                   // how many publications of each second reach fn; 0: all
	session   *Session              // with which it ends; nil: with none

	// topic.mu guards these fields.
	index  int   // in topic.listeners
	second int64 // the second of the newest publication, if perSecond is not 0
	came   int   // publications that have come in that second

	mu      sync.Mutex // guards what follows
	queue   []listened
	table   []*broker.Publication // of a keyed topic after a gap: they come before the first of queue
	dropped int                   // publications that were dropped before the first of queue
	running bool                  // a goroutine calls fn
	stopped bool
}

// listened is a message for a listener, or a gap.
type listened struct {
	Message
	gap   bool   // there is no message: publications were lost here
	state []byte // there is no message, but the topic's state; nil: there is none
}

// Unsubscribe ends the listening. Publications that wait, or are made later, do not reach fn.
func (l *listener) Unsubscribe() error {
	l.mu.Lock()
	first := !l.stopped
	l.stopped = true
	l.queue, l.table = nil, nil
	l.mu.Unlock()
	if !first {
		return nil
	}
	if s := l.session; s != nil {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}
	l.topic.mu.Lock()
	defer l.server.topics.unlock(l.topic)
	all := l.topic.listeners
	last := len(all) - 1
	all[l.index] = all[last]
	all[l.index].index = l.index
	all[last] = nil
	l.topic.listeners = all[:last]
	return nil
}

// deliver queues a publication; topic.mu is held.
func (l *listener) deliver(p *broker.Publication) {
	if l.takes() {
		l.add(listened{Message: messageOf(p)})
	}
}

// takes counts the next publication, and reports whether fn gets it; topic.mu is held.
func (l *listener) takes() bool {
	if l.perSecond == 0 {
		return true
	}
	if second := clock.Now() / int64(time.Second); second != l.second {
		l.second, l.came = second, 0
	}
	l.came++
	return l.came <= l.perSecond
}

// tellGap queues a gap; topic.mu is held.
func (l *listener) tellGap() { l.add(listened{gap: true}) }

func (l *listener) add(next listened) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return
	}
	if len(l.queue) >= max(l.server.opts.QueueSize, l.perSecond) { // a sample that comes at once fits in
		l.queue = l.queue[1:]
		l.dropped++
		l.server.counters.listenerDropped.Add(1)
	}
	l.queue = append(l.queue, next)
	l.startRun()
}

// startRun starts the goroutine that calls fn, if it does not run; mu is held.
func (l *listener) startRun() {
	if !l.running {
		l.running = true
		go l.run() // ends when the queue is empty
	}
}

// run calls fn until nothing waits. A fn that ends its goroutine with runtime.Goexit does
// not end the listening.
func (l *listener) run() {
	goOn := true
	defer func() {
		if goOn {
			go l.run() // ends when the queue is empty
		}
	}()
	for {
		next, dropped, ok := l.next()
		if !ok {
			goOn = false
			return
		}
		if dropped > 0 {
			l.server.logOfClient(slog.LevelWarn, "live: listener is too slow", "topic", l.topic.name, "dropped", dropped)
		}
		if (dropped > 0 || next.gap) && l.renew() {
			continue
		}
		switch {
		case next.state != nil:
			l.server.callSafely("OnState", "topic", l.topic.name, func() { l.onState(next.state) })
		case dropped > 0 || next.gap:
			if l.takeTable() {
				next.gap = true // the table has what came with it, or something newer
			}
			l.callOnGap()
		}
		if !next.gap && next.state == nil {
			l.server.callSafely("Listen", "topic", next.Topic, func() { l.fn(next.Message) })
		}
	}
}

// next takes what comes next. dropped is how many publications were dropped before it. If nothing
// waits, ok is false, and the goroutine must end.
func (l *listener) next() (next listened, dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.stopped, len(l.queue)+len(l.table) == 0:
		l.running = false
		return listened{}, 0, false
	case len(l.table) > 0: // every key has its turn, even if fn is too slow again
		next.Message = messageOf(l.table[0])
		l.table = l.table[1:]
		return next, 0, true
	}
	next, dropped = l.queue[0], l.dropped
	l.queue, l.dropped = l.queue[1:], 0
	return next, dropped, true
}

// takeTable puts all keys of a keyed topic in the place of what waits. It reports false if the topic is
// not keyed, or if fn gets only a sample.
func (l *listener) takeTable() bool {
	t := l.topic
	if l.perSecond != 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feed == nil || t.feed.keys == nil {
		return false
	}
	all := t.feed.keys.values(math.MaxInt)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stopped {
		l.queue, l.dropped, l.table = nil, 0, all
	}
	return true
}

// begin has the listener begin with the topic's state. The topic is locked before and after, and
// not meanwhile.
func (l *listener) begin() error {
	t := l.topic
	if t.opts.Snapshot == nil || t.feed == nil {
		return fmt.Errorf("%w: %q has no Snapshot, or nothing to build on", ErrNoHistory, t.name)
	}
	st, err := l.currentState()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue, l.dropped = []listened{{state: bytes.Clone(st.data)}}, 0 // fn may change it
	for _, p := range t.feed.ring[t.feed.indexAfter(st.at.Offset):] {
		l.queue = append(l.queue, listened{Message: messageOf(p)})
	}
	l.startRun()
	return nil
}

// stateAttempts is how many states a listener is ready to ask for, since it takes what follows a
// state from the feed: while a state is made, more may be published than the feed holds.
const stateAttempts = 3

// currentState returns a state of the topic, whose feed has all publications after it. The topic
// is locked before and after, and not meanwhile.
func (l *listener) currentState() (*topicState, error) {
	ts := l.server.topics
	for range stateAttempts {
		st, err := ts.stateOf(ts.life, l.topic)
		if err != nil || st.joins(l.topic.feed) {
			return st, err
		}
	}
	return nil, fmt.Errorf("%w: %q: too much is published while it is made", ErrSnapshot, l.topic.name)
}

// renew puts the topic's state, and the publications after it, in the place of what waits. It
// reports false if the listener wants no state, or there is none.
func (l *listener) renew() bool {
	if l.onState == nil {
		return false
	}
	err := l.beginAnew()
	if err != nil { // logged without topic.mu, because a slog.Handler may publish to the topic
		l.server.logOfClient(slog.LevelWarn, "live: listener gets no new state after a gap", "topic", l.topic.name, "err", err)
	}
	return err == nil
}

func (l *listener) beginAnew() error {
	l.topic.mu.Lock()
	defer l.server.topics.unlock(l.topic)
	return l.begin()
}

func (l *listener) callOnGap() {
	if l.onGap == nil {
		l.server.logOfClient(slog.LevelWarn, "live: a listener missed publications, and has no OnGap", "topic", l.topic.name)
		return
	}
	l.server.callSafely("OnGap", "topic", l.topic.name, func() { l.onGap(l.topic.name) })
}
