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

	mu   sync.Mutex // held while list is replaced
	list atomic.Pointer[[]*stream]
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

// of returns the stream that covers a topic; nil: no stream does.
func (t *streamTable) of(topic, tokens string) *stream {
	for _, st := range *t.list.Load() {
		for _, pattern := range st.patterns {
			if matches(pattern, tokens) {
				return st
			}
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

// lookAgain asks again for the default stream, and for each stream that existed before but
// failed the last time. While an application waits in Ready, nothing else may ask for them.
func (t *streamTable) lookAgain(ctx context.Context) {
	for _, st := range t.required() {
		if why := st.makeErr.Load(); st == t.fallback && why == nil || (st == t.fallback || st.found.Load()) && *why != nil {
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
