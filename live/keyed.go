package live

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
)

// A keyed topic (TopicOptions.Keyed) is a table. The table has the newest publication of each key.
// The feed of the topic holds the whole table, in place of a ring. So a client gets what it lacks
// from this server's memory, however many clients come.
//
// A publication is applied if it follows the publication that the table has of the same key. A
// publication of another server may be lost on its way. If the next publication has another key, it
// does not show that loss. So feed.compared is the position that clients get: up to there the table
// was compared with the history. A client that comes back is sent what came after it once more.
//
// A client that lacks something catches up. It is sent the table in rounds, slot after slot. In each
// round it is sent the slots that were changed since the round before. So every key has its turn,
// however fast the others change. The client is always sent the newest value.

// sweep is how far a client has come in the table of a keyed topic. It is guarded by topic.mu. Its
// runs are never changed in place, so a copy stays as it is when the original goes on.
type sweep struct {
	generation int64     // the feed's: another table has other slots
	next       int       // the slot where the next part begins
	runs       []slotRun // they cover all slots, in order
}

// slotRun is a run of neighbouring slots of which the client has the same changes. It begins where
// the run before it ends.
type slotRun struct {
	end    int    // the run ends before this slot
	fresh  bool   // the client has nothing of these slots, and knows nothing of their keys
	offset uint64 // the client has all publications up to this offset
	change uint64 // the client has all changes up to this number; 0: it is not known, and only the offset counts
}

// sweepAll is the sweep of a client that has nothing.
func (f *feed) sweepAll() sweep { return f.sweepFrom(slotRun{fresh: true}) }

// sweepSince is the sweep of a client that has everything up to an offset.
func (f *feed) sweepSince(offset uint64) sweep { return f.sweepFrom(slotRun{offset: offset}) }

// sweepLatest is the sweep of a client that lacks the latest change, and before it had everything up
// to an offset.
func (f *feed) sweepLatest(before uint64) sweep {
	return f.sweepFrom(slotRun{offset: before, change: f.keys.changes - 1})
}

func (f *feed) sweepFrom(all slotRun) sweep {
	all.end = math.MaxInt
	return sweep{generation: f.generation, runs: []slotRun{all}}
}

// lacks reports whether the client must be sent the publication of a slot.
func (r *slotRun) lacks(s keySlot) bool {
	switch {
	case s.newest == nil, r.fresh && s.newest.Removed:
		return false
	case r.change > 0:
		return s.change > r.change
	}
	return s.newest.Offset > r.offset
}

// isLost reports whether the client can no longer be told what was removed: the table began anew, or
// has forgotten removals of which the client was not told.
func (w *sweep) isLost(f *feed) bool {
	k := f.keys
	return w.generation != f.generation || slices.ContainsFunc(w.runs, func(r slotRun) bool {
		switch {
		case r.fresh:
			return false
		case r.change > 0:
			return k.forgottenChange > r.change
		}
		return k.forgottenUpto > r.offset
	})
}

// offset returns the offset up to which the client has everything.
func (w *sweep) offset() uint64 {
	least := uint64(math.MaxUint64)
	for _, r := range w.runs {
		least = min(least, r.offset)
	}
	return least
}

// isAnswered reports whether the client was sent all slots once.
func (w *sweep) isAnswered() bool {
	return !slices.ContainsFunc(w.runs, func(r slotRun) bool { return r.change == 0 })
}

// isFresh reports whether there are slots of which the client has nothing.
func (w *sweep) isFresh() bool {
	return slices.ContainsFunc(w.runs, func(r slotRun) bool { return r.fresh })
}

// collect returns the publications that the client is sent next. They are as many as count and bytes
// allow, and at least one if the client lacks any. after is the sweep once they are sent. complete
// says that the client then lacks nothing.
func (w sweep) collect(f *feed, count, bytes int) (found []*broker.Publication, after sweep, complete bool) {
	k := f.keys
	n := len(k.slots)
	begin := 0
	if w.next < n {
		begin = w.next
	}
	after = sweep{generation: w.generation, runs: slices.Clone(w.runs)}
	now := slotRun{offset: f.compared, change: k.changes}
	for done := range n {
		i := (begin + done) % n
		if s := k.slots[i]; after.run(i).lacks(s) {
			size := sizeInPart(s.newest)
			if len(found) > 0 && (len(found) == count || size > bytes) {
				after.pass(begin, begin+done, n, now)
				after.next = i
				return found, after, false
			}
			bytes -= size
			found = append(found, s.newest)
		}
	}
	return found, f.sweepFrom(now), true
}

// run returns the run of a slot.
func (w *sweep) run(slot int) *slotRun {
	i := slices.IndexFunc(w.runs, func(r slotRun) bool { return slot < r.end })
	return &w.runs[i]
}

// pass notes that the client has the slots from one slot up to, and without, another slot. count is
// how many slots the table has. If to is greater, the walk went on at slot 0.
func (w *sweep) pass(from, to, count int, now slotRun) {
	if to > count {
		w.set(from, count, now)
		from, to = 0, to-count
	}
	w.set(from, to, now)
}

// set makes now the run of the slots from one slot up to, and without, another slot. Runs that cover
// some of these slots are cut.
func (w *sweep) set(from, to int, now slotRun) {
	if from >= to {
		return
	}
	now.end = to
	var runs []slotRun
	begin := 0
	placed := false
	for _, r := range w.runs {
		if begin < from { // the piece of r before the new run
			before := r
			before.end = min(r.end, from)
			runs = append(runs, before)
		}
		if r.end >= from && !placed {
			runs = append(runs, now)
			placed = true
		}
		if r.end > to {
			runs = append(runs, r)
		}
		begin = r.end
	}
	w.runs = runs
}

// sizeInPart is roughly what a publication of a keyed topic takes in a part, in bytes.
func sizeInPart(p *broker.Publication) int { return len(p.Data) + len(p.Key) + partOverhead }

// safe returns the position that a client gets when it has everything that the feed has. Up to there
// the client lacks nothing, also of what was lost on its way to this server. topic.mu is held.
func (f *feed) safe() Position {
	if f.keys != nil {
		return Position{Epoch: f.at.Epoch, Offset: f.compared}
	}
	return f.at
}

// seenOf returns an offset up to which the table has everything of a key. If the table does not have
// the key, that is feed.compared and not keys.forgottenUpto: the forgotten removals may be newer
// than the last comparison, and may be removals of other keys.
func (f *feed) seenOf(key string) uint64 {
	if p := f.keys.find(key); p != nil {
		return p.Offset
	}
	return f.compared
}

// followsKey reports whether a publication follows the publication that the table has of its key,
// with none between them.
func (f *feed) followsKey(p *broker.Publication) bool {
	if known := f.keys.find(p.Key); known != nil {
		return p.Prev <= known.Offset
	}
	// The key may have had a removal that the table has forgotten. A publication from before that
	// removal may be delivered again. So up to forgottenUpto only a comparison with the history
	// tells whether a publication is new.
	known := max(f.compared, f.keys.forgottenUpto)
	return p.Offset > known && p.Prev <= known
}

// receiveKey handles a delivery of a keyed topic; topic.mu is held.
func (ts *topics) receiveKey(t *topic, p *broker.Publication) {
	feed := t.feed
	switch {
	case ts.inProcess && p.Offset > feed.at.Offset+1: // the broker has dropped the table, and begun another
		feed.park(p)
		ts.startRepair(t)
	case p.Epoch == feed.at.Epoch && p.Offset <= feed.seenOf(p.Key): // the table has it already
	case p.Epoch == feed.at.Epoch && feed.followsKey(p):
		ts.applyKey(t, p, delivered)
	default:
		feed.park(p)
		ts.startRepair(t)
	}
}

// applyKey shows the next publication of a key to the subscribers.
func (ts *topics) applyKey(t *topic, p *broker.Publication, o origin) {
	feed := t.feed
	before := feed.safe()
	feed.keys.put(p)
	feed.at.Offset = max(feed.at.Offset, p.Offset)
	if ts.inProcess {
		feed.compared = feed.at.Offset
	}
	ts.fanOut(t, p, before, o)
}

// readTable reads all publications that the history has of a keyed topic, up to a position. The
// error is the broker's. It wraps ErrUnavailable if the history lags behind that position for long,
// or ctx has ended.
func (ts *topics) readTable(ctx context.Context, s *Session, name string, upto Position) ([]*broker.Publication, error) {
	var all []*broker.Publication
	for after, failures := uint64(0), 0; after < upto.Offset; {
		page, err := ts.readPage(ctx, s, name, after, upto.Offset, maxRepairPage)
		switch {
		case err != nil:
			return nil, err
		case page.Epoch == upto.Epoch && page.Upto > after:
			all = append(all, page.Publications...)
			after, failures = page.Upto, 0
		case failures == maxLagging || ctx.Err() != nil:
			return nil, fmt.Errorf("%w: the history that answers is behind", ErrUnavailable)
		default:
			sleep(ctx, lagBackoff(failures))
			failures++
		}
	}
	return all, nil
}

// fillTable puts the publications of the history in the table of a feed that begins.
func (f *feed) fillTable(all []*broker.Publication) {
	for _, p := range all {
		f.keys.put(p)
	}
}

// fetchKeys compares the table of a keyed topic with the history, and applies what the table lacks.
// last is the history's newest position. If the history no longer has everything after the table's
// position, the table begins anew. The error is the broker's, errMore or errLagging.
func (ts *topics) fetchKeys(ctx context.Context, t *topic, last Position) error {
	t.mu.Lock()
	from := t.feed.safe()
	t.mu.Unlock()
	if last == from {
		return nil
	}
	if last.Epoch == from.Epoch && last.Offset > from.Offset {
		page, err := ts.recover.Read(ctx, t.name, from.Offset, last.Offset, maxRepairPage)
		if err != nil {
			return err
		}
		if page.Epoch == from.Epoch && page.Complete {
			return ts.applyPage(t, page, last)
		}
	}
	all, err := ts.readTable(ctx, nil, t.name, last)
	if err != nil {
		return err
	}
	ts.restartTable(t, last, all)
	return nil
}

// applyPage applies the publications of a page that the table lacks. The error is errMore if the page
// does not reach last, and errLagging if it brought nothing new.
func (ts *topics) applyPage(t *topic, page broker.Page, last Position) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	feed := t.feed
	before := feed.compared
	for _, p := range page.Publications {
		if p.Offset > feed.seenOf(p.Key) {
			ts.applyKey(t, p, fetched)
		}
	}
	feed.compared = max(feed.compared, min(page.Upto, last.Offset))
	feed.at.Offset = max(feed.at.Offset, feed.compared)
	switch {
	case feed.compared >= last.Offset:
		return nil
	case feed.compared > before:
		return errMore
	}
	return errLagging
}

// restartTable begins the table anew. It is called when the history no longer tells which keys were
// removed, or when the history itself began anew. All subscribers are told of a gap, and are sent
// all keys.
func (ts *topics) restartTable(t *topic, at Position, all []*broker.Publication) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ts.reset(t.feed, at)
	t.feed.fillTable(all)
	for i := range t.subs {
		sub := t.subs[i].subscription
		if sub.cursor != nil {
			continue // its next part finds that the table is another one
		}
		c := &cursor{at: Position{Epoch: at.Epoch}, gap: true, sweep: t.feed.sweepAll()}
		if ts.fallBehind(sub, c) {
			go sub.session.catchUp() // ends when no subscription is behind, or with the session
		}
	}
	for _, l := range t.listeners {
		l.tellGap()
	}
}

// keyedBeginning finds out where a subscription to a keyed topic begins. The topic is locked before
// and after, and may be unlocked meanwhile. retry says that the caller must start over.
func (ts *topics) keyedBeginning(ctx context.Context, t *topic, o subscribing) (begin beginning, retry bool, err error) {
	feed, since := t.feed, o.since
	if o.resume && (since.Epoch != feed.at.Epoch || since.Offset > feed.at.Offset) {
		if retry, err := ts.reach(ctx, t, o); err != nil || retry {
			return beginning{}, retry, err
		}
	}
	if isBetween(since, Position{Epoch: feed.at.Epoch}, feed.at) && since.Offset < feed.keys.forgottenUpto && !feed.crowd.current(feed).isLost(since.Offset) {
		if retry, err := ts.learnRemovals(ctx, t, o); err != nil || retry {
			return beginning{}, retry, err
		}
	}
	at := feed.safe()
	w := feed.sweepAll()
	begin = beginning{at: at, from: Position{Epoch: at.Epoch}, newest: true, recovered: !o.resume}
	if r := feed.sweepSince(since.Offset); isBetween(since, Position{Epoch: at.Epoch}, feed.at) && !r.isLost(feed) {
		begin.from, begin.newest, begin.recovered, w = since, false, true, r
	}
	if missed, _, _ := w.collect(feed, 1, 0); len(missed) == 0 {
		begin.from = at
		return begin, false, nil
	}
	begin.sweep = &w
	return begin, false, nil
}

// learnRemovals reads from the history the removals that the table has forgotten and that are newer
// than a client's position. If the history or the table cannot hold all of them, the client is sent all
// keys: see sinceQuestion.learnRemovals. The
// topic is locked before and after, and not meanwhile. retry says that the caller must start over. The
// error is the broker's.
func (ts *topics) learnRemovals(ctx context.Context, t *topic, o subscribing) (retry bool, err error) {
	q, err := ts.pageSince(ctx, t, o, func(ctx context.Context, q *sinceQuestion) (broker.Page, error) {
		return ts.readRemovals(ctx, t.name, q)
	})
	if err != nil {
		return false, fmt.Errorf("live: topic %q: %w", t.name, err)
	}
	page := q.page
	lags := page.Epoch != o.since.Epoch || page.Upto < q.after || page.Complete && page.Upto < q.upto
	return q.after != o.since.Offset && !lags, ctx.Err() // the answer may not be for this position
}

// readRemovals reads what a question asks for, page after page, and returns the removals as one page. It
// leaves out the values, which may be many and large. If something is missing in the history, the page
// ends there.
func (ts *topics) readRemovals(ctx context.Context, name string, q *sinceQuestion) (all broker.Page, err error) {
	all.Upto = q.after
	for {
		page, err := ts.recover.Read(ctx, name, all.Upto, q.upto, maxRepairPage)
		if err != nil {
			return broker.Page{}, err
		}
		moved := page.Upto > all.Upto
		if all.Epoch != "" && page.Epoch != all.Epoch {
			return broker.Page{Epoch: page.Epoch}, nil // the history began anew, or a copy lags
		}
		all.Epoch, all.Complete, all.Upto = page.Epoch, page.Complete, page.Upto
		for _, p := range page.Publications {
			if p.Removed {
				all.Publications = append(all.Publications, p)
			}
		}
		if !page.Complete || !moved || page.Upto >= q.upto {
			return all, nil
		}
	}
}

// nextKeys makes the next part of a subscription to a keyed topic. The caller has locked the topic,
// and nextKeys unlocks it.
func (ts *topics) nextKeys(s *Session, sub *subscription) part {
	t, c := sub.topic, sub.cursor
	feed := t.feed
	if c.sweep.isLost(feed) {
		next := c.sweep.next
		c.at, c.gap, c.upto, c.sweep = Position{Epoch: feed.at.Epoch}, true, 0, feed.sweepAll()
		c.sweep.next = next // a sweep that is lost again and again still reaches the last slots
	}
	count, bytes := s.partLimits()
	if c.reply != nil {
		count = maxPage // they share one frame
	}
	found, after, complete := c.sweep.collect(feed, count, bytes)
	p := part{cursor: c, sweep: &after, change: feed.keys.changes, complete: complete, fresh: c.sweep.isFresh(), at: c.at, answer: c.upto > 0 && !c.sweep.isAnswered(), data: bytesOf(found)}
	if after.isAnswered() {
		p.at.Offset = max(p.at.Offset, after.offset())
	}
	if len(found) == 0 && complete && !c.gap && c.reply == nil {
		c.at = p.at
		ts.goLive(sub)
		t.mu.Unlock()
		return part{}
	}
	t.mu.Unlock()
	ts.frameKeys(s, sub, &p, found)
	return p
}

// frameKeys makes the frame of a part of a keyed topic: the reply, or a batch of publications.
func (ts *topics) frameKeys(s *Session, sub *subscription, p *part, found []*broker.Publication) {
	c := p.cursor
	at := "" // the position that the last publication carries; "": none
	if p.at.Offset > c.at.Offset {
		at = p.at.String()
	}
	if c.reply != nil {
		p.reply = true
		replyAt := p.at
		if replyAt.Offset == 0 && !p.complete {
			replyAt = Position{} // the client has no position yet
		}
		p.frame = c.reply(replyAt, c.recovered && !c.gap, appendMessages(nil, found, false))
		return
	}
	batch := frame.Batch{Compact: s.compressed}
	if c.gap {
		ts.counters.gaps.Add(1)
		if s.wire == wireV1 {
			batch.Append(gapFrame(sub.topic.name, ""))
		}
	}
	for i, pub := range found {
		if pub.Except != "" && pub.Except == s.id && !p.answer && !p.fresh {
			continue
		}
		f := frame.Publication{Data: pub.Data, Key: pub.Key, Removed: pub.Removed, Recovered: p.answer && s.wire == wireV1}
		if s.wire == wireV1 && i == len(found)-1 {
			f.At = at
		}
		one := sub.topic.envelope.Publication(f)
		if s.compressed {
			one.Deflate()
		}
		batch.Append(one)
	}
	p.frame = batch.Frame()
}
