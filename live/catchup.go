package live

import (
	"context"
	"sync/atomic"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// A subscription to a topic with history is live, or it catches up. Live, it gets each
// publication as it comes. When it has missed some, because its client was away or takes
// too little, it has a cursor instead of a queue: the position up to which everything is
// on its way to the client. The session then reads on in the history at the client's
// pace, in parts of some tens of kilobytes, each made when there is space for it. Where
// the cursor meets the topic's newest position the subscription is live again.
//
// So what waits for a client is bounded, however much it has missed, and nothing is lost
// as far as the history reaches. If that is trimmed faster than the client reads, it is
// told of a gap.
//
// One goroutine of a session catches up for all its subscriptions in turn, and exists
// only while there are such.

const (
	// partBytes is how much a client is sent at a time: at 64 KB/s half a second, which
	// a ping or another topic may wait behind it.
	partBytes = 32 << 10

	// minPartBytes is for queues that are smaller than any message.
	minPartBytes = 512

	// maxUncut is the longest answer that goes out in one piece.
	maxUncut = 2 * partBytes

	// firstPage and maxPage bound how many publications the broker is asked for at a
	// time: few until it is known how large they are.
	firstPage = 64
	maxPage   = 1000

	// maxReads is how many cursors ask the broker at once; see maxRepairs.
	maxReads = 64
)

// cursor is how far a subscription that catches up has come. It is guarded by topic.mu;
// at, newest, page and failures are changed by the goroutine that catches up only.
type cursor struct {
	at     Position // everything up to here is on its way
	upto   uint64   // what comes up to here answers the client, and is marked as recovered
	newest bool     // what lies before the first publication is not missed
	gap    bool     // the client must be told of a gap first
	skip   bool     // the topic drops publications: go on with the newest

	reply     func(at Position, recovered bool, part []*Publication) *frame.Frame // nil: none is due
	recovered bool                                                                // for reply
	listed    bool                                                                // reply has what follows
	replied   chan struct{}                                                       // closed when reply is on its way, or not due any more
	answered  atomic.Bool                                                         // it is on its way

	page     []*Publication // what follows at, if it was read already
	limit    int            // how many publications to ask for; 0: firstPage
	failures int            // questions in a row that brought nothing
}

// behindSet is the subscriptions of a session that catch up. It is guarded by
// Session.mu.
type behindSet struct {
	queue   []*subscription
	running bool // a goroutine catches up
}

// fallBehind has a subscription go on from a cursor; topic.mu is held. It reports whether
// the caller must call startCatchUp, when topic.mu is free.
func (x *topics) fallBehind(sub *subscription, c *cursor) (start bool) {
	if sub.behind == nil {
		x.catchingUp.Add(1)
		sub.topic.countBehind(1)
	} else {
		sub.behind.finishReply()
	}
	sub.behind = c
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.behind.add(sub)
	if s.behind.running {
		return false
	}
	s.behind.running = true
	s.server.running.Add(1) // while its leaving counts
	return true
}

func (set *behindSet) add(sub *subscription) {
	if !sub.queued {
		sub.queued = true
		set.queue = append(set.queue, sub)
	}
}

// countBehind counts a subscription that falls behind, or does so no more; mu is held.
func (t *topic) countBehind(by int) {
	t.behind += by
	if t.feed != nil {
		t.feed.held = t.behind > 0
	} else if t.behind == 0 {
		t.newest = nil
	}
}

// finishReply ends the wait for the reply.
func (c *cursor) finishReply() {
	if c.reply != nil {
		c.reply = nil
		close(c.replied)
	}
}

// goLive ends a catching up; topic.mu is held.
func (x *topics) goLive(sub *subscription) {
	if sub.behind != nil {
		sub.behind.finishReply()
		sub.behind = nil
		x.catchingUp.Add(-1)
		sub.topic.countBehind(-1)
	}
}

// startCatchUp starts the goroutine for a subscription whose fallBehind asked for it. It sends
// the first part before it returns, if there is space and the broker need not be asked: what
// an application sends next then comes after it.
func (s *Session) startCatchUp() {
	if s.out.Roomy() != nil {
		go s.catchUp() // ends when no subscription is behind, or with the session
		return
	}
	sub := s.nextBehind()
	if sub == nil {
		s.server.running.Done()
		return
	}
	var p part
	var wait <-chan struct{}
	if sub.isAtHand() {
		p = s.server.topics.nextPart(s, sub)
		wait = s.deliver(sub, &p)
	}
	go func() { // ends like catchUp
		s.finishPart(sub, &p, wait)
		s.catchUp()
	}()
}

// isAtHand reports whether what the subscription has missed can be had without a question to
// the broker.
func (sub *subscription) isAtHand() bool {
	t := sub.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	c, fd := sub.behind, t.feed
	return c == nil || fd == nil || c.page != nil || c.at.Epoch != fd.at.Epoch || c.at.Offset >= fd.low
}

// catchUp sends part after part, for each subscription in turn.
func (s *Session) catchUp() {
	defer s.server.running.Done()
	for s.awaitRoom() == nil {
		sub := s.nextBehind()
		if sub == nil {
			return
		}
		p := s.server.topics.nextPart(s, sub)
		s.finishPart(sub, &p, s.deliver(sub, &p))
	}
}

// nextBehind takes the next subscription that is behind from the queue; nil: there is
// none, and the catching up ends.
func (s *Session) nextBehind() *subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := &s.behind
	if len(set.queue) == 0 || s.closed {
		*set = behindSet{}
		return nil
	}
	sub := set.queue[0]
	sub.queued = false
	set.queue[0] = nil
	set.queue = set.queue[1:]
	return sub
}

// requeue puts a subscription that is still behind at the end of the queue.
func (s *Session) requeue(sub *subscription) {
	sub.topic.mu.Lock()
	defer sub.topic.mu.Unlock()
	if sub.behind == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.behind.add(sub)
	}
}

// part is what a client is sent at a time.
type part struct {
	cursor *cursor      // nil: nothing can be sent now
	frame  *frame.Frame // nil: nothing but a step of the cursor
	at     Position     // where the cursor is then
	answer bool         // it was asked for
	reply  bool         // the frame is the reply
	last   bool         // the subscription is live after it
}

// deliver queues a part and moves the cursor past it. If the queue has no space it does
// nothing and returns a channel to wait for. The topic is locked, so that nothing of it is
// queued any more when it was left.
func (s *Session) deliver(sub *subscription, p *part) (wait <-chan struct{}) {
	sub.topic.mu.Lock()
	defer sub.topic.mu.Unlock()
	c := p.cursor
	if c == nil || sub.behind != c { // replaced, or left
		return nil
	}
	if p.last { // more may have come since it was made
		*p = s.server.topics.newestPart(s, sub)
	}
	if p.frame != nil {
		if wait, err := s.tryPut(p.frame); wait != nil || err != nil {
			return wait
		}
	}
	c.at, c.gap = p.at, false
	if p.reply {
		c.answered.Store(true)
		c.finishReply()
	}
	if p.last {
		s.server.topics.goLive(sub)
	}
	return nil
}

// finishPart does what takes time after deliver, or until it succeeds.
func (s *Session) finishPart(sub *subscription, p *part, wait <-chan struct{}) {
	for wait != nil {
		if s.await(wait) != nil {
			return
		}
		wait = s.deliver(sub, p)
	}
	if p.answer && p.frame != nil {
		s.payForAnswer(p.frame.Len())
	}
	s.requeue(sub)
}

// nextPart makes the next part of what a subscription has missed.
func (x *topics) nextPart(s *Session, sub *subscription) part {
	t := sub.topic
	t.mu.Lock()
	c := sub.behind
	if c == nil {
		t.mu.Unlock()
		return part{}
	}
	if t.feed == nil || c.skip {
		defer t.mu.Unlock()
		return x.newestPart(s, sub)
	}
	fd := t.feed
	m := missed{from: c.at, upto: c.at, gap: c.gap, reply: c.reply, recovered: c.recovered}
	if c.at.Epoch != fd.at.Epoch || c.at.Offset > fd.at.Offset {
		// The history began anew, or lost its end.
		m.lose(Position{fd.at.Epoch, fd.low}, true)
		c.page = nil
	}
	if m.upto == fd.at && !m.gap && m.reply == nil {
		x.goLive(sub)
		t.mu.Unlock()
		return part{}
	}
	if m.reply != nil && !c.listed {
		t.mu.Unlock()
		return part{cursor: c, at: m.upto, reply: true, frame: m.reply(m.upto, m.recovered && !m.gap, nil)}
	}
	if page := c.page; page != nil {
		c.page = nil
		m.add(page, page[len(page)-1].Offset)
	}
	t.mu.Unlock()
	if !x.collect(s.ctx, t, c, &m) {
		return part{}
	}
	return x.makePart(s, sub, c, m)
}

// missed is what a part is made of.
type missed struct {
	from         Position // what follows it,
	upto         Position // up to here
	publications []*Publication
	bytes        int
	gap          bool // something before from was lost
	reply        func(at Position, recovered bool, part []*Publication) *frame.Frame
	recovered    bool
}

func (m *missed) add(publications []*Publication, upto uint64) {
	m.publications = append(m.publications, publications...)
	for _, p := range publications {
		m.bytes += len(p.Data) + partOverhead
	}
	m.upto.Offset = max(m.upto.Offset, upto)
}

// lose says that nothing before a position is to be had. It is a gap unless the client does
// not miss it.
func (m *missed) lose(before Position, gap bool) {
	m.gap = m.gap || gap
	m.from, m.upto = before, before
}

// collect finds what follows m, enough for a part if there is as much. A reply holds as
// much as it can; other parts need not be full. It reports whether there is a part to be
// made; if not it has waited.
func (x *topics) collect(ctx context.Context, t *topic, c *cursor, m *missed) bool {
	for m.bytes < partBytes {
		t.mu.Lock()
		fd := t.feed
		at := fd.at
		if m.reply != nil { // what comes later is no part of the answer
			at.Offset = min(at.Offset, max(c.upto, m.from.Offset))
		}
		if at.Epoch != m.upto.Epoch || m.upto.Offset >= at.Offset {
			t.mu.Unlock()
			return true
		}
		if m.upto.Offset >= fd.low {
			m.add(fd.ring[fd.indexAfter(m.upto.Offset):fd.indexAfter(at.Offset)], at.Offset)
			t.mu.Unlock()
			return true
		}
		t.mu.Unlock()
		if m.reply == nil && len(m.publications) > 0 {
			return true
		}
		if !x.read(ctx, t, c, m, at) {
			return len(m.publications) > 0
		}
		if m.gap && m.reply == nil || ctx.Err() != nil {
			return true
		}
	}
	return true
}

// read reads what follows m, up to a position, from the broker's history. It reports
// whether m has come further; if not it has waited.
func (x *topics) read(ctx context.Context, t *topic, c *cursor, m *missed, upto Position) bool {
	page, err := x.readPage(ctx, t.name, m.upto.Offset, upto.Offset, max(c.limit, firstPage))
	reach := min(page.Upto, upto.Offset)
	switch {
	case err != nil:
		x.logger.Debug("live: history not to be had, trying again", "topic", t.name, "err", err)
		sleep(ctx, backoff(c.failures))
	case page.Epoch != m.upto.Epoch:
		x.checkFeed(t) // the history began anew, or a copy lags
		sleep(ctx, lagBackoff(c.failures))
	case len(page.Publications) == 0 && reach <= m.upto.Offset:
		sleep(ctx, lagBackoff(c.failures)) // the copy that answered lags
	default:
		c.failures = 0
		lost := !page.Complete
		if lost && len(m.publications) > 0 {
			return false // first what comes before the gap
		}
		if len(page.Publications) == 0 {
			if lost {
				m.lose(Position{upto.Epoch, x.oldestUpto(t, Position{upto.Epoch, reach})}, !c.newest)
			} else {
				m.upto.Offset = reach
			}
			return true
		}
		if lost {
			m.lose(Position{upto.Epoch, max(m.upto.Offset, page.Publications[0].Offset-1)}, !c.newest)
		}
		c.limit = nextLimit(page.Publications)
		m.add(page.Publications, reach)
		return true
	}
	c.failures++
	return false
}

// oldestUpto returns where a cursor goes on for which the broker's history has nothing up
// to a position: perhaps the feed still has some of it.
func (x *topics) oldestUpto(t *topic, at Position) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fd := t.feed; fd.at.Epoch == at.Epoch {
		return min(fd.low, at.Offset)
	}
	return at.Offset
}

// nextLimit is how many publications of this size make up a part.
func nextLimit(page []*Publication) int {
	bytes := 0
	for _, p := range page {
		bytes += len(p.Data) + 1
	}
	return min(max(partBytes*len(page)/bytes, firstPage), maxPage)
}

// readPage asks the broker, as one of maxReads.
func (x *topics) readPage(ctx context.Context, topic string, after, upto uint64, limit int) (Page, error) {
	select {
	case x.reading <- struct{}{}:
		defer func() { <-x.reading }()
	case <-ctx.Done():
		return Page{}, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	return x.recover.Read(ctx, topic, after, upto, limit)
}

// makePart makes the frame of a part, from as many of the publications as fit.
func (x *topics) makePart(s *Session, sub *subscription, c *cursor, m missed) part {
	x.making <- struct{}{}
	defer func() { <-x.making }()
	count, bytes := s.partLimits()
	if m.reply != nil {
		count = maxPage // in one frame
	}
	publications, all := limitPart(m.publications, count, bytes)
	p := part{cursor: c, at: m.upto, answer: m.from.Offset < c.upto, reply: m.reply != nil}
	if !all {
		p.at.Offset = publications[len(publications)-1].Offset
	}
	c.newest = false
	if m.reply != nil {
		if m.gap { // what follows it comes as publications
			x.counters.gaps.Add(1)
			p.at, publications, m.recovered = m.from, nil, false
		}
		p.frame = m.reply(p.at, m.recovered, publications)
		return p
	}
	batch := frame.Batch{Compact: s.compressed}
	if m.gap {
		x.counters.gaps.Add(1)
		if s.wire == wireV1 {
			batch.Append(gapFrame(sub.topic.name, m.from.String()))
		}
	}
	for _, pub := range publications {
		if pub.Except != "" && pub.Except == s.id && pub.Offset > c.upto {
			continue
		}
		batch.Append(x.missedFrame(sub.topic, s, pub, pub.Offset <= c.upto))
	}
	p.frame = batch.Frame()
	return p
}

// missedFrame is the frame of a publication that one session gets late.
func (x *topics) missedFrame(t *topic, s *Session, p *Publication, recovered bool) *frame.Frame {
	var f *frame.Frame
	switch {
	case s.wire != wireV1:
		f = t.envelope.Frame(p.Data)
	case recovered:
		f = t.envelope.RecoveredFrame(p.Data, p.Position.String())
	default:
		f = t.envelope.FrameAt(p.Data, p.Position.String())
	}
	if s.compressed {
		f.Deflate()
	}
	return f
}

// partLimits bound the publications of a part that are frames of their own. They are made
// when half of the session's queue is free, and take a quarter of it at most, so that
// space is left for other topics.
func (s *Session) partLimits() (count, bytes int) {
	o := &s.server.opts
	return max(o.QueueSize/4, 1), max(min(o.QueueBytes/4, partBytes), minPartBytes)
}

// limitPart returns the first publications that make up a part, one at least, and whether
// these are all.
func limitPart(publications []*Publication, count, bytes int) (first []*Publication, all bool) {
	for i, p := range publications {
		if bytes -= len(p.Data) + partOverhead; i > 0 && (i == count || bytes < 0) {
			return publications[:i], false
		}
	}
	return publications, true
}

// partOverhead is what a publication takes besides its data, about.
const partOverhead = 64

// newestPart is for a topic that drops publications, or keeps none: the client is told of
// the gap, gets the newest that there is, and is live; topic.mu is held.
func (x *topics) newestPart(s *Session, sub *subscription) part {
	t := sub.topic
	p := part{cursor: sub.behind, last: true}
	batch := frame.Batch{Compact: s.compressed}
	newest := t.newest
	before := Position{}
	if fd := t.feed; fd != nil {
		p.at, before = fd.at, fd.at
		if n := len(fd.ring); n > 0 {
			newest = fd.ring[n-1]
			before.Offset = newest.Offset - 1
		}
	}
	if s.wire == wireV1 {
		batch.Append(gapFrame(t.name, before.String()))
	}
	if newest != nil && (newest.Except == "" || newest.Except != s.id) {
		batch.Append(x.missedFrame(t, s, newest, false))
	}
	p.frame = batch.Frame()
	return p
}
