package live

import (
	"context"
	"log/slog"
	"slices"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
)

// A client that catches up gets the publications that it has missed in parts. This file makes the
// parts.

const (
	// partBytes is how many bytes a client is sent at a time. A ping or a publication of another
	// topic may wait behind them: half a second at 64 KB/s.
	partBytes = 32 << 10

	// minPartBytes is the size that a part may always have, however small QueueBytes is. It holds
	// a small publication and its frame, so that a client makes progress.
	minPartBytes = 512

	// maxUncut is the longest answer of OnRequest that is sent in one frame. An answer a little
	// longer than a part is not worth a second frame.
	maxUncut = 2 * partBytes

	// firstPage and maxPage bound how many publications the broker is asked for at a time. The
	// first question asks for firstPage, and the next ones for more if the publications are
	// small. 64 publications of 512 bytes fill a part. 1,000 small ones fill a part as well.
	firstPage = 64
	maxPage   = 1000
)

// part is what a client is sent at a time.
type part struct {
	cursor *cursor      // the subscription's; nil: nothing can be sent now
	frame  *frame.Frame // nil: nothing is sent, the cursor only moves
	at     Position     // the position of the cursor after this part
	answer bool         // the client asked for the publications, so they count for its rate
	data   int          // bytes of the publications, before compression
	reply  bool         // the frame is the reply
	gap    bool         // after this part the client must still be told of a gap
	last   bool         // the subscription is live after this part

	// Of a keyed topic:
	sweep    *sweep // the cursor's after this part
	complete bool   // the client then has all changes up to change
	change   uint64 // number of the newest change when the part was made
	fresh    bool   // the client knows nothing of some keys, so it is sent its own publications too
}

// nextPart makes the next part of what a subscription has missed. If nothing is left, the
// subscription is live again, and the part is empty.
func (ts *topics) nextPart(s *Session, sub *subscription) part {
	t := sub.topic
	t.mu.Lock()
	c := sub.cursor
	if c == nil || c.stateReply != nil { // live; or the client has just asked for the state, which is sent first
		t.mu.Unlock()
		return part{}
	}
	if t.feed == nil || c.skipOld {
		defer t.mu.Unlock()
		return ts.newestPart(s, sub)
	}
	if t.feed.keys != nil {
		return ts.nextKeys(s, sub)
	}
	feed := t.feed
	m := missed{generation: feed.generation, from: c.at, upto: c.at, gap: c.gap, reply: c.reply, recovered: c.recovered}
	if c.at.Epoch != feed.at.Epoch || c.at.Offset > feed.at.Offset {
		// The history began anew, or lost its end.
		m.lose(Position{Epoch: feed.at.Epoch, Offset: feed.ringAfter}, true)
		c.page = nil
		c.upto = 0 // it is of the old history: nothing that follows answers the client
	}
	if c.turnsToState(&m) {
		t.mu.Unlock()
		return part{}
	}
	if m.upto == feed.at && !m.gap && m.reply == nil {
		ts.goLive(sub)
		t.mu.Unlock()
		return part{}
	}
	if m.reply != nil && !c.listed {
		t.mu.Unlock()
		return part{cursor: c, at: m.upto, reply: true, gap: m.gap, frame: m.reply(m.upto, m.recovered && !m.gap, nil)}
	}
	if !m.gap {
		if shared := ts.shared.find(s.partKey(t, c, m), t, c); shared != nil {
			c.page, c.newest, c.waited = nil, false, false
			t.mu.Unlock()
			return s.partOf(c, m, shared)
		}
	}
	if page := c.page; len(page) > 0 {
		c.page = nil
		m.add(page, page[len(page)-1].Offset)
	}
	t.mu.Unlock()
	defer func() { ts.shared.release(m.claim) }()
	if !ts.collect(s, t, c, &m) {
		return part{}
	}
	t.mu.Lock()
	turned := c.turnsToState(&m)
	t.mu.Unlock()
	if turned {
		return part{}
	}
	made := ts.makePart(s, sub, c, m)
	m.claim.succeed()
	c.waited = false
	return made
}

// turnsToState is for a client that was to be answered with publications, of a topic with a Snapshot. If
// the history no longer has all of them, turnsToState makes the client wait for the state instead, and
// returns true. topic.mu is held.
func (c *cursor) turnsToState(m *missed) bool {
	if m.reply == nil || !m.gap || c.elseState == nil {
		return false
	}
	c.stateReply, c.elseState, c.page = c.elseState, nil, nil
	return true
}

// missed is what a part is made of: publications that a client has missed.
type missed struct {
	generation   int64    // the feed's
	from         Position // publications after this position ...
	upto         Position // ... up to and including this one
	publications []*broker.Publication
	bytes        int       // of publications, as bytesOf counts
	gap          bool      // publications before from were lost, and the client was not told yet
	reply        replyFunc // nil: the part is not a reply
	recovered    bool      // for reply

	claim *partClaim // has the other sessions that wait for this part; nil: they do not wait
}

// add appends publications. After them m reaches up to an offset.
func (m *missed) add(publications []*broker.Publication, upto uint64) {
	m.publications = append(m.publications, publications...)
	m.bytes += bytesOf(publications)
	m.upto.Offset = max(m.upto.Offset, upto)
}

// lose moves m forward to a position, because the history no longer has the publications before it.
// gap says whether that is a loss for the client.
func (m *missed) lose(before Position, gap bool) {
	m.gap = m.gap || gap
	m.from, m.upto = before, before
}

// collect adds the publications that follow m: from the ring, or from the broker if the ring does
// not reach back so far. For a reply it reads page after page until a part is full. For any other
// part one page is enough. collect reports whether a part can be made of m. If it returns false, it
// has waited, and the caller may try again.
func (ts *topics) collect(s *Session, t *topic, c *cursor, m *missed) bool {
	for m.bytes < partBytes {
		t.mu.Lock()
		feed := t.feed
		at := feed.at
		if m.reply != nil { // newer publications are not part of the answer
			at.Offset = min(at.Offset, max(c.upto, m.from.Offset))
		}
		if at.Epoch != m.upto.Epoch || m.upto.Offset >= at.Offset {
			t.mu.Unlock()
			return true
		}
		if m.upto.Offset >= feed.ringAfter {
			m.add(feed.ring[feed.indexAfter(m.upto.Offset):feed.indexAfter(at.Offset)], at.Offset)
			t.mu.Unlock()
			return true
		}
		t.mu.Unlock()
		if m.reply == nil && len(m.publications) > 0 {
			return true
		}
		if !ts.readOn(s, t, c, m, at) {
			return len(m.publications) > 0
		}
		if m.gap && m.reply == nil || s.ctx.Err() != nil {
			return true
		}
	}
	return true
}

// readOn reads what follows m from the broker's history, up to a position. It reports whether m has
// grown. It returns false in three cases:
//   - The history gave nothing. Then readOn has waited.
//   - The page begins after a gap, and m holds publications that must be sent before the gap.
//   - Another session has made the same part, or has tried to.
func (ts *topics) readOn(s *Session, t *topic, c *cursor, m *missed, upto Position) bool {
	ctx := s.ctx
	ts.stopMaking() // others may make parts meanwhile
	defer ts.startMaking()
	if !ts.claimPart(s, t, c, m) {
		return false
	}
	page, err := ts.readPageOf(ctx, s, t, m, upto, max(c.limit, firstPage))
	reach := min(page.Upto, upto.Offset)
	switch {
	case err != nil:
		ts.server.logOfClient(slog.LevelWarn, "live: history cannot be read, trying again", "topic", t.name, "err", err)
		sleep(ctx, backoff(c.failures))
	case page.Epoch != m.upto.Epoch:
		ts.checkFeed(t) // the history began anew, or a copy lags
		sleep(ctx, lagBackoff(c.failures))
	case len(page.Publications) == 0 && reach <= m.upto.Offset:
		sleep(ctx, lagBackoff(c.failures)) // the copy that answered lags
	default:
		c.failures = 0
		lost := !page.Complete
		if lost && len(m.publications) > 0 {
			return false // what comes before the gap is sent first
		}
		if len(page.Publications) == 0 {
			if lost {
				m.lose(Position{Epoch: upto.Epoch, Offset: ts.oldestUpto(t, Position{Epoch: upto.Epoch, Offset: reach})}, !c.newest)
			} else {
				m.upto.Offset = reach
			}
			return true
		}
		if lost {
			m.lose(Position{Epoch: upto.Epoch, Offset: max(m.upto.Offset, page.Publications[0].Offset-1)}, !c.newest)
		}
		c.limit = nextLimit(page.Publications)
		m.add(page.Publications, reach)
		return true
	}
	c.failures++
	return false
}

// oldestUpto returns the offset from which a cursor goes on if the broker's history has no
// publication left up to a position. The feed's ring may still have some of those before it.
func (ts *topics) oldestUpto(t *topic, at Position) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if feed := t.feed; feed.at.Epoch == at.Epoch {
		return min(feed.ringAfter, at.Offset)
	}
	return at.Offset
}

// nextLimit returns how many publications of this size make up a part, at least firstPage and
// at most maxPage.
func nextLimit(page []*broker.Publication) int {
	bytes := 0
	for _, p := range page {
		bytes += len(p.Data) + 1
	}
	return min(max(partBytes*len(page)/bytes, firstPage), maxPage)
}

// claimPart is called before the broker is asked for a part. It makes other sessions that need the same
// part wait for it. If another session makes that part already, claimPart waits for it and returns
// false. Then the caller must start over. A part after a gap is for one session.
func (ts *topics) claimPart(s *Session, t *topic, c *cursor, m *missed) bool {
	if ts.inProcess || m.gap || m.claim != nil || c.waited {
		return true
	}
	claim, isMine := ts.shared.claim(s.partKey(t, c, *m), s)
	if isMine {
		m.claim = claim
		return true
	}
	select {
	case <-claim.done:
		c.waited = claim.succeeded // if it was made and is not shared, it is different for each session
	case <-s.ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c.page, m.publications = m.publications, nil
	return false
}

// readPageOf is readPage for a part.
func (ts *topics) readPageOf(ctx context.Context, s *Session, t *topic, m *missed, upto Position, limit int) (broker.Page, error) {
	ask := func() (broker.Page, error) {
		ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
		defer cancel()
		return ts.recover.Read(ctx, t.name, m.upto.Offset, upto.Offset, limit)
	}
	if ts.inProcess {
		return ask()
	}
	p := ts.reads.apply(s)
	ts.shared.hasten(m.claim, p)
	if err := p.await(ctx); err != nil {
		return broker.Page{}, err
	}
	defer p.leave()
	return ask()
}

// readPage reads a page from the broker when it is the session's turn. The error is the broker's, or
// that of ctx.
func (ts *topics) readPage(ctx context.Context, s *Session, topic string, after, upto uint64, limit int) (broker.Page, error) {
	return ts.read(ctx, s, func() (broker.Page, error) {
		ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
		defer cancel()
		return ts.recover.Read(ctx, topic, after, upto, limit)
	})
}

// makePart makes a part of the first publications of m, as many as fit.
//
// A reply that tells of a gap carries no publications: those after the gap come in the next parts.
func (ts *topics) makePart(s *Session, sub *subscription, c *cursor, m missed) part {
	count, bytes := s.partLimits()
	if m.reply != nil {
		count = maxPage // they share one frame
	}
	publications, all := limitPart(m.publications, count, bytes)
	if !all {
		publications = alignPart(publications)
		m.upto = publications[len(publications)-1].Position
	}
	c.newest = false
	if m.gap && (m.reply == nil || m.recovered) { // if the reply says that it is not recovered, countResume has counted the gap
		ts.counters.gaps.Add(1)
	}
	if m.reply == nil {
		made := &sharedPart{upto: m.upto, frame: ts.missedFrames(s, sub, c, m, publications), data: bytesOf(publications)}
		return ts.share(s, sub, c, m, publications, made)
	}
	if m.gap {
		m.upto, publications, m.recovered = m.from, nil, false
		c.upto = 0 // the reply says that not everything is recovered, so nothing after it is marked as recovered
	}
	messages := appendMessages(make([]byte, 0, bytesOf(publications)), publications, true)
	return ts.share(s, sub, c, m, publications, &sharedPart{upto: m.upto, messages: messages, data: len(messages)})
}

// missedFrames makes the frames of a part that is not a reply: the gap, and then the publications.
func (ts *topics) missedFrames(s *Session, sub *subscription, c *cursor, m missed, publications []*broker.Publication) *frame.Frame {
	batch := frame.Batch{Compact: s.compressed}
	if !s.compressed { // compressed frames take much less
		batch.Grow(bytesOf(publications) + len(publications)*len(sub.topic.name))
	}
	if m.gap && s.wire == wireV1 {
		batch.Append(gapFrame(sub.topic.name, m.from.String()))
	}
	for _, pub := range publications {
		if pub.Except != "" && pub.Except == s.id && pub.Offset > c.upto {
			continue
		}
		batch.Append(ts.missedFrame(sub.topic, s, pub, pub.Offset <= c.upto))
	}
	return batch.Frame()
}

// share keeps what was made for this session, so that other sessions can use it, and returns this
// session's part.
func (ts *topics) share(s *Session, sub *subscription, c *cursor, m missed, publications []*broker.Publication, made *sharedPart) part {
	if !m.gap && len(publications) > 0 {
		made.since = ts.arrivedBy(sub.topic, publications[0])
		ts.shared.add(s.partKey(sub.topic, c, m), c, publications, made)
	}
	return s.partOf(c, m, made)
}

// arrivedBy returns a time at which the publication had come at the latest; see feed.arrivedBy.
func (ts *topics) arrivedBy(t *topic, p *broker.Publication) int64 {
	if t.opts.HistoryAge == 0 {
		return 0 // no publication of the topic is ever too old
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.feed.arrivedBy(p.Offset)
}

// partOf returns a session's part, from what was made for it or for another session.
func (s *Session) partOf(c *cursor, m missed, made *sharedPart) part {
	p := part{cursor: c, at: made.upto, answer: m.from.Offset < c.upto, frame: made.frame, data: made.data}
	if m.reply != nil {
		p.reply = true
		p.frame = m.reply(made.upto, m.recovered, made.messages)
	}
	return p
}

// missedFrame builds the frame of a publication for a session that has missed it.
func (ts *topics) missedFrame(t *topic, s *Session, p *broker.Publication, recovered bool) *frame.Frame {
	content := frame.Publication{Data: p.Data, Key: p.Key, Removed: p.Removed}
	if s.wire == wireV1 {
		content.At, content.Recovered = p.Position.String(), recovered
	}
	f := t.envelope.Publication(content)
	if s.compressed {
		f.Deflate()
	}
	return f
}

// partLimits returns how many publications a part may have if each is a frame of its own, and how
// many bytes a part may have. A part is made when half of the session's queue is free. It takes at
// most a quarter of the queue, so that space is left for other topics.
func (s *Session) partLimits() (count, bytes int) {
	o := &s.server.opts
	return max(o.QueueSize/4, 1), max(min(o.QueueBytes/4, partBytes), minPartBytes)
}

// limitPart returns the first publications: as many as count and bytes allow, but at least
// one if there is one. all says that no publication is left.
func limitPart(publications []*broker.Publication, count, bytes int) (first []*broker.Publication, all bool) {
	for i, p := range publications {
		if bytes -= len(p.Data) + partOverhead; i > 0 && (i == count || bytes < 0) {
			return publications[:i], false
		}
	}
	return publications, true
}

// partOverhead is roughly how many bytes a publication takes in a part besides its data: the names of
// the JSON members, and its position.
const partOverhead = 64

// bytesOf is roughly how many bytes publications take in a part.
func bytesOf(publications []*broker.Publication) int {
	n := 0
	for _, p := range publications {
		n += len(p.Data) + partOverhead
	}
	return n
}

// newestPart makes the part for a topic that drops publications, or keeps no history. The part tells
// the client of the gap, and has the newest publication if there is one. After it the subscription is
// live. topic.mu is held.
func (ts *topics) newestPart(s *Session, sub *subscription) part {
	t := sub.topic
	p := part{cursor: sub.cursor, last: true}
	batch := frame.Batch{Compact: s.compressed}
	newest := t.newest
	before := Position{}
	if feed := t.feed; feed != nil {
		p.at, before = feed.at, feed.at
		for _, p := range slices.Backward(feed.ring) {
			if p.Except == "" || p.Except != s.id {
				newest, before.Offset = p, p.Offset-1
				break
			}
		}
	}
	if c := p.cursor; c.reply != nil {
		p.reply = true
		batch.Append(c.reply(before, false, nil))
	}
	if s.wire == wireV1 {
		batch.Append(gapFrame(t.name, before.String()))
	}
	if newest != nil && (newest.Except == "" || newest.Except != s.id) {
		batch.Append(ts.missedFrame(t, s, newest, false))
	}
	p.frame = batch.Frame()
	return p
}
