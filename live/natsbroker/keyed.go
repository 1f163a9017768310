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
// key is removed, a message without data takes the place of its value. This message is a marker. NATS
// itself puts such a marker there when a value reaches its age. The stream keeps a marker for
// removalTTL. So a client can be told of all removals if it was away for less than that. This process
// notes from time to time which sequence the stream has reached. That shows whether a client's
// position is recent enough.

const (
	// removalTTL is how long a removal is kept, for servers and clients that come back. Each takes
	// some hundred bytes, so an hour's removals take little.
	removalTTL = time.Hour

	// removalSlack is how much earlier a removal counts as gone. The stream's leader counts the
	// time, and its clock may be a little ahead.
	removalSlack = 5 * time.Minute

	// endsEvery is how often the end of a keyed stream is noted. So at most 55 ends are held, and a
	// removal counts as gone up to a minute too early.
	endsEvery = time.Minute
)

// ends has the sequences that a stream had reached at moments of the last hour, as this process has
// seen them. stream.mu guards it.
type ends struct {
	epoch string
	seen  []seenEnd // oldest first
}

// seenEnd is the newest sequence of a stream at a moment.
type seenEnd struct {
	sequence uint64
	at       int64 // on the clock of package clock
}

// note notes the newest sequence of the stream now.
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

// isRecent reports whether the stream still has all removals after a sequence: an end that was noted
// within removalTTL was at that sequence or before it.
func (e *ends) isRecent(sequence uint64) bool {
	for _, end := range e.seen {
		if clock.Now()-end.at <= int64(removalTTL-removalSlack) {
			return end.sequence <= sequence
		}
	}
	return false
}

// hasRemovals reports whether the stream still has all removals after a sequence.
func (st *stream) hasRemovals(sequence uint64) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.ends.isRecent(sequence)
}

// isRemoval reports whether a message is a marker: its key has no value any more.
func isRemoval(h nats.Header) bool { return last(h, headerMarker) != "" }

// isRemoval is the same for a message that the stream's leader has returned.
func (m *message) isRemoval() bool {
	h, err := nats.DecodeHeadersMsg(m.Headers)
	return err == nil && isRemoval(h)
}

// setKey sets the headers that a publication of a keyed topic needs.
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

// knownKeys remembers which keys have a value, so that a publication seldom has to ask the stream.
type knownKeys struct {
	mu    sync.Mutex
	until map[string]int64 // from the subject of a key to when the stream must be asked again, on the clock of package clock
}

const (
	// maxKnownKeys bounds the keys that are remembered. A subject takes about a hundred bytes, so
	// all together take some 10 MB. When there are more, all are forgotten.
	maxKnownKeys = 100_000

	// keyKnown is how long a key counts as known. Another instance may remove the key meanwhile.
	// This instance learns that only if it has a subscriber of the topic. For a key that changes ten
	// times a second, ten seconds mean one question for a hundred publications.
	keyKnown = 10 * time.Second
)

// has reports whether the key of a subject is known to have a value.
func (k *knownKeys) has(subject string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return clock.Now() < k.until[subject]
}

// set notes that the key of a subject has a value, which ends after age; 0: it stays.
func (k *knownKeys) set(subject string, age time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.until == nil || len(k.until) >= maxKnownKeys {
		k.until = make(map[string]int64)
	}
	if age <= 0 {
		age = keyKnown
	}
	k.until[subject] = clock.Now() + int64(min(age, keyKnown))
}

func (k *knownKeys) remove(subject string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.until, subject)
}

// prepareKey checks a publication of a keyed topic. It must have a key, and the topic may not get too
// many keys. If several publications add keys at the same moment, the topic may get a few more than
// History allows. The error wraps ErrTooManyKeys, or is that of a question to NATS.
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

// noteKey notes whether a key has a value after a publication. err is the error of the publication.
// After an error nobody knows whether it was stored, so the key is unknown.
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

// noteRemoval notes that a key was removed, by any instance. tokens are the subject tokens of its
// topic.
func (st *stream) noteRemoval(tokens, key string) {
	st.known.remove(st.publishSubject(tokens, key))
}

// mayAddKey asks NATS whether a topic may get one key more. The error is nil if it may, or has the key
// already. It wraps ErrTooManyKeys if the topic has most keys, or says why NATS cannot be asked.
func (st *stream) mayAddKey(ctx context.Context, tokens, subject string, most int) error {
	ctx, cancel := context.WithTimeout(ctx, st.broker.opts.PublishTimeout)
	defer cancel()
	if _, err := st.stateSince(ctx, time.Time{}); err != nil { // makes the stream, if it is missing
		return err
	}
	if m, err := st.leaderGet(ctx, getRequest{LastFor: subject}); err != nil || m != nil && !m.isRemoval() {
		return err
	}
	handle, err := insist(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		return st.broker.js.Stream(ctx, st.config.Name)
	})
	if err != nil {
		return err
	}
	info, err := insist(ctx, func(ctx context.Context) (*jetstream.StreamInfo, error) {
		return handle.Info(ctx, jetstream.WithSubjectFilter(st.subject(tokens)))
	})
	if err != nil {
		return err
	}
	if len(info.State.Subjects) < most {
		return nil
	}
	// Some of these subjects may hold a removal. So the values are counted one by one.
	values, err := st.values(ctx, "", tokens)
	if err != nil {
		return err
	}
	if len(values) >= most {
		return fmt.Errorf("%w: %d; see live.TopicOptions.History", broker.ErrTooManyKeys, most)
	}
	return nil
}

// lagPause is the pause after which values asks again, if a copy of the stream lags. As a rule a copy is a
// few milliseconds behind.
const lagPause = 50 * time.Millisecond

// values returns the newest value of each key of a topic, oldest first. It waits for a copy of the stream
// that lags. If the copy still lags when ctx ends, the error wraps ErrUnavailable.
func (st *stream) values(ctx context.Context, topic, tokens string) ([]*broker.Publication, error) {
	for {
		page, newest, err := st.readValues(ctx, topic, tokens)
		if err != nil || page.Upto >= newest.offset {
			return page.Publications, err
		}
		if !sleep(ctx, lagPause) {
			return nil, fmt.Errorf("%w: the copy of the stream that answers lags behind its leader", broker.ErrUnavailable)
		}
	}
}

// newestValues is the Tail of a keyed topic. If the copy of the stream that answers lags, the page does not
// reach the topic's newest publication, and Upto says so.
func (st *stream) newestValues(ctx context.Context, topic, tokens string, limit int) (broker.Page, error) {
	page, _, err := st.readValues(ctx, topic, tokens)
	page.Publications = page.Publications[max(len(page.Publications)-limit, 0):]
	return page, err
}

// readValues reads the newest value of each key of a topic, in as many pages as are needed. newest is the
// topic's newest position, as the leader knows it. If the copy that answers lags, or if the history began
// anew, the page ends before newest.
func (st *stream) readValues(ctx context.Context, topic, tokens string) (all broker.Page, newest checkpoint, err error) {
	newest, err = st.lastOf(ctx, tokens, nil)
	if err != nil {
		return broker.Page{}, newest, err
	}
	all = broker.Page{Epoch: newest.epoch, Complete: true}
	for all.Upto < newest.offset {
		page, err := st.read(ctx, topic, tokens, all.Upto, newest.offset, pageMessages)
		if err != nil {
			return broker.Page{}, newest, err
		}
		if page.Epoch != all.Epoch || page.Upto <= all.Upto {
			break
		}
		all.Publications, all.Upto = append(all.Publications, page.Publications...), page.Upto
	}
	all.Publications = newestOfEach(all.Publications)
	return all, newest, nil
}

// newestOfEach returns the newest value of each key. Two pages of one table may come from two
// replicas, and one of them may lag. So a key may be in both pages, or be removed in the second.
func newestOfEach(all []*broker.Publication) []*broker.Publication {
	newest := make(map[string]*broker.Publication, len(all))
	for _, p := range all {
		newest[p.Key] = p
	}
	return slices.DeleteFunc(all, func(p *broker.Publication) bool { return p.Removed || newest[p.Key] != p })
}
