package natsbroker

import (
	"context"
	"fmt"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// Keeps implements broker.Recoverer.
func (b *Broker) Keeps(topic string) bool {
	_, st := b.streamOf(topic)
	return st != nil
}

func (b *Broker) streamOf(topic string) (tokens string, st *stream) {
	tokens, err := encode(topic)
	if err != nil {
		return "", nil
	}
	return tokens, b.streams.of(topic, tokens)
}

// stateAge is the greatest age of the state of a stream that Last uses. So each stream is asked
// once a second at most, however many topics are compared.
const stateAge = time.Second

// Last implements broker.Recoverer. The leader of the stream answers: a copy may lag, and a
// position that is too old would hide missing publications.
func (b *Broker) Last(ctx context.Context, topic string) (broker.Position, error) {
	if b.closed.Load() {
		return broker.Position{}, broker.ErrServerClosed
	}
	tokens, st := b.streamOf(topic)
	if st == nil {
		return broker.Position{}, nil
	}
	if err := st.foreign(); err != nil {
		return broker.Position{}, err
	}
	in := b.hub.find(st.deliverySubject(tokens))
	at, err := st.compareTopic(ctx, tokens, in)
	if gone(err) { // the stream may have been deleted
		if err = st.remake(ctx); err == nil {
			at, err = st.compareTopic(ctx, tokens, in)
		}
	}
	if err != nil {
		return broker.Position{}, fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	return broker.Position{Epoch: at.epoch, Offset: at.offset}, nil
}

// compareTopic returns the newest offset of a topic, and a sequence of the stream up to which
// nothing newer follows. If the topic is subscribed at this node, it notes this checkpoint.
func (st *stream) compareTopic(ctx context.Context, tokens string, in *interest) (checkpoint, error) {
	if in == nil {
		return st.lastOf(ctx, tokens, nil)
	}
	before := in.checkpoint.Load()
	known := in.newestOffset.Load() // read before the leader is asked
	if before != nil {
		known = max(known, before.offset)
	}
	isBack := func(at checkpoint) bool {
		return before != nil && before.epoch == at.epoch && at.offset < known
	}
	at, err := st.lastOf(ctx, tokens, before)
	if err == nil && isBack(at) {
		st.expireState() // the topic was purged, or this is another stream of the same name
		at, err = st.lastOf(ctx, tokens, nil)
	}
	if err != nil {
		return checkpoint{}, err
	}
	if !isBack(at) {
		in.loss.sawAll()
	} else if !in.loss.sawLess() {
		return checkpoint{}, fmt.Errorf("%w: it has less of the topic than before", broker.ErrUnavailable)
	}
	if before != nil && (before.epoch != at.epoch || isBack(at)) {
		in.newestOffset.Store(at.offset)
	}
	in.checkpoint.Store(&at)
	return at, nil
}

// lastOf returns the newest offset of a topic, and a sequence up to which the topic has nothing
// newer. before is the checkpoint so far; nil: there is none.
func (st *stream) lastOf(ctx context.Context, tokens string, before *checkpoint) (checkpoint, error) {
	// The state is asked for before the topic, so the answer for the topic covers all of the
	// state.
	state, err := st.stateSince(ctx, time.Now().Add(-stateAge))
	if err != nil {
		return checkpoint{}, err
	}
	ask := getRequest{LastFor: st.subject(tokens)}
	m, err := st.leaderGet(ctx, ask)
	if err != nil {
		return checkpoint{}, err
	}
	if m != nil {
		return st.sawCheckpoint(checkpoint{state.epoch, m.Sequence, max(state.last, m.Sequence)}), nil
	}
	// The stream keeps nothing of the topic, so the topic's position is the end of the stream.
	// The state must be new: the end in an older one may lie before publications that were
	// delivered.
	if state, err = st.stateSince(ctx, time.Now()); err != nil {
		return checkpoint{}, err
	}
	if m, err = st.leaderGet(ctx, ask); err != nil {
		return checkpoint{}, err
	}
	if m != nil {
		return st.sawCheckpoint(checkpoint{state.epoch, m.Sequence, max(state.last, m.Sequence)}), nil
	}
	at := checkpoint{state.epoch, state.last, state.last}
	if before != nil && before.epoch == state.epoch {
		// The offset can stay as it was, if the stream has dropped nothing after the
		// checkpoint.
		now, err := st.stateSince(ctx, time.Now())
		if err != nil {
			return checkpoint{}, err
		}
		if now.epoch == before.epoch && now.first <= before.sequence+1 {
			at.offset = before.offset
		}
	}
	return st.sawCheckpoint(at), nil
}

func (st *stream) sawCheckpoint(at checkpoint) checkpoint {
	st.saw(at.sequence, time.Time{})
	return at
}

// Read implements broker.Recoverer. Any copy of the stream may answer.
func (b *Broker) Read(ctx context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	if b.closed.Load() {
		return broker.Page{}, broker.ErrServerClosed
	}
	tokens, st := b.streamOf(topic)
	if st == nil {
		return broker.Page{}, nil
	}
	if err := st.foreign(); err != nil {
		return broker.Page{}, err
	}
	read := st.read
	if after+scanSpan < upto && !st.config.Keyed {
		read = st.cachedRead
	}
	page, err := read(ctx, topic, tokens, after, upto, limit)
	if err != nil {
		return broker.Page{}, fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	return page, nil
}

// cachedRead is read for positions that lie far back. It reads from the cache if it can. It
// does not search for publications that the stream has dropped.
func (st *stream) cachedRead(ctx context.Context, topic, tokens string, after, upto uint64, limit int) (broker.Page, error) {
	state, err := st.stateSince(ctx, time.Now().Add(-stateAge))
	if err != nil {
		return broker.Page{}, err
	}
	t, newest, err := st.takeCached(ctx, tokens)
	if err != nil {
		return broker.Page{}, err
	}
	defer st.broker.cache.leave(t)
	if t.isOf(state.epoch, newest) {
		if page, ok := t.page(after, upto, limit); ok {
			return page, nil
		}
	}
	page, dropped, err := st.oldestAfterGap(ctx, topic, tokens, state, after, upto)
	if err != nil || dropped {
		return page, err
	}
	page, err = st.read(ctx, topic, tokens, after, upto, limit)
	if err == nil && newest != nil && page.Complete && page.Upto > after {
		t.add(part{
			epoch: page.Epoch, readAt: clock.Now(), newestMessage: *newest,
			low: after, high: page.Upto, publications: page.Publications,
		})
	}
	return page, err
}

// oldestAfterGap returns a page with only the oldest publication of a topic, if publications
// between an offset and that one are known to be dropped, since the stream or the topic is
// full. dropped reports whether this is so. JetStream finds the oldest message without reading
// over others.
func (st *stream) oldestAfterGap(ctx context.Context, topic, tokens string, state streamState, after, upto uint64) (page broker.Page, dropped bool, err error) {
	got, err := st.batch(ctx, st.subject(tokens), max(state.first, 1), 1, pageBytes)
	if err != nil || len(got.messages) == 0 || st.allKept(tokens, state, after, got) {
		return broker.Page{}, false, err
	}
	oldest := got.messages[0]
	if oldest.Sequence <= after || oldest.Sequence > upto {
		return broker.Page{}, false, nil
	}
	page.Publications = appendPublication(nil, topic, oldest)
	if len(page.Publications) == 0 {
		return broker.Page{}, false, nil
	}
	// This state was asked for before the batch. Another instance may have changed the stream in
	// between, so a new state decides.
	if state, err = st.stateSince(ctx, time.Now()); err != nil || st.allKept(tokens, state, after, got) {
		return broker.Page{}, false, err
	}
	page.Epoch, page.Upto = state.epoch, oldest.Sequence
	setEpoch(&page)
	return page, true, nil
}

// read reads batches until it has a publication. Whole batches may hold nothing but messages
// that are not publications.
func (st *stream) read(ctx context.Context, topic, tokens string, after, upto uint64, limit int) (broker.Page, error) {
	complete := true
	for {
		page, err := st.readBatch(ctx, topic, tokens, after, upto, limit)
		if err != nil {
			return broker.Page{}, err
		}
		complete = complete && page.Complete
		page.Complete = complete
		if len(page.Publications) > 0 || page.Upto <= after || page.Upto >= upto {
			return page, nil
		}
		after = page.Upto
	}
}

// readBatch returns the publications after one offset and up to another that are in one batch.
func (st *stream) readBatch(ctx context.Context, topic, tokens string, after, upto uint64, limit int) (broker.Page, error) {
	subject := st.subject(tokens)
	got, err := st.batchAfter(ctx, subject, after, limit)
	if err != nil {
		return broker.Page{}, err
	}
	page := broker.Page{Upto: after}
	var exists, full bool
	for _, m := range got.messages {
		if m.Sequence == after {
			exists = true
			continue
		}
		if m.Sequence > upto {
			page.Upto = upto
			break
		}
		if len(page.Publications) == limit {
			full = true
			break
		}
		page.Upto = m.Sequence
		page.Publications = appendPublication(page.Publications, topic, m)
	}
	// If more is pending, the page ends with the batch. If nothing is pending, the copy has
	// nothing more, but it may lag.
	if !full && got.pending == 0 && page.Upto < upto {
		if page.Upto, err = st.reach(ctx, subject, page.Upto, upto); err != nil {
			return broker.Page{}, err
		}
	}
	// The state is asked for after the batch, so it shows what was dropped before the batch was
	// read.
	state, err := st.stateSince(ctx, time.Now())
	if err != nil {
		return broker.Page{}, err
	}
	page.Epoch = state.epoch
	if st.config.Keyed {
		page.Complete = st.hasRemovals(st.checkedUpto(tokens, state, after))
	} else {
		page.Complete = exists || st.allKept(tokens, state, after, got)
	}
	setEpoch(&page)
	return page, nil
}

// batchAfter reads the message at an offset, if it still exists, and limit messages after it.
// If it exists, nothing after it was dropped, since a stream drops its oldest messages first.
func (st *stream) batchAfter(ctx context.Context, subject string, after uint64, limit int) (batch, error) {
	from, count := max(after, 1), min(limit, pageMessages)+1
	got, err := st.batch(ctx, subject, from, count, pageBytes)
	if err != nil || got.pending == 0 || len(got.messages) != 1 || got.messages[0].Sequence != after {
		return got, err
	}
	// The message at the offset has filled the batch. It is read again, together with what
	// follows. A second batch from after+1 would not show what was dropped between the two
	// batches.
	return st.batch(ctx, subject, from, count, got.messages[0].size+pageBytes)
}

// reach returns how far a page covers the topic whose copy ended at an offset: up to upto, if
// the leader has no message in between, else to that offset.
func (st *stream) reach(ctx context.Context, subject string, end, upto uint64) (uint64, error) {
	next, err := st.leaderGet(ctx, getRequest{Sequence: end + 1, NextFor: subject})
	if err != nil {
		return 0, err
	}
	if next == nil || next.Sequence > upto {
		return upto, nil
	}
	return end, nil
}

// allKept reports whether all publications of a topic after an offset are kept, when there is
// no message at that offset. The state must be asked for after the batch: another instance may
// have set a lower limit than the one of our options, and the stream has dropped more.
func (st *stream) allKept(tokens string, state streamState, after uint64, got batch) bool {
	if state.first > st.checkedUpto(tokens, state, after)+1 {
		return false // one of the dropped messages may have been of this topic
	}
	// A topic below its limit has dropped nothing.
	return state.maxPerTopic <= 0 || got.total() < state.maxPerTopic
}

// checkedUpto returns a sequence up to which the stream is known to have nothing of a topic after an
// offset.
func (st *stream) checkedUpto(tokens string, state streamState, after uint64) uint64 {
	if in := st.broker.hub.find(st.deliverySubject(tokens)); in != nil {
		if at := in.checkpoint.Load(); at != nil && at.epoch == state.epoch && after >= at.offset {
			return max(after, at.sequence)
		}
	}
	return after
}
