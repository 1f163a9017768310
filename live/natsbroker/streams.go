package natsbroker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/livetopic/livetopic/live"
)

// streamTable knows which stream covers a topic.
type streamTable struct {
	broker        *Broker
	fallback      *stream     // Options.Default
	needsFallback atomic.Bool // a topic is kept in fallback

	mu   sync.Mutex // held while all is replaced
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

// of returns the stream that covers a topic; nil: none.
func (t *streamTable) of(topic, tokens string) *stream {
	for _, st := range *t.list.Load() {
		for _, pattern := range st.patterns {
			if matches(pattern, tokens) {
				return st
			}
		}
	}
	if rules := t.broker.rules; rules != nil && rules.TopicOptions(topic).History > 0 {
		if !t.needsFallback.Load() {
			t.needsFallback.Store(true)
		}
		return t.fallback
	}
	return nil
}

// every returns all streams, with the default one.
func (t *streamTable) every() []*stream { return append(slices.Clone(*t.list.Load()), t.fallback) }

// required returns the streams that must be there: the default one once a topic needs it.
func (t *streamTable) required() []*stream {
	if t.needsFallback.Load() {
		return t.every()
	}
	return *t.list.Load()
}

// set adds a stream, or replaces the one of its name.
func (t *streamTable) set(st *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(*t.list.Load()), func(other *stream) bool {
		return other.config.Name == st.config.Name
	})
	all = append(all, st)
	t.list.Store(&all)
}

// lookAgain asks for the streams that were there, but could not be reached when last asked
// for, and for the default one: nobody else may ask while an application waits to be ready.
func (t *streamTable) lookAgain(ctx context.Context) {
	for _, st := range t.required() {
		if why := st.makeErr.Load(); st == t.fallback && why == nil || (st == t.fallback || st.found.Load()) && *why != nil {
			st.remake(ctx)
		}
	}
}

// missing returns why not all streams are there, or not all take publications.
func (t *streamTable) missing() error {
	for _, st := range t.required() {
		switch why := st.makeErr.Load(); {
		case why == nil:
			return fmt.Errorf("natsbroker: stream %s: %w: not looked for yet", st.config.Name, live.ErrUnavailable)
		case *why != nil:
			return *why
		}
		if why := st.fullness.current(); why != nil {
			return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, why)
		}
	}
	return nil
}
