package live

import (
	"context"
	"fmt"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
)

// SubscribeOption changes what Subscribe does.
type SubscribeOption func(*subscribing)

// Since makes Subscribe first send everything that was published after a position, which the
// client has from a publication of this topic. If the history no longer has all of it, a
// live.v1 client is told of a gap, and with Last it then gets the newest publications. The zero
// Position is no position: the client has nothing yet.
func Since(p Position) SubscribeOption {
	return func(o *subscribing) { o.since, o.resume = p, p != Position{} }
}

// Last makes Subscribe first send the newest n publications, or all if there are fewer. 1,000 is
// the most. Between them and the publications that follow nothing is lost and nothing is sent
// twice.
func Last(n int) SubscribeOption {
	return func(o *subscribing) { o.last = min(n, maxNewest) }
}

// subscribing is one call of Subscribe.
type subscribing struct {
	session *Session
	since   Position
	resume  bool
	last    int
	pays    bool // a client asks, and what is read for it counts for its rate
	unseen  bool // the session is not made present
	hasInfo bool // it is made present with info
	info    []byte

	// nil: the application subscribes the session. There is no answer, only publications.
	reply      replyFunc
	stateReply stateReply // nil as well
}

// replyFunc makes the answer to a client's subscribe. With the answer the client has everything up
// to a position. recovered says that it then misses nothing. messages are the first of the
// publications that it missed, as appendMessages writes them; nil: there are none.
type replyFunc func(at Position, recovered bool, messages []byte) *frame.Frame

// beginning says where a subscription begins.
type beginning struct {
	at        Position              // the topic's newest; zero: the topic keeps no history
	from      Position              // what follows it is sent first
	recovered bool                  // that is all that the client misses
	newest    bool                  // from is not the client's own position: before it nothing is missed
	page      []*broker.Publication // what follows from, if it was read
	read      int                   // bytes that the broker read for it
	sweep     *sweep                // of a keyed topic, what is sent first; nil: nothing is
	state     bool                  // the topic's state is sent first; it says where the subscription begins
}

// subscribeNow handles the common case without asking the broker: the topic has subscribers
// already, and the client asks for no history. done is false in any other case.
func (ts *topics) subscribeNow(s *Session, name string, max int, o subscribing) (done bool, err error) {
	if o.resume || o.last > 0 {
		return false, nil
	}
	t := ts.find(name)
	if t == nil {
		return false, nil
	}
	t.mu.Lock()
	defer ts.unlock(t)
	if t.gone || !t.ready || s.isBehind(t) || t.opts.Keyed || t.wantsState(&o) {
		return false, nil
	}
	added, err := ts.attach(t, s, max, o, t.now())
	return added.full == nil && added.answering == nil, err
}

// subscribe adds the session to the topic. It returns the cursor that will answer the client. nil
// says that the answer was queued already.
func (ts *topics) subscribe(ctx context.Context, s *Session, name string, max int, o subscribing) (*cursor, error) {
	for {
		added, retry, err := ts.trySubscribe(ctx, s, name, max, o)
		if o.pays && added.read > 0 {
			s.pay(added.read, readUnit)
		}
		switch {
		case err != nil:
			return nil, err
		case retry:
		case added.full != nil:
			if err := s.await(added.full); err != nil {
				return nil, err
			}
		default:
			ts.countResume(added)
			if added.starts {
				s.startCatchUp()
			}
			return added.answering, nil
		}
	}
}

func (ts *topics) trySubscribe(ctx context.Context, s *Session, name string, max int, o subscribing) (added attached, retry bool, err error) {
	t, err := ts.lockReady(ctx, s, name)
	if err != nil {
		return attached{}, false, err
	}
	defer ts.unlock(t) // also if the broker panics
	if o.reply == nil {
		if known, err := s.subscriptionOf(name, max); known != nil || err != nil {
			return attached{}, false, err // subscribing twice is the same as once
		}
	}
	o.session = s
	begin, retry, err := ts.beginning(ctx, t, o)
	if err != nil || retry {
		return attached{read: begin.read}, retry, err
	}
	added, err = ts.attach(t, s, max, o, begin)
	added.read = begin.read
	added.resumed, added.recovered = o.resume, begin.recovered
	added.gap = o.reply != nil && !begin.state && !begin.recovered
	return added, false, err
}

// countResume counts a subscription from a position.
func (ts *topics) countResume(added attached) {
	switch {
	case !added.resumed:
	case added.recovered:
		ts.counters.recovered.Add(1)
	default:
		ts.counters.notRecovered.Add(1)
		if added.gap {
			ts.counters.gaps.Add(1)
		}
	}
}

// attached says what attach has done.
type attached struct {
	answering *cursor         // it will answer the client; nil: that is done
	starts    bool            // the caller must start the session's catching up
	full      <-chan struct{} // not nil: the queue had no space for the answer, and nothing was done; closed when there is space
	read      int             // see beginning

	resumed   bool // the subscription is from a position, and has begun
	recovered bool // since that position nothing is lost; only with resumed
	gap       bool // the answer tells the client that something is lost; only with resumed
}

// attach makes the session a subscriber. topic.mu is held. If the client has missed nothing,
// attach answers it, and the session gets publications as they come. Else the session catches
// up first.
func (ts *topics) attach(t *topic, s *Session, max int, o subscribing, begin beginning) (attached, error) {
	known, err := s.subscriptionOf(t.name, max)
	if err != nil {
		return attached{}, err
	}
	if known != nil && o.reply == nil { // another goroutine was faster
		return attached{}, nil
	}
	if known != nil && t.tag != nil {
		s.out.Settle(t.tag)
	}
	gap := o.resume && !begin.recovered && o.reply == nil && s.wire == wireV1
	missed := begin.from != begin.at || begin.sweep != nil
	if known != nil && known.cursor != nil && !begin.state && !t.opts.Keyed && !isBefore(begin.from, known.cursor.at) {
		// The cursor is already at or before the asked position, so it goes on, and the
		// reply goes out at its next part.
		c := known.cursor
		c.reply, c.recovered, c.listed, c.replied = o.reply, begin.recovered, false, make(chan struct{})
		c.elseState = t.elseState(&o)
		c.answered.Store(false)
		return attached{answering: c}, nil
	}
	if gap && !missed {
		if full, err := s.tryPut(gapFrame(t.name, begin.at.String())); err != nil {
			return attached{}, err
		} else if full == nil {
			gap = false
			ts.counters.gaps.Add(1)
		}
	}
	if !missed && !gap && !begin.state {
		if o.reply != nil {
			full, err := s.tryPut(o.reply(begin.at, begin.recovered, nil))
			if full != nil || err != nil {
				return attached{full: full}, err
			}
		}
		if known == nil {
			_, err = ts.join(t, s, &o)
		}
		return attached{}, err
	}
	sub := known
	if sub == nil {
		if sub, err = ts.join(t, s, &o); err != nil {
			return attached{}, err
		}
	}
	c := &cursor{
		at: begin.from, upto: begin.at.Offset, newest: begin.newest, recovered: begin.recovered,
		gap: gap, reply: o.reply, listed: true, page: begin.page,
	}
	if begin.sweep != nil {
		c.sweep = *begin.sweep
	}
	if c.elseState = t.elseState(&o); begin.state {
		c.stateReply = o.stateReply
	}
	added := attached{starts: ts.fallBehind(sub, c)}
	if c.reply != nil {
		c.replied = make(chan struct{})
		added.answering = c
	}
	return added, nil
}

// isBehind reports whether the session catches up on a topic. topic.mu is held.
func (s *Session) isBehind(t *topic) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subs.find(t.name)
	return sub != nil && sub.cursor != nil
}

// subscriptionOf returns the session's subscription to a topic; nil: it has none. The error says
// why the session may not have one.
func (s *Session) subscriptionOf(topic string, max int) (*subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subs.find(topic)
	switch {
	case s.closed:
		return nil, ErrSessionClosed
	case sub == nil && s.subs.len() >= max:
		return nil, fmt.Errorf("%w: %d", ErrTooManyTopics, max)
	}
	return sub, nil
}

// beginning finds out where a subscription begins. The topic is locked before and after, and may
// be unlocked meanwhile. retry says that the topic may have changed, so the caller must start
// over.
func (ts *topics) beginning(ctx context.Context, t *topic, o subscribing) (begin beginning, retry bool, err error) {
	if t.feed == nil {
		if t.opts.Keyed || t.wantsState(&o) {
			err = fmt.Errorf("%w: %q; a keyed topic and one with a Snapshot need it", ErrNoHistory, t.name)
		}
		return t.now(), false, err
	}
	if t.opts.Keyed {
		return ts.keyedBeginning(ctx, t, o)
	}
	if o.resume {
		begin, retry, err = ts.resume(ctx, t, o)
		if err != nil || retry || begin.recovered {
			return begin, retry, err
		}
	}
	if t.wantsState(&o) {
		return beginning{at: t.feed.at, from: t.feed.at, read: begin.read, state: true}, false, nil
	}
	if o.resume {
		if o.last <= 0 {
			return begin, false, nil
		}
		read := begin.read
		begin, retry, err = ts.newest(ctx, t, o)
		begin.read += read
		begin.followFrom(o.since)
		return begin, retry, err
	}
	if o.last > 0 {
		return ts.newest(ctx, t, o)
	}
	return t.now(), false, nil
}

// now returns the beginning of a subscription that has missed nothing. mu is held.
func (t *topic) now() beginning {
	if t.feed == nil {
		return beginning{}
	}
	return beginning{at: t.feed.at, from: t.feed.at, recovered: true}
}

// followFrom adapts the newest publications to a client that has everything up to a position. If
// they reach back to that position after all, the client gets only what follows it, and has missed
// nothing.
func (begin *beginning) followFrom(since Position) {
	begin.recovered = false
	switch {
	case isBetween(since, begin.from, begin.at):
		begin.from, begin.recovered, begin.newest = since, true, false
	case since.Epoch == begin.at.Epoch && since.Offset > begin.at.Offset:
		begin.from = begin.at // the client is ahead of this server, so it has everything that is here
	}
}

// resume finds out whether the publications after a position can be had.
func (ts *topics) resume(ctx context.Context, t *topic, o subscribing) (begin beginning, retry bool, err error) {
	feed, since := t.feed, o.since
	if since.Epoch != feed.at.Epoch || since.Offset > feed.at.Offset {
		// The client may have been at a server that is ahead of this one.
		if retry, err := ts.reach(ctx, t, o); err != nil || retry {
			return beginning{}, retry, err
		}
	}
	lost := beginning{at: feed.at, from: feed.at}
	switch {
	case since.Epoch != feed.at.Epoch || since.Offset > feed.at.Offset:
		return lost, false, nil
	case since.Offset >= feed.ringAfter:
		if i := feed.indexAfter(since.Offset); i < len(feed.ring) && feed.expired(i) {
			return lost, false, nil // it is too old, and the history has dropped it too
		}
		return beginning{at: feed.at, from: since, recovered: true}, false, nil
	}
	return ts.beginningSince(ctx, t, o)
}

// reach waits until the feed is as far as the broker's history. If the position is not in the feed
// then, no server has it.
func (ts *topics) reach(ctx context.Context, t *topic, o subscribing) (retry bool, err error) {
	since := o.since
	if since.Epoch != t.feed.at.Epoch && t.feed.crowd.isDead(since.Epoch) {
		return false, nil
	}
	last, err := ts.endOf(ctx, t, o)
	switch at := t.feed.at; {
	case err != nil:
		return false, fmt.Errorf("live: topic %q: %w", t.name, err)
	case last.Epoch == at.Epoch && last.Epoch != since.Epoch:
		t.feed.crowd.noteDead(since.Epoch)
		return false, nil // nobody has it
	case last.Epoch == at.Epoch && last.Offset < since.Offset:
		return false, nil // nobody has it
	case at.Epoch == since.Epoch && at.Offset >= since.Offset:
		return false, nil // it came meanwhile
	}
	ts.startRepair(t)
	ts.unlocked(t, func() { sleep(ctx, lagBackoff(0)) })
	return true, ctx.Err()
}

// unlocked runs f while the topic is unlocked. The topic stays in the index meanwhile.
func (ts *topics) unlocked(t *topic, f func()) {
	t.pins++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.pins--
	}()
	f()
}

// await waits until done is closed, or ctx ends, whose error it returns. The topic is locked before
// and after, and not meanwhile.
func (ts *topics) await(ctx context.Context, t *topic, done <-chan struct{}) (err error) {
	ts.unlocked(t, func() {
		select {
		case <-done:
		case <-ctx.Done():
			err = ctx.Err()
		}
	})
	return err
}

// beginningSince asks the broker's history for the publications after a position that is older than
// the feed. The first page tells whether they can be had. If that is known, the broker is asked only for a
// client whose publications are not in the page of others: see sinceQuestion.chooseLimit. Clients with one
// and the same position share what they read anyway: see sharedParts.
func (ts *topics) beginningSince(ctx context.Context, t *topic, o subscribing) (begin beginning, retry bool, err error) {
	feed, since := t.feed, o.since
	known := feed.crowd.current(feed)
	publications := known.pageAfter(since)
	switch isLost := known.isLost(since.Offset); {
	case isLost, known.isComplete(since.Offset) && len(publications) > 0, since.Offset == known.completeFrom:
		return feed.beginSince(since, publications, isLost), false, nil
	}
	q, err := ts.pageSince(ctx, t, o, func(ctx context.Context, q *sinceQuestion) (broker.Page, error) {
		return ts.recover.Read(ctx, t.name, q.after, q.upto, q.limit)
	})
	if err != nil {
		return beginning{}, false, fmt.Errorf("live: topic %q: %w", t.name, err)
	}
	if feed.at.Epoch != since.Epoch {
		return feed.beginSince(since, nil, true), false, nil
	}
	if q.generation != feed.generation {
		return beginning{}, true, ctx.Err() // the history has lost its end, or more
	}
	page, known := q.page, feed.crowd.current(feed)
	publications, ok := q.pageAfter(since)
	if !ok {
		publications = known.pageAfter(since)
	}
	isAnswer := page.Epoch == since.Epoch && page.Upto >= q.after // if not, a copy lags
	isLost := known.isLost(since.Offset) || isAnswer && since.Offset <= q.after && !page.Complete
	isForOthers := isAnswer && (since.Offset < q.after || !page.Complete) // the page of another question will serve this client
	switch {
	case ok, isLost, known.isComplete(since.Offset) && (len(publications) > 0 || !isForOthers):
		return feed.beginSince(since, publications, isLost), false, nil
	case page.Epoch != since.Epoch, len(page.Publications) == 0 && page.Upto < q.upto:
		ts.unlocked(t, func() { sleep(ctx, lagBackoff(1)) }) // the copy that answered lags
	}
	return beginning{}, true, ctx.Err() // the next question is for the positions that this one did not answer
}

// beginSince returns the beginning of a subscription after a client's position. page has the first
// publications after it, if they were read. If isLost, something is missing after it, so the
// subscription begins with the next publication.
func (f *feed) beginSince(since Position, page []*broker.Publication, isLost bool) beginning {
	if isLost {
		return beginning{at: f.at, from: f.at}
	}
	return beginning{at: f.at, from: since, recovered: true, page: page, read: bytesOf(page)}
}
