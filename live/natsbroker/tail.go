package natsbroker

import (
	"context"
	"fmt"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// Tail implements broker.Recoverer.
func (b *Broker) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	if b.closed.Load() {
		return broker.Page{}, broker.ErrServerClosed
	}
	tokens, st := b.streamOf(topic)
	if st == nil || limit <= 0 {
		return broker.Page{}, nil
	}
	if err := st.foreign(); err != nil {
		return broker.Page{}, err
	}
	tail := st.cachedTail
	if st.config.Keyed {
		tail = st.newestValues
	}
	page, err := tail(ctx, topic, tokens, limit)
	if err != nil {
		return broker.Page{}, fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	return page, nil
}

// cachedTail returns the newest limit messages of a topic, from the cache if they are there. A
// tail that is read without a scan is not cached.
func (st *stream) cachedTail(ctx context.Context, topic, tokens string, limit int) (broker.Page, error) {
	state, err := st.stateSince(ctx, time.Now().Add(-stateAge))
	if err != nil {
		return broker.Page{}, err
	}
	if state.first+scanSpan >= st.newestSeen().sequence {
		tail, err := st.tail(ctx, topic, tokens, limit)
		return tail.Page, err
	}
	t, newest, err := st.takeCached(ctx, tokens)
	if err != nil {
		return broker.Page{}, err
	}
	defer st.broker.cache.leave(t)
	if t.isOf(state.epoch, newest) {
		if page, ok := t.tail(limit, st.oldestKept(topic, state)); ok {
			return page, nil
		}
	}
	tail, err := st.tail(ctx, topic, tokens, limit)
	if err != nil {
		return broker.Page{}, err
	}
	if all := tail.Publications; newest != nil && tail.onlyPublications && len(all) > 0 && all[0].Offset+scanSpan < newest.Sequence {
		t.add(part{
			epoch: tail.Epoch, readAt: clock.Now(), newestMessage: *newest,
			low: all[0].Offset - 1, high: tail.Upto, fromOldest: tail.fromOldest, publications: all,
		})
	}
	return tail.Page, nil
}

// newestOf asks the leader of the stream for the newest message of a topic; nil: the topic has
// none.
func (st *stream) newestOf(ctx context.Context, tokens string) (*message, error) {
	return st.leaderGet(ctx, getRequest{LastFor: st.subject(tokens)})
}

// tailPage is a page of the newest publications.
type tailPage struct {
	broker.Page
	fromOldest       bool // the topic has no messages before the page
	onlyPublications bool // every message is a publication
}

// tail reads the newest limit messages of a topic. If they are large, the page has only the
// oldest of them.
func (st *stream) tail(ctx context.Context, topic, tokens string, limit int) (tailPage, error) {
	newest, err := st.lastOf(ctx, tokens, nil)
	if err != nil {
		return tailPage{}, err
	}
	subject := st.subject(tokens)
	start, err := st.startOfTail(ctx, subject, newest, int64(limit))
	if err != nil {
		return tailPage{}, err
	}
	state, err := st.stateSince(ctx, time.Now().Add(-stateAge))
	if err != nil {
		return tailPage{}, err
	}
	page, ended, err := st.readTail(ctx, topic, subject, start.from, int64(limit), st.oldestKept(topic, state))
	if err != nil {
		return tailPage{}, err
	}
	page.fromOldest = start.fromOldest
	if !ended {
		page.Upto = page.Publications[len(page.Publications)-1].Offset
	}
	if ended && page.Upto < newest.offset {
		if page.Upto, err = st.reach(ctx, subject, page.Upto, newest.offset); err != nil {
			return tailPage{}, err
		}
	}
	lags := ended && page.Upto < newest.offset || !ended && !start.hasNewest
	if lags && (!ended || bytesOf(page.Publications) >= cutBytes) {
		// The copy lags, so the page starts too early. It is so large that the caller would
		// take it for the first part of the right page. An empty page that ends before it says
		// that the copy lags.
		page.Page = broker.Page{Upto: start.from - 1}
	}
	page.Epoch, page.Complete = newest.epoch, true
	setEpoch(&page.Page)
	return page, nil
}

// oldestKept returns the earliest time of publications that a newcomer gets, by the HistoryAge
// of the topic; zero: it gets publications of any age. The time is on the clock of the stream's
// leader, which stamps the publications. The clock of this node may differ.
func (st *stream) oldestKept(topic string, state streamState) time.Time {
	rules := st.broker.rules
	if rules == nil || state.leaderTime.IsZero() {
		return time.Time{}
	}
	_, age := rules.History(topic)
	if age <= 0 {
		return time.Time{}
	}
	return state.leaderTime.Add(time.Since(state.heardAt) - age)
}

// readTail reads the newest limit messages of a topic. They lie at or after the sequence from.
// Messages at the start that were stored before oldest are left out. The page ends with the
// topic, or with the batch that brings it to cutBytes or more. ended reports that it ends with
// the topic.
func (st *stream) readTail(ctx context.Context, topic, subject string, from uint64, limit int64, oldest time.Time) (page tailPage, ended bool, err error) {
	page.onlyPublications = true
	// This has space for the spare messages, and for messages that are published meanwhile.
	count := 2*int(min(limit, pageMessages)) + 8
	space := pageBytes
	for {
		got, err := st.batch(ctx, subject, from, count, space)
		if err != nil {
			return tailPage{}, false, err
		}
		messages := got.messages
		switch {
		case len(page.Publications) == 0:
			messages = messages[min(max(got.total()-limit, 0), int64(len(messages))):]
		case len(messages) > 0 && messages[0].Sequence == page.Upto:
			messages = messages[1:] // the page has this one already
		default:
			page.Publications = nil // the stream has dropped messages in between, so the page starts again
		}
		for _, m := range messages {
			page.Upto = m.Sequence
			if n := len(page.Publications); n > 0 || !m.Time.Before(oldest) {
				page.Publications = appendPublication(page.Publications, topic, m)
				page.onlyPublications = page.onlyPublications && len(page.Publications) > n
			}
		}
		if got.pending == 0 || bytesOf(page.Publications) >= cutBytes {
			page.Publications = page.Publications[max(len(page.Publications)-int(limit), 0):]
			return page, got.pending == 0, nil
		}
		last := got.messages[len(got.messages)-1]
		if from = last.Sequence + 1; len(page.Publications) > 0 {
			// The next batch repeats the last message. So it shows that nothing was dropped in
			// between.
			from, space = last.Sequence, pageBytes+last.size
		}
	}
}

// cutBytes is the least size in bytes of a tail that ends early because it is large, as
// broker.Recoverer demands. It is half of pageBytes, since long subjects and headers leave less
// space for data in a batch. The tail of a copy that lags is smaller, so a server can tell the
// two apart by size.
const cutBytes = pageBytes / 2

func bytesOf(publications []*broker.Publication) (bytes int) {
	for _, p := range publications {
		bytes += len(p.Data)
	}
	return bytes
}

// place is a sequence of a stream, and the number of a topic's messages from there on.
type place struct {
	sequence uint64
	count    int64
	size     int // size of a message near it, in bytes
}

// tailStart is the place where a tail begins.
type tailStart struct {
	from       uint64 // a sequence
	fromOldest bool   // the topic has no messages before it

	// hasNewest says that the copy had the newest message of the topic when it counted. A NATS
	// server with a copy of the stream answers from that copy. If it has none, other servers
	// answer in turn. Then a copy that lags can make the tail longer than limit, by the
	// messages that it lacks.
	hasNewest bool
}

// startOfTail returns a sequence from which a topic has limit messages, or a few more that
// readTail skips. JetStream reads only forwards, but its answers count the messages that
// follow.
func (st *stream) startOfTail(ctx context.Context, subject string, newest checkpoint, limit int64) (tailStart, error) {
	end, err := st.batch(ctx, subject, max(newest.offset, 1), 1, pageBytes)
	if err != nil {
		return tailStart{}, err
	}
	high := place{sequence: newest.sequence + 1}
	current := len(end.messages) > 0
	if current {
		high = place{sequence: newest.offset, count: end.total()}
	}
	if high.count >= limit {
		return tailStart{high.sequence, false, current}, nil
	}
	state, err := st.stateSince(ctx, time.Now().Add(-stateAge))
	if err != nil {
		return tailStart{}, err
	}
	first := max(state.first, 1)
	oldest, err := st.batch(ctx, subject, first, 1, pageBytes)
	if err != nil || oldest.total() <= limit {
		return tailStart{first, true, current}, err
	}
	low := oldest.start(limit)
	for probes := 0; !low.near(limit) && low.sequence+1 < high.sequence; probes++ {
		guess := guessBetween(low, high, limit, probes)
		probe, err := st.batch(ctx, subject, guess, 1, pageBytes)
		if err != nil {
			return tailStart{}, err
		}
		if n := probe.total(); n < limit {
			high = place{sequence: guess, count: n}
		} else {
			low = probe.start(limit)
		}
	}
	return tailStart{low.sequence, false, current}, nil
}

// start returns the last place that is known from a batch of one message and has at least limit
// messages: the message itself, or the sequence after it.
func (b batch) start(limit int64) place {
	m := b.messages[0]
	at := place{m.Sequence, b.total(), m.size}
	if at.count > limit {
		at.sequence, at.count = at.sequence+1, at.count-1
	}
	return at
}

// near reports whether the tail may be read from this place. To read over a small message costs
// about as much as another guess. The skipped messages must leave most of the batch to the
// tail.
func (p place) near(limit int64) bool {
	excess := p.count - limit
	return excess <= spare(limit) && excess*int64(p.size) <= pageBytes/4
}

// spare is the number of extra messages that may be read before the start of a tail.
func spare(limit int64) int64 { return 4 + limit/8 }

// guesses is how many times the search for the start of a tail assumes that the topic is spread
// evenly over the stream. If few topics are busy, one guess suffices. After four guesses the
// search halves what is left each time.
const guesses = 4

// guessBetween returns a sequence between two places. low has more than limit messages, and
// high has fewer.
func guessBetween(low, high place, limit int64, probes int) uint64 {
	share := 0.5
	if probes < guesses {
		// The guess aims at the middle of the accepted range, since a place with fewer than
		// limit messages cannot be used.
		aim := limit + min(low.count-limit, spare(limit))/2
		share = float64(low.count-aim) / float64(low.count-high.count)
	}
	guess := low.sequence + uint64(share*float64(high.sequence-low.sequence))
	return min(max(guess, low.sequence+1), high.sequence-1)
}
