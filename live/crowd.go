package live

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// After an outage thousands of clients come back at once. If the feed does not have their positions,
// the broker must be asked. This file asks once for all clients of a topic that come while a question
// waits for its turn. What they have missed is then read once as well, see sharedParts.claim. A broker in
// this process answers at once, and is asked for each client.

// answerLife is how long the answers are used for clients that come later. Ten thousand clients come
// back within some seconds, so they cost a handful of questions. A history drops little within a
// second. If it drops what a client was promised, the client is told of a gap.
const answerLife = time.Second

// crowd has the questions that the clients of one topic share. It is guarded by topic.mu.
type crowd struct {
	end   *endQuestion   // the newest; nil: there is none
	since *sinceQuestion // the newest; nil: there is none

	deadEpoch string // the history has left this epoch for good
	deadUntil int64  // deadEpoch is used until then, on the clock of package clock
	reach     reach
}

// reach says which positions the history still reaches back to, of the feed's epoch.
type reach struct {
	generation   int64  // the feed's
	until        int64  // the rest is used until then, on the clock of package clock
	lostBefore   uint64 // something is missing after each smaller offset
	completeFrom uint64 // nothing is missing after this offset, nor after a greater one

	page *sinceQuestion // the latest whose page is for different positions; nil after answerLife
}

// question is a question that many sessions wait for. A session that comes may join a question that
// has not begun. The answer then is newer than what the session's client has seen.
type question struct {
	begun bool          // guarded by topic.mu
	pass  *pass         // nil: not applied for yet; guarded by topic.mu
	done  chan struct{} // closed when there is an answer, or err
	err   error
}

// canJoin reports whether a session that comes now may join the question. topic.mu is held.
func (q *question) canJoin(s *Session) bool {
	if q.begun {
		return false
	}
	if q.pass != nil {
		q.pass.hasten(s)
	}
	return true
}

// put asks a question for a session when it is the session's turn. previous is the question before
// it; nil: none is under way. ask is called without a lock. Its error is the question's. At the end
// answered is called while topic.mu is held.
func (ts *topics) put(t *topic, q, previous *question, g *gate, s *Session, ask func(ctx context.Context) error, answered func()) {
	if previous != nil {
		<-previous.done
	}
	err := errBrokerPanicked // unless the broker returns
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		q.begun, q.err = true, err
		answered()
		close(q.done)
	}()
	err = ts.putInTurn(t, q, g, s, ask)
}

func (ts *topics) putInTurn(t *topic, q *question, g *gate, s *Session, ask func(ctx context.Context) error) error {
	t.mu.Lock()
	q.pass = g.apply(s)
	t.mu.Unlock()
	waiting, cancel := context.WithTimeout(ts.life, brokerTimeout)
	defer cancel()
	if err := q.pass.await(waiting); err != nil {
		return err
	}
	defer q.pass.leave()
	t.mu.Lock()
	q.begun = true
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ts.life, brokerTimeout)
	defer cancel()
	return ask(ctx)
}

// endQuestion asks for the newest position of a topic.
type endQuestion struct {
	question
	last Position
}

// endOf returns the newest position of a topic, as the broker knows it after the call. The topic is
// locked before and after, and not meanwhile. The error is the broker's, or that of ctx.
func (ts *topics) endOf(ctx context.Context, t *topic, o subscribing) (last Position, err error) {
	if ts.inProcess {
		ts.unlocked(t, func() { last, err = ts.last(ctx, o.session, t.name) })
		return last, err
	}
	crowd, paid := &t.feed.crowd, !o.pays
	for {
		q := crowd.end
		if q == nil || !q.canJoin(o.session) {
			if !paid {
				paid = true
				ts.unlocked(t, func() { ts.payForQuestion(o.session, lookupUnits) })
				continue
			}
			q = ts.askForEnd(t, o.session)
		}
		if err := ts.await(ctx, t, q.done); err != nil {
			return Position{}, err
		}
		return q.last, q.err
	}
}

// askForEnd begins a question for the newest position. topic.mu is held.
func (ts *topics) askForEnd(t *topic, s *Session) *endQuestion {
	q := &endQuestion{question: question{done: make(chan struct{})}}
	var previous *question
	if before := t.feed.crowd.end; before != nil {
		previous = &before.question
	}
	t.feed.crowd.end = q
	ask := func(ctx context.Context) (err error) {
		q.last, err = ts.recover.Last(ctx, t.name)
		return err
	}
	answered := func() {
		if t.feed.crowd.end == q {
			t.feed.crowd.end = nil
		}
	}
	go ts.put(t, &q.question, previous, ts.lookups, s, ask, answered) // ends with the broker's answer, or twice brokerTimeout after the question before it
	return q
}

// isDead reports whether the history has left an epoch for good, as far as is known.
func (c *crowd) isDead(epoch string) bool { return c.deadEpoch == epoch && clock.Now() < c.deadUntil }

// noteDead notes that the history has left an epoch for good.
func (c *crowd) noteDead(epoch string) {
	c.deadEpoch, c.deadUntil = epoch, clock.Now()+int64(answerLife)
}

// current returns what is known about the feed's history.
func (c *crowd) current(f *feed) *reach {
	if r := &c.reach; r.generation != f.generation || clock.Now() >= r.until {
		*r = reach{generation: f.generation, until: clock.Now() + int64(answerLife), completeFrom: math.MaxUint64}
	}
	return &c.reach
}

// dropPage lets go of the page of a question.
func (c *crowd) dropPage(t *topic, q *sinceQuestion) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.reach.page == q {
		c.reach.page = nil
	}
}

// pageAfter returns what follows an offset, if it was read for others; nil: it was not.
func (r *reach) pageAfter(since Position) []*broker.Publication {
	if r.page == nil {
		return nil
	}
	publications, _ := r.page.pageAfter(since)
	return publications
}

func (r *reach) isLost(offset uint64) bool     { return offset < r.lostBefore }
func (r *reach) isComplete(offset uint64) bool { return offset >= r.completeFrom }

// learn notes the answer to a question for what follows an offset.
func (r *reach) learn(after uint64, page broker.Page) {
	switch {
	case page.Upto < after: // the copy that answered lags
	case page.Complete:
		r.completeFrom = min(r.completeFrom, after)
	default:
		r.noteLost(after)
	}
}

// noteLost notes that something is missing after an offset.
func (r *reach) noteLost(offset uint64) { r.lostBefore = max(r.lostBefore, offset+1) }

// sinceQuestion asks whether the history has everything after some positions. It reads what follows
// one of them. If that is complete, it is complete for all greater positions. If not, all smaller ones
// are lost as well.
type sinceQuestion struct {
	question
	waiting []uint64 // the offsets of the sessions that have joined; guarded by topic.mu

	// Set when the question begins:
	generation int64  // the feed's
	after      uint64 // what follows this offset is read ...
	upto       uint64 // ... up to this one

	page broker.Page
}

// choose chooses the offset that is asked for: the smallest, because as a rule the history has
// everything. If it has lost something, the middle one, because the answer holds for half of them.
func (q *sinceQuestion) choose(r *reach) {
	slices.Sort(q.waiting)
	i := 0
	if r.lostBefore > 0 {
		i, _ = slices.BinarySearch(q.waiting, r.lostBefore)
		i = min((i+len(q.waiting))/2, len(q.waiting)-1)
	}
	q.after = q.waiting[i]
}

// limit returns how many publications are read: a whole page if they are for different positions.
func (q *sinceQuestion) limit() int {
	if q.waiting[0] == q.waiting[len(q.waiting)-1] {
		return firstPage
	}
	return maxPage
}

// pageAfter returns what follows an offset, if the page has it.
func (q *sinceQuestion) pageAfter(since Position) (publications []*broker.Publication, ok bool) {
	if q.page.Epoch != since.Epoch || !q.page.Complete || since.Offset < q.after {
		return nil, false
	}
	publications = publicationsAfter(q.page.Publications, since.Offset)
	return publications, len(publications) > 0 || since.Offset == q.after && q.page.Upto > q.after
}

// publicationsAfter returns the publications after an offset.
func publicationsAfter(all []*broker.Publication, offset uint64) []*broker.Publication {
	i, found := slices.BinarySearchFunc(all, offset, func(p *broker.Publication, offset uint64) int {
		switch {
		case p.Offset < offset:
			return -1
		case p.Offset > offset:
			return 1
		}
		return 0
	})
	if found {
		i++
	}
	return all[i:]
}

// pageSince asks what follows the client's position: read reads it, up to the newest position or to the
// newest removal that the table of a keyed topic has forgotten. The topic is locked before and after, and
// not meanwhile. The error is the broker's, or that of ctx.
func (ts *topics) pageSince(ctx context.Context, t *topic, o subscribing, read readSince) (*sinceQuestion, error) {
	if ts.inProcess {
		q := &sinceQuestion{waiting: []uint64{o.since.Offset}}
		q.begin(t.feed)
		var err error
		ts.unlocked(t, func() { q.page, err = read(ctx, q) })
		q.end(t.feed, err)
		return q, err
	}
	crowd, paid := &t.feed.crowd, !o.pays
	for {
		q := crowd.since
		if q == nil || !q.canJoin(o.session) {
			if !paid {
				paid = true
				ts.unlocked(t, func() { ts.payForQuestion(o.session, questionUnits) })
				continue
			}
			q = ts.askSince(t, o.session, read)
		}
		q.waiting = append(q.waiting, o.since.Offset)
		if err := ts.await(ctx, t, q.done); err != nil {
			return nil, err
		}
		return q, q.err
	}
}

// readSince reads what a sinceQuestion asks for. The topic is not locked.
type readSince func(ctx context.Context, q *sinceQuestion) (broker.Page, error)

// askSince begins a question for the sessions that join it. topic.mu is held.
func (ts *topics) askSince(t *topic, s *Session, read readSince) *sinceQuestion {
	feed := t.feed
	q := &sinceQuestion{question: question{done: make(chan struct{})}}
	var previous *question
	if before := feed.crowd.since; before != nil {
		previous = &before.question
	}
	feed.crowd.since = q
	ask := func(ctx context.Context) (err error) {
		t.mu.Lock()
		q.begin(feed)
		t.mu.Unlock()
		q.page, err = read(ctx, q)
		return err
	}
	answered := func() {
		if feed.crowd.since == q {
			feed.crowd.since = nil
		}
		q.end(feed, q.err)
		if feed.crowd.reach.page == q {
			time.AfterFunc(answerLife, func() { feed.crowd.dropPage(t, q) })
		}
	}
	go ts.put(t, &q.question, previous, ts.reads, s, ask, answered) // ends with the broker's answer, or twice brokerTimeout after the question before it
	return q
}

// begin decides what is asked for. topic.mu is held.
func (q *sinceQuestion) begin(f *feed) {
	q.generation, q.upto = f.generation, f.at.Offset
	if f.keys != nil {
		q.upto = f.keys.forgottenUpto
	}
	q.choose(f.crowd.current(f))
}

// end notes what the answer tells about the history. topic.mu is held.
func (q *sinceQuestion) end(f *feed, err error) {
	if err != nil || q.generation != f.generation || q.page.Epoch != f.at.Epoch {
		return
	}
	known := f.crowd.current(f)
	known.learn(q.after, q.page)
	if f.keys == nil && q.limit() == maxPage {
		known.page = q
	}
	if f.keys != nil && q.page.Complete && q.page.Upto >= q.upto && q.upto == f.keys.forgottenUpto { // if not, the table has forgotten newer removals meanwhile
		f.keys.learn(q.after, q.page.Publications)
	}
}
