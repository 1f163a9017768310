package live

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"sync"
)

// Listen calls fn for every publication of a topic, at any server of the Broker,
// in order and one after another, until Unsubscribe. fn runs in a goroutine of its
// own: one that is slow holds up nobody, and if QueueSize publications wait for it the
// oldest is dropped, which is logged. A panic in fn is logged and ends nothing. When
// Unsubscribe has returned a call that had begun may still be running.
//
// The error wraps ErrInvalidTopic, or is the broker's.
func (s *Server) Listen(topic string, fn func(Message)) (Subscription, error) {
	return s.listen(topic, fn)
}

func (s *Server) listen(topic string, fn func(Message)) (*listener, error) {
	if err := s.checkTopic(topic); err != nil {
		return nil, err
	}
	if s.closed.Load() {
		return nil, ErrServerClosed
	}
	ctx, cancel := context.WithTimeout(context.Background(), brokerTimeout)
	defer cancel()
	t, err := s.topics.lockReady(ctx, topic)
	if err != nil {
		return nil, err
	}
	defer s.topics.unlock(t)
	l := &listener{server: s, topic: t, fn: fn}
	t.listeners = append(t.listeners, l)
	return l, nil
}

// Listen is Server.Listen, ended with the session. It returns ErrSessionClosed if
// that has ended already.
func (s *Session) Listen(topic string, fn func(Message)) (Subscription, error) {
	l, err := s.server.listen(topic, fn)
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
	server  *Server
	topic   *topic
	fn      func(Message)
	session *Session // with which it ends; nil: with none

	mu      sync.Mutex // guards what follows
	queue   []Message
	dropped int
	running bool // a goroutine calls fn
	stopped bool
}

// Unsubscribe ends the listening: what is published or waits now does not reach fn.
func (l *listener) Unsubscribe() error {
	l.mu.Lock()
	first := !l.stopped
	l.stopped = true
	l.queue = nil
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
	for i, other := range l.topic.listeners {
		if other == l {
			l.topic.listeners = append(l.topic.listeners[:i:i], l.topic.listeners[i+1:]...)
			break
		}
	}
	return nil
}

// deliver queues a publication; topic.mu is held.
func (l *listener) deliver(p *Publication) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return
	}
	if len(l.queue) == l.server.opts.QueueSize {
		l.queue = l.queue[1:]
		l.dropped++
	}
	l.queue = append(l.queue, Message{Topic: p.Topic, Data: bytes.Clone(p.Data)}) // fn may keep it, or change it
	if !l.running {
		l.running = true
		go l.run() // ends when the queue is empty
	}
}

func (l *listener) run() {
	for {
		l.mu.Lock()
		if l.stopped || len(l.queue) == 0 {
			l.running = false
			l.mu.Unlock()
			return
		}
		m, dropped := l.queue[0], l.dropped
		l.queue, l.dropped = l.queue[1:], 0
		l.mu.Unlock()
		if dropped > 0 {
			l.server.opts.Logger.Warn("live: listener is too slow", "topic", l.topic.name, "dropped", dropped)
		}
		l.call(m)
	}
}

func (l *listener) call(m Message) {
	defer func() {
		if p := recover(); p != nil {
			l.server.counters.panics.Add(1)
			l.server.opts.Logger.Error("live: callback panicked",
				"callback", "Listen", "topic", m.Topic, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	l.fn(m)
}

// Publish publishes a value as JSON.
func Publish[T any](s *Server, topic string, v T, opts ...PublishOption) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidData, err)
	}
	return s.Publish(topic, data, opts...)
}

// Listen is Server.Listen with the data decoded from JSON. What does not decode is
// logged as an error, and fn is not called for it.
func Listen[T any](s *Server, topic string, fn func(T)) (Subscription, error) {
	return s.Listen(topic, func(m Message) {
		var v T
		if err := decodeData(m, &v); err != nil {
			s.opts.Logger.Error("live: publication does not decode", "topic", topic, "err", err)
			return
		}
		fn(v)
	})
}

// ReplayHistory is Server.History with the data decoded from JSON. The first
// publication that does not decode is the error.
func ReplayHistory[T any](ctx context.Context, s *Server, topic string, limit int) ([]T, error) {
	messages, err := s.History(ctx, topic, limit)
	if err != nil {
		return nil, err
	}
	values := make([]T, len(messages))
	for i, m := range messages {
		if err := decodeData(m, &values[i]); err != nil {
			return nil, fmt.Errorf("live: history of %q: %w", topic, err)
		}
	}
	return values, nil
}

// decodeData decodes a message's data; without data v stays as it is.
func decodeData(m Message, v any) error {
	if len(m.Data) == 0 {
		return nil
	}
	return json.Unmarshal(m.Data, v)
}
