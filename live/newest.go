package live

import (
	"context"
	"fmt"
	"slices"
)

// The newest publications of a topic, for clients that come for the first time and for
// those that ask for history. A feed begins with an empty ring: the first that asks has it
// filled from the broker's history, the rest are answered from it, so that a thousand
// clients that arrive at once cost the broker one question.

// tailCall is a question to the broker for a topic's newest publications, under way or
// answered. Whoever needs the same waits for it.
type tailCall struct {
	limit int
	done  chan struct{} // closed when what follows is there
	page  Page
	err   error
}

// newest finds the newest publications, n at most.
func (x *topics) newest(ctx context.Context, t *topic, n int) (out outcome, again bool, err error) {
	fd := t.feed
	if !fd.reaches(n) {
		call, err := x.tail(ctx, t, n)
		if err != nil {
			return outcome{}, false, fmt.Errorf("live: topic %q: %w", t.name, err)
		}
		if !fd.joins(call.page) {
			if call.page.Epoch != fd.at.Epoch {
				x.startRepair(t) // or the history began anew, unnoticed
			}
			x.unlocked(t, func() { sleep(ctx, lagBackoff(1)) }) // the copy that answered lags
			return outcome{}, true, ctx.Err()
		}
		out.missed = fd.warm(call)
	} else {
		out.missed = slices.Clone(fd.ring)
	}
	out.at, out.recovered = fd.at, true
	out.missed = t.lastOf(out.missed, n)
	return out, false, nil
}

// lastOf returns the last publications that are still to be had, n at most. all is the
// caller's.
func (t *topic) lastOf(all []*Publication, n int) []*Publication {
	all = slices.DeleteFunc(all, t.expired)
	return all[max(len(all)-n, 0):]
}

// reaches reports whether the ring has the newest n, or all that there are.
func (fd *feed) reaches(n int) bool {
	return len(fd.ring) >= n || fd.whole || fd.low == 0
}

// tail asks the broker for the newest publications, n at least, one call at a time: the
// others wait for it. The topic is locked before and after, and not meanwhile.
func (x *topics) tail(ctx context.Context, t *topic, n int) (*tailCall, error) {
	for {
		call := t.feed.tail
		if call == nil {
			call = &tailCall{limit: min(max(n, t.feed.size), maxRecovered), done: make(chan struct{})}
			t.feed.tail = call
			go x.ask(t, call) // ends with the broker's answer, or brokerTimeout
		}
		var err error
		x.unlocked(t, func() {
			select {
			case <-call.done:
				err = call.err
			case <-ctx.Done():
				err = ctx.Err()
			}
		})
		if err != nil || call.limit >= n {
			return call, err
		}
	}
}

// ask is apart from who asks: one whose session ends must not take the answer from the
// others.
func (x *topics) ask(t *topic, call *tailCall) {
	ctx, cancel := context.WithTimeout(x.life, brokerTimeout)
	defer cancel()
	call.page, call.err = x.recover.Tail(ctx, t.name, call.limit)
	t.mu.Lock()
	defer t.mu.Unlock()
	if call.err == nil && t.feed.joins(call.page) {
		t.feed.warm(call) // before anybody asks again
	}
	t.feed.tail = nil
	close(call.done)
}

// joins reports whether nothing is missing between a page of the newest and the ring.
func (fd *feed) joins(page Page) bool {
	return page.Epoch == fd.at.Epoch && page.Upto >= fd.low
}

// warm puts the answer, which joins the ring, in front of it, and returns both. The ring
// grows to what clients ask for, if the history has so much.
func (fd *feed) warm(call *tailCall) []*Publication {
	older := call.page.Publications
	for len(older) > 0 && older[len(older)-1].Offset > fd.low {
		older = older[:len(older)-1]
	}
	all := slices.Concat(older, fd.ring)
	fd.size = max(fd.size, min(call.limit, len(call.page.Publications)))
	fd.whole = len(call.page.Publications) < call.limit
	if len(older) > 0 {
		fd.low = older[0].Offset - 1
	}
	fd.ring = slices.Clone(all)
	fd.makeRoom(0)
	return all
}

// makeRoom drops what does not fit in the ring together with that many more.
func (fd *feed) makeRoom(more int) {
	drop := len(fd.ring) + more - fd.size
	if drop <= 0 {
		return
	}
	fd.low = fd.ring[drop-1].Offset
	fd.ring = slices.Delete(fd.ring, 0, drop)
	fd.whole = false // the history may still have it
}

// history returns the newest publications of a topic, n at most: from the ring, if the topic
// has subscribers here and the broker says that the ring is up to date; else from the
// broker. What was published before is in it, on whatever server.
func (x *topics) history(ctx context.Context, name string, n int) ([]*Publication, error) {
	if _, exact := x.broker.(*MemoryBroker); exact {
		page, err := x.recover.Tail(ctx, name, n)
		return page.Publications, err
	}
	for {
		before := x.standing(name)
		last, err := x.recover.Last(ctx, name)
		if err != nil {
			return nil, err
		}
		if newest, ok := x.recent(name, n, before, last); ok {
			return newest, nil
		}
		page, err := x.recover.Tail(ctx, name, n)
		if err != nil {
			return nil, err
		}
		if page.Epoch == last.Epoch && page.Upto >= last.Offset {
			return page.Publications, nil
		}
		sleep(ctx, lagBackoff(1)) // the copy that answered lags
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// standing returns where a topic's feed is; zero if it has none.
func (x *topics) standing(name string) Position {
	t := x.find(name)
	if t == nil {
		return Position{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feed == nil || !t.feed.live {
		return Position{}
	}
	return t.feed.at
}

// recent returns the newest of the ring, if it has them and the feed is at the history's
// last position: that was asked for when the feed had come as far as before.
func (x *topics) recent(name string, n int, before, last Position) (newest []*Publication, ok bool) {
	t := x.find(name)
	if t == nil {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	fd := t.feed
	if fd == nil || !fd.live || !fd.reaches(n) || !last.between(before, fd.at) {
		return nil, false
	}
	return t.lastOf(slices.Clone(fd.ring), n), true
}

// between reports whether p is no older than one position and no newer than another.
func (p Position) between(older, newer Position) bool {
	return p.Epoch == older.Epoch && p.Epoch == newer.Epoch && older.Offset <= p.Offset && p.Offset <= newer.Offset
}
