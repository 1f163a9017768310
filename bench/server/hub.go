package server

import (
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/livetopic/livetopic/bench/wire"
)

// hub is the index from topics to connections that a program on a bare WebSocket
// library writes by hand.
type hub[C comparable] struct {
	options Options

	mu     sync.RWMutex
	topics map[string]map[C]struct{}
	joined map[C][]string
	count  atomic.Int64
}

func newHub[C comparable](o Options) *hub[C] {
	return &hub[C]{options: o, topics: map[string]map[C]struct{}{}, joined: map[C][]string{}}
}

// welcome is called for every new connection, before it is read.
func (h *hub[C]) welcome(c C, send func(message []byte)) {
	if h.options.Topic == "" {
		return
	}
	h.subscribe(c, h.options.Topic)
	if h.options.Greeting == nil {
		return
	}
	if message, err := envelope(h.options.Topic, h.options.Greeting); err == nil {
		send(message)
	}
}

func (h *hub[C]) subscribe(c C, topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	members := h.topics[topic]
	if members == nil {
		members = map[C]struct{}{}
		h.topics[topic] = members
	}
	members[c] = struct{}{}
	h.joined[c] = append(h.joined[c], topic)
	h.count.Add(1)
}

func (h *hub[C]) leave(c C) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, topic := range h.joined[c] {
		delete(h.topics[topic], c)
		h.count.Add(-1)
	}
	delete(h.joined, c)
}

// each calls fn for every subscriber of the topic.
func (h *hub[C]) each(topic string, fn func(C)) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for c := range h.topics[topic] {
		fn(c)
	}
}

// Subscriptions implements Server.
func (h *hub[C]) Subscriptions() int { return int(h.count.Load()) }

// receive is what such a program does with a client's message: subscribe, or
// publish to the topic.
func receive(message []byte, subscribe func(topic string), publish func(topic string, data []byte) error) {
	var e wire.Envelope
	if json.Unmarshal(message, &e) != nil {
		return
	}
	if string(e.Data) == wire.SubscribeData {
		subscribe(e.Topic)
		return
	}
	publish(e.Topic, e.Data)
}

// envelope is one publication as a message, built once for all subscribers.
func envelope(topic string, data []byte) ([]byte, error) {
	return json.Marshal(wire.Envelope{Topic: topic, Data: data})
}
