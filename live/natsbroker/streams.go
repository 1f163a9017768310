package natsbroker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/livetopic/livetopic/live/broker"
)

// streamTable holds the streams, and tells which stream covers a topic.
type streamTable struct {
	broker        *Broker
	fallback      *stream     // the stream of Options.Default
	needsFallback atomic.Bool // a topic has needed fallback

	mu       sync.Mutex // held while list is replaced; guards memories
	list     atomic.Pointer[[]*stream]
	memories map[string]*memory // by the name of the stream
}

func (t *streamTable) init(b *Broker) {
	t.broker = b
	t.fallback = newStream(b, b.opts.Default)
	t.fallback.subjects = []string{b.defaultSubject(">")}
	t.fallback.subject = b.defaultSubject
	all := make([]*stream, len(b.opts.Streams))
	for i, c := range b.opts.Streams {
		all[i] = newStream(b, c)
	}
	t.list.Store(&all)
}

// memoryOf returns what is known of the stream of a name.
func (t *streamTable) memoryOf(name string) *memory {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.memories == nil {
		t.memories = make(map[string]*memory)
	}
	m := t.memories[name]
	if m == nil {
		m = newMemory()
		t.memories[name] = m
	}
	return m
}

// of returns the stream that covers a topic; nil: no stream does.
func (t *streamTable) of(topic, tokens string) *stream {
	for _, st := range *t.list.Load() {
		if st.covers(tokens) {
			return st
		}
	}
	if t.broker.rules == nil {
		return nil
	}
	if size, _ := t.broker.rules.History(topic); size <= 0 {
		return nil
	}
	if !t.needsFallback.Load() {
		t.needsFallback.Store(true)
	}
	return t.fallback
}

// covers reports whether one of the stream's patterns covers the tokens of a topic.
func (st *stream) covers(tokens string) bool {
	for _, pattern := range st.patterns {
		if matches(pattern, tokens) {
			return true
		}
	}
	return false
}

// every returns all streams, including the default stream.
func (t *streamTable) every() []*stream { return append(slices.Clone(*t.list.Load()), t.fallback) }

// required returns the streams that must exist. The default stream must exist after a topic has
// needed it.
func (t *streamTable) required() []*stream {
	if t.needsFallback.Load() {
		return t.every()
	}
	return *t.list.Load()
}

// set adds a stream, or replaces the stream of the same name.
func (t *streamTable) set(st *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(*t.list.Load()), func(other *stream) bool {
		return other.config.Name == st.config.Name
	})
	all = append(all, st)
	t.list.Store(&all)
}

// has reports whether a stream is in use. It is not after EnsureStream has replaced it.
func (t *streamTable) has(st *stream) bool { return slices.Contains(t.every(), st) }

// lookAgain asks again for the default stream, and for each stream that existed before but
// failed the last time. While an application waits in Ready, nothing else may ask for them.
func (t *streamTable) lookAgain(ctx context.Context) {
	for _, st := range t.required() {
		why := st.makeErr.Load()
		switch isDefault := st == t.fallback; {
		case why == nil && isDefault, why != nil && *why != nil && (isDefault || st.found.Load()):
			st.remake(ctx)
		}
	}
}

// missing returns why a stream does not exist or does not take publications; nil: all streams
// do.
func (t *streamTable) missing() error {
	for _, st := range t.required() {
		switch why := st.makeErr.Load(); {
		case why == nil:
			return fmt.Errorf("natsbroker: stream %s: %w: it was not asked for yet", st.config.Name, broker.ErrUnavailable)
		case *why != nil:
			return *why
		}
		if why := st.fullness.current(); why != nil {
			return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, why)
		}
	}
	return nil
}
