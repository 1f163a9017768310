package live

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// After an outage thousands of clients come back at once. If the feed does not have their positions,
// the broker must be asked. All clients of a topic that come while a question waits for its turn share
// the answer. What they have missed is then read once as well, see sharedParts.claim. A broker in this
// process answers at once. It is asked for each client, so its answers are always exact.

// answerLife is how long an answer is used for clients that come later. Ten thousand clients come back
// within some seconds, so they cost a handful of questions. A history drops little within a second. If
// it drops something that a client was promised, the client is told of a gap.
const answerLife = time.Second

// crowd has the questions that the clients of one topic share. It is guarded by topic.mu.
type crowd struct {
	end   *endQuestion   // the newest; nil: there is none
	since *sinceQuestion // the newest; nil: there is none

	deadEpoch string // the history has left this epoch for good
	deadUntil int64  // deadEpoch is used until then, on the clock of package clock
	extent    extent
}

// extent is what the answers have told about how far the history goes back. The offsets are those of
// the feed's epoch.
type extent struct {
	generation   int64  // the feed's
	until        int64  // the other fields are used until then, on the clock of package clock
	lostBefore   uint64 // something is missing after each smaller offset
	completeFrom uint64 // nothing is missing after this offset, nor after a greater offset
	isMixed      bool   // clients have joined one question with different positions

	page *sinceQuestion // the latest with a complete page of full size; nil: there is none, or it is older than answerLife
}

// question is a question that many sessions wait for. A session joins it only before it has begun. So
// the answer is newer than everything that the session's client has seen. The question waits for its
// turn as long as any session waits for the answer. So a session has all of its own time, also if it
// joins when the session that came first is about to give up.
type question struct {
	begun   bool               // the broker is being asked, or was, or need not be asked; guarded by topic.mu
	waiters int                // how many sessions wait for the answer; guarded by topic.mu
	early   []*Session         // the sessions that joined while pass was nil; guarded by topic.mu
	pass    *pass              // nil: not applied for yet; guarded by topic.mu
	life    context.Context    // ends when no session waits for the turn, or with topics.life
	end     context.CancelFunc // ends life
	done    chan struct{}      // closed when there is an answer, or err
	err     error              // why there is no answer; set before done is closed
}

func (ts *topics) newQuestion() question {
	q := question{done: make(chan struct{})}
	q.life, q.end = context.WithCancel(ts.life)
	return q
}

var errNobodyWaits = errors.New("live: no session waits for the answer any more")

// join makes a session that comes now wait for the question, whose turn is then that of the session
// whose turn comes first. If the question has begun, join returns false. topic.mu is held.
func (q *question) join(s *Session) bool {
	switch {
	case q.begun:
		return false
	case q.pass == nil:
		q.early = append(q.early, s)
	default:
		q.pass.hasten(s)
	}
	return true
}

// awaitAnswer waits until a question that the session has joined or begun is answered, or ctx ends,
// whose error it returns. The topic is locked before and after, and not meanwhile.
func (ts *topics) awaitAnswer(ctx context.Context, t *topic, q *question) error {
	q.waiters++
	err := ts.await(ctx, t, q.done)
	q.waiters--
	if q.waiters == 0 && q.pass != nil && !q.begun {
		q.begun = true // a session that comes now needs another question
		q.end()
	}
	return err
}

// askInOrder asks a question for a session when it is the session's turn. previous is the question before
// it; nil: none is under way. ask is called without a lock. Its error is the question's. At the end
// answered is called while topic.mu is held.
func (ts *topics) askInOrder(t *topic, q, previous *question, g *gate, s *Session, ask func(ctx context.Context) error, answered func()) {
	if previous != nil {
		<-previous.done
	}
	err := errBrokerPanicked // unless the broker returns
	defer func() {
		q.end()
		t.mu.Lock()
		defer t.mu.Unlock()
		q.begun, q.err = true, err
		answered()
		close(q.done)
	}()
	err = ts.askInTurn(t, q, g, s, ask)
}

func (ts *topics) askInTurn(t *topic, q *question, g *gate, s *Session, ask func(ctx context.Context) error) error {
	if !ts.inProcess {
		if !ts.applyFor(t, q, g, s) {
			return errNobodyWaits
		}
		if err := q.pass.await(q.life); err != nil {
			return err
		}
		defer q.pass.leave()
	}
	t.mu.Lock()
	q.begun = true
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ts.life, brokerTimeout)
	defer cancel()
	return ask(ctx)
}

// applyFor applies for the pass of a question, unless no session waits any more.
func (ts *topics) applyFor(t *topic, q *question, g *gate, s *Session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.waiters == 0 {
		q.begun = true
		return false
	}
	q.pass = g.apply(s)
	for _, other := range q.early {
		q.pass.hasten(other)
	}
	q.early = nil
	return true
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
		if q == nil || !q.join(o.session) {
			if !paid {
				paid = true
				ts.unlocked(t, func() { ts.payForQuestion(o.session, lookupUnits) })
				continue
			}
			q = ts.askForEnd(t, o.session)
		}
		if err := ts.awaitAnswer(ctx, t, &q.question); err != nil {
			return Position{}, err
		}
		return q.last, q.err
	}
}

// askForEnd begins a question for the newest position. topic.mu is held.
func (ts *topics) askForEnd(t *topic, s *Session) *endQuestion {
	q := &endQuestion{question: ts.newQuestion()}
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
	go ts.askInOrder(t, &q.question, previous, ts.lookups, s, ask, answered) // ends with the broker's answer, or brokerTimeout after its turn, or when no session waits for the turn
	return q
}

// isDead reports whether the history has left an epoch for good, as far as is known.
func (c *crowd) isDead(epoch string) bool { return c.deadEpoch == epoch && clock.Now() < c.deadUntil }

// maxDeadEpoch is the longest epoch that noteDead keeps, in bytes. A client chooses the text, and the topic
// holds it after the client has left. The epochs of brokers are shorter.
const maxDeadEpoch = 64

// noteDead notes that the history has left an epoch for good. It does not note longer epochs, so the
// broker is asked for each client that has one.
func (c *crowd) noteDead(epoch string) {
	if len(epoch) <= maxDeadEpoch {
		c.deadEpoch, c.deadUntil = strings.Clone(epoch), clock.Now()+int64(answerLife) // epoch is a piece of what the client has sent
	}
}

// current returns what is known about the feed's history.
func (c *crowd) current(f *feed) *extent {
	if e := &c.extent; e.generation != f.generation || clock.Now() >= e.until {
		*e = extent{generation: f.generation, until: clock.Now() + int64(answerLife), completeFrom: math.MaxUint64}
	}
	return &c.extent
}

// dropPage frees the page of a question.
func (c *crowd) dropPage(t *topic, q *sinceQuestion) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.extent.page == q {
		c.extent.page = nil
	}
}

// pageAfter returns the publications after a position, if they were read for other clients; nil: they
// were not.
func (e *extent) pageAfter(since Position) []*broker.Publication {
	if e.page == nil {
		return nil
	}
	publications, _ := e.page.pageAfter(since)
	return publications
}

// isLost reports whether something is missing after an offset, as far as is known.
func (e *extent) isLost(offset uint64) bool { return offset < e.lostBefore }

// isComplete reports whether nothing is missing after an offset, as far as is known.
func (e *extent) isComplete(offset uint64) bool { return offset >= e.completeFrom }

// learn notes the answer to a question for the publications after an offset.
func (e *extent) learn(after uint64, page broker.Page) {
	switch {
	case page.Upto < after: // the copy that answered lags
	case page.Complete:
		e.completeFrom = min(e.completeFrom, after)
	default:
		e.noteLost(after)
	}
}

// noteLost notes that something is missing after an offset.
func (e *extent) noteLost(offset uint64) { e.lostBefore = max(e.lostBefore, offset+1) }

// sinceQuestion asks whether the history has everything after some positions. It reads the publications
// after one of them. If nothing is missing after that position, nothing is missing after any greater
// one. If something is missing, it is missing after all smaller ones as well.
type sinceQuestion struct {
	question
	waiting []uint64 // the offsets of the sessions that have joined, sorted by choose; guarded by topic.mu

	// Set when the question begins:
	generation int64  // the feed's
	after      uint64 // the publications after this offset are read ...
	upto       uint64 // ... up to this one
	limit      int    // so many of them at most

	page broker.Page // the answer; set before done is closed
}

// choose chooses after. It is the smallest offset, because as a rule the history has everything. If
// the history is known to have lost something, it is the middle one of the offsets that are not known
// to be lost. Then the answer holds for half of them at least.
func (q *sinceQuestion) choose(known *extent) {
	slices.Sort(q.waiting)
	i := 0
	if known.lostBefore > 0 {
		i, _ = slices.BinarySearch(q.waiting, known.lostBefore)
		i = min((i+len(q.waiting))/2, len(q.waiting)-1)
	}
	q.after = q.waiting[i]
}

// chooseLimit chooses limit: a full page if clients have come with different positions, now or within
// answerLife. A full page serves the clients with greater positions too.
func (q *sinceQuestion) chooseLimit(known *extent) {
	known.isMixed = known.isMixed || q.waiting[0] != q.waiting[len(q.waiting)-1]
	q.limit = firstPage
	if known.isMixed {
		q.limit = maxPage
	}
}

// pageAfter returns the publications after a position, as far as the page goes. ok says that the page
// has the first of them. A short page is for one position only: clients with greater positions would get
// little from it, and each would have to read on by itself.
func (q *sinceQuestion) pageAfter(since Position) (publications []*broker.Publication, ok bool) {
	isFor := since.Offset == q.after || since.Offset > q.after && q.limit == maxPage
	if q.page.Epoch != since.Epoch || !q.page.Complete || !isFor {
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

// pageSince calls read for the publications after the client's position, and returns the answered
// question. They are read up to the feed's position. On a keyed topic they are read up to the newest
// removal that the table has forgotten. The topic is locked before and after, and not meanwhile. The
// error is the broker's, or that of ctx.
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
		if q == nil || !q.join(o.session) {
			if !paid {
				paid = true
				ts.unlocked(t, func() { ts.payForQuestion(o.session, questionUnits) })
				continue
			}
			q = ts.askSince(t, o.session, read)
		}
		q.waiting = append(q.waiting, o.since.Offset)
		if err := ts.awaitAnswer(ctx, t, &q.question); err != nil {
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
	q := &sinceQuestion{question: ts.newQuestion()}
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
		if feed.crowd.extent.page == q {
			time.AfterFunc(answerLife, func() { feed.crowd.dropPage(t, q) })
		}
	}
	go ts.askInOrder(t, &q.question, previous, ts.reads, s, ask, answered) // ends with the broker's answer, or brokerTimeout after its turn, or when no session waits for the turn
	return q
}

// begin decides what the broker is asked for. topic.mu is held.
func (q *sinceQuestion) begin(f *feed) {
	q.generation, q.upto = f.generation, f.at.Offset
	if f.keys != nil {
		q.upto = f.keys.forgottenUpto
	}
	known := f.crowd.current(f)
	q.choose(known)
	q.chooseLimit(known)
}

// end notes what the answer tells about the history. topic.mu is held.
func (q *sinceQuestion) end(f *feed, err error) {
	if err != nil || q.generation != f.generation || q.page.Epoch != f.at.Epoch {
		return
	}
	known := f.crowd.current(f)
	if !f.inProcess {
		known.learn(q.after, q.page)
	}
	switch {
	case f.keys != nil:
		q.learnRemovals(f, known)
	case q.page.Complete && q.limit == maxPage:
		known.page = q
	}
}

// learnRemovals adds the removals that were read to the table. The table may have no space for them, or
// may have forgotten newer removals meanwhile, because it is full. Clients that need those get all keys.
// Another question would not help them.
func (q *sinceQuestion) learnRemovals(f *feed, known *extent) {
	if !q.page.Complete || q.page.Upto < q.upto {
		return
	}
	if q.upto == f.keys.forgottenUpto {
		f.keys.learn(q.after, q.page.Publications)
	}
	if upto := f.keys.forgottenUpto; upto > q.after {
		known.noteLost(upto - 1)
	}
}
