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
	broker *Broker
	plain  fallback // the stream of Options.Default
	keyed  fallback // the stream of Options.DefaultKeyed

	mu       sync.Mutex // held while list is replaced; guards memories
	list     atomic.Pointer[[]*stream]
	memories map[string]*memory // by the name of the stream
}

// fallback is the stream for topics that no other stream covers. It is made when a topic first needs
// it.
type fallback struct {
	*stream
	needed  atomic.Bool
	shrinks bool // the application has not set MaxBytes, so it may be lowered
}

func (t *streamTable) init(b *Broker) {
	t.broker = b
	t.plain.stream, t.plain.shrinks = newStream(b, b.opts.Default), b.opts.shrinkDefault
	t.keyed.stream, t.keyed.shrinks = newStream(b, b.opts.DefaultKeyed), b.opts.shrinkKeyed
	t.plain.head, t.keyed.head = headDefault, headKeyedDefault
	for _, f := range t.fallbacks() {
		f.subjects = []string{f.subject(">")}
	}
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

func (t *streamTable) fallbacks() []*fallback { return []*fallback{&t.plain, &t.keyed} }

// fallbackOf returns the fallback that a stream is; nil: it is none.
func (t *streamTable) fallbackOf(st *stream) *fallback {
	for _, f := range t.fallbacks() {
		if f.stream == st {
			return f
		}
	}
	return nil
}

// of returns the stream that covers a topic; nil: no stream does.
func (t *streamTable) of(topic, tokens string) *stream {
	rules := t.broker.rules
	keyed := rules != nil && rules.Keyed(topic)
	for _, st := range *t.list.Load() {
		if st.config.Keyed == keyed && st.covers(tokens) {
			return st
		}
	}
	if rules == nil {
		return nil
	}
	if size, _ := rules.History(topic); size <= 0 {
		return nil
	}
	f := &t.plain
	if keyed {
		f = &t.keyed
	}
	if !f.needed.Load() {
		f.needed.Store(true)
	}
	return f.stream
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

// every returns all streams, including the default streams.
func (t *streamTable) every() []*stream {
	return append(slices.Clone(*t.list.Load()), t.plain.stream, t.keyed.stream)
}

// required returns the streams that must exist. A default stream must exist after a topic has
// needed it.
func (t *streamTable) required() []*stream {
	all := slices.Clone(*t.list.Load())
	for _, f := range t.fallbacks() {
		if f.needed.Load() {
			all = append(all, f.stream)
		}
	}
	return all
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
		switch isDefault := t.fallbackOf(st) != nil; {
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
