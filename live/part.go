package live

import (
	"context"
	"slices"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
)

// A client that catches up gets the publications that it has missed in parts. This file makes the
// parts.

const (
	// partBytes is how much a client is sent at a time. A ping or a publication of another
	// topic may wait behind it: half a second at 64 KB/s.
	partBytes = 32 << 10

	// minPartBytes is the size that a part may always have, however small QueueBytes is.
	minPartBytes = 512

	// maxUncut is the longest answer of OnRequest that is sent in one frame.
	maxUncut = 2 * partBytes

	// firstPage and maxPage bound how many publications the broker is asked for at a
	// time: firstPage at first, and more when it is known that they are small.
	firstPage = 64
	maxPage   = 1000
)

// part is what a client is sent at a time.
type part struct {
	cursor *cursor      // the subscription's; nil: nothing can be sent now
	frame  *frame.Frame // nil: nothing is sent, the cursor only moves
	at     Position     // the position of the cursor after this part
	answer bool         // the client asked for it, so it counts for the client's rate
	data   int          // bytes of what it was made of, before compression
	reply  bool         // the frame is the reply
	gap    bool         // after this part the client must still be told of a gap
	last   bool         // the subscription is live after this part

	// Of a keyed topic:
	sweep    *sweep // the cursor's after this part
	complete bool   // the client then lacks nothing ...
	change   uint64 // ... up to this change
	fresh    bool   // the client knows nothing of some keys: not even what it has published itself
}

// nextPart makes the next part of what a subscription has missed. If it has missed nothing
// more it is live again, and there is no part.
func (ts *topics) nextPart(s *Session, sub *subscription) part {
	t := sub.topic
	t.mu.Lock()
	c := sub.cursor
	if c == nil || c.stateReply != nil { // the client may just have asked for the state, which comes first
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
		c.upto = 0 // of another history: nothing that follows answers the client
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
			c.page, c.newest = nil, false
			t.mu.Unlock()
			return s.partOf(c, m, shared)
		}
	}
	if page := c.page; page != nil {
		c.page = nil
		m.add(page, page[len(page)-1].Offset)
	}
	t.mu.Unlock()
	if !ts.collect(s, t, c, &m) {
		return part{}
	}
	return ts.makePart(s, sub, c, m)
}

// missed is what a part is made of: publications that a client has missed.
type missed struct {
	generation   int64    // the feed's
	from         Position // publications after this position ...
	upto         Position // ... up to and including this one
	publications []*broker.Publication
	bytes        int       // of publications, as bytesOf counts
	gap          bool      // publications before from were lost, and the client does not know
	reply        replyFunc // nil: the part is not a reply
	recovered    bool      // for reply
}

func (m *missed) add(publications []*broker.Publication, upto uint64) {
	m.publications = append(m.publications, publications...)
	m.bytes += bytesOf(publications)
	m.upto.Offset = max(m.upto.Offset, upto)
}

// lose moves m forward to a position, because the history no longer has what lies before it.
// gap says whether the client misses that.
func (m *missed) lose(before Position, gap bool) {
	m.gap = m.gap || gap
	m.from, m.upto = before, before
}

// collect adds the publications that follow m, from the ring or else from the broker. For a
// reply it reads page after page until there is enough for a full part. Another part need
// not be full: one page is enough. It reports whether a part can be made of m. If not, it
// has waited.
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

// readOn reads what follows m, up to a position, from the broker's history. It reports whether
// m got further. If not, it has waited, or the page begins after a gap and m already holds
// publications, which must be sent first.
func (ts *topics) readOn(s *Session, t *topic, c *cursor, m *missed, upto Position) bool {
	ctx := s.ctx
	ts.stopMaking() // others may make parts meanwhile
	defer ts.startMaking()
	page, err := ts.readPage(ctx, s, t.name, m.upto.Offset, upto.Offset, max(c.limit, firstPage))
	reach := min(page.Upto, upto.Offset)
	switch {
	case err != nil:
		ts.logger.Debug("live: history not to be had, trying again", "topic", t.name, "err", err)
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

// oldestUpto returns the offset from which a cursor goes on if the broker's history has
// nothing up to a position. The feed's ring may still have the last publications before it.
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

// readPage reads a page from the broker for a session, when it is its turn.
func (ts *topics) readPage(ctx context.Context, s *Session, topic string, after, upto uint64, limit int) (broker.Page, error) {
	return ts.read(ctx, s, func() (broker.Page, error) {
		ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
		defer cancel()
		return ts.recover.Read(ctx, topic, after, upto, limit)
	})
}

// makePart makes a part of the first publications of m, as many as fit.
func (ts *topics) makePart(s *Session, sub *subscription, c *cursor, m missed) part {
	count, bytes := s.partLimits()
	if m.reply != nil {
		count = maxPage // they share one frame
	}
	publications, all := limitPart(m.publications, count, bytes)
	if !all {
		if m.reply == nil {
			publications = alignPart(publications)
		}
		m.upto = publications[len(publications)-1].Position
	}
	c.newest = false
	if m.reply != nil {
		if m.gap { // the publications after the gap come in the next parts
			ts.counters.gaps.Add(1)
			m.upto, publications, m.recovered = m.from, nil, false
			c.upto = 0 // so what follows is not marked as recovered: the answer says that it is not
		}
		messages := appendMessages(make([]byte, 0, bytesOf(publications)), publications, true)
		return ts.share(s, sub, c, m, publications, &sharedPart{upto: m.upto, messages: messages, data: len(messages)})
	}
	batch := frame.Batch{Compact: s.compressed}
	if !s.compressed { // else it takes much less
		batch.Grow(bytesOf(publications) + len(publications)*len(sub.topic.name))
	}
	if m.gap {
		ts.counters.gaps.Add(1)
		if s.wire == wireV1 {
			batch.Append(gapFrame(sub.topic.name, m.from.String()))
		}
	}
	for _, pub := range publications {
		if pub.Except != "" && pub.Except == s.id && pub.Offset > c.upto {
			continue
		}
		batch.Append(ts.missedFrame(sub.topic, s, pub, pub.Offset <= c.upto))
	}
	return ts.share(s, sub, c, m, publications, &sharedPart{upto: m.upto, frame: batch.Frame(), data: bytesOf(publications)})
}

// share keeps what was made, for other sessions, and returns this session's part.
func (ts *topics) share(s *Session, sub *subscription, c *cursor, m missed, publications []*broker.Publication, made *sharedPart) part {
	if !m.gap && len(publications) > 0 {
		made.since = ts.arrivedBy(sub.topic, publications[0])
		ts.shared.add(s.partKey(sub.topic, c, m), c, publications, made)
	}
	return s.partOf(c, m, made)
}

// arrivedBy returns a time. The publication came then or before; see feed.arrivedBy.
func (ts *topics) arrivedBy(t *topic, p *broker.Publication) int64 {
	if t.opts.HistoryAge == 0 {
		return 0 // it does not matter
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

// partLimits returns how many publications a part may have, if each is a frame of its own,
// and how many bytes. A part is made when half of the session's queue is free. It takes a
// quarter of the queue at most, so that space is left for other topics.
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

// partOverhead is roughly what a publication takes in a part besides its data.
const partOverhead = 64

func bytesOf(publications []*broker.Publication) int {
	n := 0
	for _, p := range publications {
		n += len(p.Data) + partOverhead
	}
	return n
}

// newestPart makes the part for a topic that drops publications, or keeps no history. It
// tells the client of the gap, and has the newest publication if there is one. The
// subscription is live after it. topic.mu is held.
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
