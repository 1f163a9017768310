package live

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
)

// A keyed topic (TopicOptions.Keyed) is a table: of each key it has the newest publication. Its
// feed holds the whole table, in place of a ring. So a client gets what it lacks from this server's
// memory, however many clients come.
//
// A publication is applied if it follows what the table has of its key. What other servers publish may
// get lost on its way all the same, and the next publication of the topic need not show it. So
// the position that clients get is the one up to which the history was last compared: what came
// since is sent to them again when they come back.
//
// A client that lacks something catches up. It is sent the table in rounds, slot after slot, and of
// each slot what was changed since the round before. So every key has its turn, however fast the
// others change, and it is always the newest value that is sent.

// sweep is how far a client has come in the table of a keyed topic. It is guarded by topic.mu. A
// copy is not changed by what happens to the original.
type sweep struct {
	generation int64   // the feed's: another table has other slots
	next       int     // the slot where the next part begins
	runs       []slots // of all slots, in their order
}

// slots is a run of slots of which the client has the same changes.
type slots struct {
	end    int    // the run ends before this slot
	fresh  bool   // the client has nothing of these slots, and knows nothing of their keys
	offset uint64 // the client has all publications up to this offset
	change uint64 // and all changes up to this one; 0: only the offset counts
}

// sweepAll is the sweep of a client that has nothing.
func (f *feed) sweepAll() sweep { return f.sweepFrom(slots{fresh: true}) }

// sweepSince is the sweep of a client that has everything up to an offset.
func (f *feed) sweepSince(offset uint64) sweep { return f.sweepFrom(slots{offset: offset}) }

// sweepLatest is the sweep of a client that lacks the latest change, and before it had everything up
// to an offset.
func (f *feed) sweepLatest(before uint64) sweep {
	return f.sweepFrom(slots{offset: before, change: f.keys.changes - 1})
}

func (f *feed) sweepFrom(all slots) sweep {
	all.end = math.MaxInt
	return sweep{generation: f.generation, runs: []slots{all}}
}

// lacks reports whether the client must be sent what a slot has.
func (r *slots) lacks(s keySlot) bool {
	switch {
	case s.newest == nil, r.fresh && s.newest.Removed:
		return false
	case r.change > 0:
		return s.change > r.change
	}
	return s.newest.Offset > r.offset
}

// isLost reports whether the table has forgotten removals of which the client was not told.
func (w *sweep) isLost(f *feed) bool {
	k := f.keys
	return w.generation != f.generation || slices.ContainsFunc(w.runs, func(r slots) bool {
		switch {
		case r.fresh:
			return false
		case r.change > 0:
			return k.forgotten > r.change
		}
		return k.low > r.offset
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
	return !slices.ContainsFunc(w.runs, func(r slots) bool { return r.change == 0 })
}

// isFresh reports whether there are slots of which the client has nothing.
func (w *sweep) isFresh() bool {
	return slices.ContainsFunc(w.runs, func(r slots) bool { return r.fresh })
}

// collect returns what the client is sent next: as much as count and bytes allow, and one publication
// at least if there is any. after is the sweep when it was sent. complete says that the client then
// lacks nothing.
func (w sweep) collect(f *feed, count, bytes int) (found []*broker.Publication, after sweep, complete bool) {
	k := f.keys
	n := len(k.slots)
	begin := 0
	if w.next < n {
		begin = w.next
	}
	after = sweep{generation: w.generation, runs: slices.Clone(w.runs)}
	now := slots{offset: f.compared, change: k.changes}
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
func (w *sweep) run(slot int) *slots {
	i := slices.IndexFunc(w.runs, func(r slots) bool { return slot < r.end })
	return &w.runs[i]
}

// pass notes that the client has the slots from one to before another, which may lie a round further.
func (w *sweep) pass(from, to, count int, now slots) {
	if to > count {
		w.set(from, count, now)
		from, to = 0, to-count
	}
	w.set(from, to, now)
}

// set puts a run in the place of what covers its slots.
func (w *sweep) set(from, to int, now slots) {
	if from >= to {
		return
	}
	now.end = to
	var runs []slots
	begin := 0
	placed := false
	for _, r := range w.runs {
		if begin < from { // what of the run lies before
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

func sizeInPart(p *broker.Publication) int { return len(p.Data) + len(p.Key) + partOverhead }

// safe returns the position up to which clients of a feed have everything, once they have what the
// feed has. topic.mu is held.
func (f *feed) safe() Position {
	if f.keys != nil {
		return Position{Epoch: f.at.Epoch, Offset: f.compared}
	}
	return f.at
}

// seenOf returns an offset up to which nothing is missing of a key. The table may have forgotten
// removals that are newer than what it was last compared with. So keys.low says nothing of a key that
// the table does not have.
func (f *feed) seenOf(key string) uint64 {
	if p := f.keys.find(key); p != nil {
		return p.Offset
	}
	return f.compared
}

// followsKey reports whether a publication follows what the table has of its key.
func (f *feed) followsKey(p *broker.Publication) bool {
	if known := f.keys.find(p.Key); known != nil {
		return p.Prev <= known.Offset
	}
	// The key may have been removed up to low, and the table has forgotten that. A publication from
	// before that removal may come again. So only a comparison tells whether it is new.
	low := max(f.compared, f.keys.low)
	return p.Offset > low && p.Prev <= low
}

// receiveKey takes a delivery of a keyed topic; topic.mu is held.
func (ts *topics) receiveKey(t *topic, p *broker.Publication) {
	feed := t.feed
	switch {
	case ts.inProcess && p.Offset > feed.at.Offset+1: // the broker has dropped the table, and begun another
		feed.park(p)
		ts.startRepair(t)
	case p.Epoch == feed.at.Epoch && p.Offset <= feed.seenOf(p.Key): // seen
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

// readTable reads what the history has of a keyed topic, up to a position. The error wraps that of the
// broker.
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

// fillTable puts what the history has in the table of a feed that begins.
func (f *feed) fillTable(all []*broker.Publication) {
	for _, p := range all {
		f.keys.put(p)
	}
}

// fetchKeys compares the table of a keyed topic with the history, whose newest position is last.
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

// applyPage applies what the table lacks of a page of the history.
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

// restartTable begins the table anew, since the history no longer says what was removed, or began
// anew. All subscribers are told of a gap, and are sent all keys.
func (ts *topics) restartTable(t *topic, at Position, all []*broker.Publication) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ts.reset(t.feed, at)
	t.feed.fillTable(all)
	for i := range t.subs {
		sub := t.subs[i].subscription
		if sub.cursor != nil {
			continue // its next part finds out
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
// and after, and may be unlocked meanwhile. again says that the caller must start over.
func (ts *topics) keyedBeginning(ctx context.Context, t *topic, o subscribing) (begin beginning, again bool, err error) {
	feed, since := t.feed, o.since
	if o.resume && (since.Epoch != feed.at.Epoch || since.Offset > feed.at.Offset) {
		if again, err := ts.reach(ctx, t, o); err != nil || again {
			return beginning{}, again, err
		}
	}
	if isBetween(since, Position{Epoch: feed.at.Epoch}, feed.at) && since.Offset < feed.keys.low {
		if err := ts.learnRemovals(ctx, t, o); err != nil {
			return beginning{}, false, fmt.Errorf("live: topic %q: %w", t.name, err)
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

// learnRemovals asks the history which keys were removed since a client's position, before the
// removals that the table knows. If the history does not know them either, the table stays as it is. The
// topic is locked before and after, and not meanwhile.
func (ts *topics) learnRemovals(ctx context.Context, t *topic, o subscribing) error {
	generation, since, upto := t.feed.generation, o.since, t.feed.keys.low
	var found []*broker.Publication
	for after := since.Offset; after < upto; {
		var page broker.Page
		var err error
		ts.unlocked(t, func() {
			if o.pays {
				ts.payForQuestion(o.session, questionUnits)
			}
			page, err = ts.readPage(ctx, o.session, t.name, after, upto, maxRepairPage)
		})
		if err != nil {
			return err
		}
		if page.Epoch != since.Epoch || !page.Complete || page.Upto <= after || t.feed.generation != generation {
			return nil
		}
		found, after = append(found, page.Publications...), page.Upto
	}
	if t.feed.keys.low == upto { // else the table has forgotten newer removals meanwhile
		t.feed.keys.learn(since.Offset, found)
	}
	return nil
}

// nextKeys makes the next part of a subscription to a keyed topic. It unlocks the topic, which is
// locked before.
func (ts *topics) nextKeys(s *Session, sub *subscription) part {
	t, c := sub.topic, sub.cursor
	feed := t.feed
	if c.sweep.isLost(feed) {
		next := c.sweep.next // else the last slots would never have their turn, if this happens again and again
		c.at, c.gap, c.upto, c.sweep = Position{Epoch: feed.at.Epoch}, true, 0, feed.sweepAll()
		c.sweep.next = next
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

// frameKeys makes the frame of a part.
func (ts *topics) frameKeys(s *Session, sub *subscription, p *part, found []*broker.Publication) {
	c := p.cursor
	at := "" // of the last publication
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
