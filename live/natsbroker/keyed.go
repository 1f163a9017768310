package natsbroker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// A keyed topic has a subject for each key, and its stream keeps one message of each subject. When a
// key is removed, a message without data takes the place of its value: a marker, as NATS itself puts
// one there when the age of a value ends it. A marker goes after removalTTL. Who knows the topic up
// to a sequence that the stream had reached less long ago than that can be told of all removals since.

const (
	// removalTTL is how long a removal is kept, for servers and clients that come back. The memory
	// that it takes, some hundred bytes each, is what bounds it.
	removalTTL = time.Hour

	// removalSlack is how much earlier a removal counts as gone, since the stream's leader counts
	// the time, and a leader's clock may be a little ahead.
	removalSlack = 5 * time.Minute

	// endsEvery is how often the end of a keyed stream is noted.
	endsEvery = time.Minute
)

// ends are the ends that a stream had in the last hour, as this process has seen them.
type ends struct {
	epoch string
	seen  []seenEnd // oldest first
}

type seenEnd struct {
	sequence uint64
	at       int64 // on the clock of package clock
}

// note notes the end of the stream.
func (e *ends) note(epoch string, sequence uint64) {
	now := clock.Now()
	if e.epoch != epoch {
		*e = ends{epoch: epoch}
	}
	for len(e.seen) > 0 && now-e.seen[0].at > int64(removalTTL-removalSlack) {
		e.seen = e.seen[1:]
	}
	if n := len(e.seen); n == 0 || now-e.seen[n-1].at > int64(endsEvery) {
		e.seen = append(slices.Clone(e.seen), seenEnd{sequence, now})
	}
}

// isRecent reports whether the stream had reached a sequence less long ago than a removal is kept.
func (e *ends) isRecent(sequence uint64) bool {
	for _, end := range e.seen {
		if clock.Now()-end.at <= int64(removalTTL-removalSlack) {
			return end.sequence <= sequence
		}
	}
	return false
}

// hasRemovals reports whether the stream has all removals after a sequence.
func (st *stream) hasRemovals(sequence uint64) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.ends.isRecent(sequence)
}

// isRemoval reports whether a message says that its key has no value any more.
func isRemoval(h nats.Header) bool { return last(h, headerMarker) != "" }

// isRemoval is the same for a message that the leader has given.
func (m *message) isRemoval() bool {
	h, err := nats.DecodeHeadersMsg(m.Headers)
	return err == nil && isRemoval(h)
}

// setKey sets what a publication of a keyed topic needs.
func (st *stream) setKey(m *nats.Msg, o *broker.PublishOptions) {
	switch {
	case !st.config.Keyed:
	case o.Remove:
		m.Header.Set(headerMarker, "Remove")
		m.Header.Set(jetstream.MsgTTLHeader, removalTTL.String())
	case o.HistoryAge > 0:
		m.Header.Set(jetstream.MsgTTLHeader, max(o.HistoryAge, time.Second).String()) // NATS counts in seconds
	}
}

// keyCounts remembers which keys exist, so that a publication seldom has to ask.
type keyCounts struct {
	mu    sync.Mutex
	known map[string]int64 // from a subject that has a value to when it must be asked for again, on the clock of package clock
}

const (
	// maxKnownKeys bounds the keys that are remembered. A subject takes about a hundred bytes.
	maxKnownKeys = 100_000

	// keyKnown is how long a key counts as known. Another instance may remove it meanwhile, and this
	// instance learns that only if it has a subscriber of the topic. The question is a small one, and
	// with ten seconds it is one of a hundred requests for a key that changes ten times a second.
	keyKnown = 10 * time.Second
)

func (k *keyCounts) has(subject string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return clock.Now() < k.known[subject]
}

// set notes that a subject has a value, which ends with its age; 0: it stays.
func (k *keyCounts) set(subject string, age time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil || len(k.known) >= maxKnownKeys {
		k.known = make(map[string]int64)
	}
	if age <= 0 {
		age = keyKnown
	}
	k.known[subject] = clock.Now() + int64(min(age, keyKnown))
}

func (k *keyCounts) remove(subject string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.known, subject)
}

// prepareKey makes sure that a publication fits its stream: that of a keyed topic has a key, and the
// topic has not too many keys. Publications of new keys that are made at the same moment may exceed the
// bound by a few.
func (st *stream) prepareKey(ctx context.Context, topic, tokens string, o *broker.PublishOptions) error {
	if !st.config.Keyed {
		return nil
	}
	if o.Key == "" {
		return fmt.Errorf("natsbroker: a publication to the keyed topic %q has no key", topic)
	}
	subject := st.publishSubject(tokens, o.Key)
	if o.Remove || o.History <= 0 || st.known.has(subject) {
		return nil
	}
	if err := st.mayAddKey(ctx, tokens, subject, o.History); err != nil {
		return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	return nil
}

// noteKey notes what a publication has made of its key. err is that of the publication. After an error
// nobody knows whether it was stored.
func (st *stream) noteKey(tokens string, o *broker.PublishOptions, err error) {
	if !st.config.Keyed {
		return
	}
	subject := st.publishSubject(tokens, o.Key)
	if err != nil || o.Remove {
		st.known.remove(subject)
	} else if o.History > 0 {
		st.known.set(subject, o.HistoryAge)
	}
}

// noteRemoval notes that a key was removed, by any instance. tokens are those of its topic.
func (st *stream) noteRemoval(tokens, key string) {
	st.known.remove(st.publishSubject(tokens, key))
}

// mayAddKey returns why a topic may not have one key more; nil: it may, or has the key.
func (st *stream) mayAddKey(ctx context.Context, tokens, subject string, most int) error {
	ctx, cancel := context.WithTimeout(ctx, st.broker.opts.PublishTimeout)
	defer cancel()
	if _, err := st.stateSince(ctx, time.Time{}); err != nil { // makes the stream, if it is missing
		return err
	}
	if m, err := st.leaderGet(ctx, getRequest{LastFor: subject}); err != nil || m != nil && !m.isRemoval() {
		return err
	}
	there, err := insist(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		return st.broker.js.Stream(ctx, st.config.Name)
	})
	if err != nil {
		return err
	}
	info, err := insist(ctx, func(ctx context.Context) (*jetstream.StreamInfo, error) {
		return there.Info(ctx, jetstream.WithSubjectFilter(st.subject(tokens)))
	})
	if err != nil {
		return err
	}
	if len(info.State.Subjects) < most {
		return nil
	}
	// Removals are among these. So the values themselves are counted.
	values, err := st.values(ctx, "", tokens)
	if err != nil {
		return err
	}
	if len(values) >= most {
		return fmt.Errorf("%w: %d; see live.TopicOptions.History", broker.ErrTooManyKeys, most)
	}
	return nil
}

// values returns the newest value of each key of a topic, oldest first.
func (st *stream) values(ctx context.Context, topic, tokens string) ([]*broker.Publication, error) {
	page, err := st.readValues(ctx, topic, tokens)
	return page.Publications, err
}

// newestValues is the Tail of a keyed topic.
func (st *stream) newestValues(ctx context.Context, topic, tokens string, limit int) (broker.Page, error) {
	page, err := st.readValues(ctx, topic, tokens)
	page.Publications = page.Publications[max(len(page.Publications)-limit, 0):]
	return page, err
}

// readValues reads a whole keyed topic.
func (st *stream) readValues(ctx context.Context, topic, tokens string) (broker.Page, error) {
	newest, err := st.lastOf(ctx, tokens, nil)
	if err != nil {
		return broker.Page{}, err
	}
	all := broker.Page{Epoch: newest.epoch, Complete: true}
	for all.Upto < newest.offset {
		page, err := st.read(ctx, topic, tokens, all.Upto, newest.offset, pageMessages)
		if err != nil {
			return broker.Page{}, err
		}
		if page.Epoch != all.Epoch || page.Upto <= all.Upto {
			break // the copy that answered lags, or the history began anew
		}
		all.Publications, all.Upto = append(all.Publications, page.Publications...), page.Upto
	}
	all.Publications = newestOfEach(all.Publications)
	return all, nil
}

// newestOfEach returns the newest value of each key. The pages of a table may come from copies of which
// one lags, so a key may be in two of them, or be removed in the second.
func newestOfEach(all []*broker.Publication) []*broker.Publication {
	newest := make(map[string]*broker.Publication, len(all))
	for _, p := range all {
		newest[p.Key] = p
	}
	return slices.DeleteFunc(all, func(p *broker.Publication) bool { return p.Removed || newest[p.Key] != p })
}
