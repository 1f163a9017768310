package live

import (
	"context"
	"fmt"
	"time"

	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// SubscribeOption changes what Subscribe does.
type SubscribeOption func(*subscribing)

// Since has Subscribe first send what was published after a position, which is
// one that the client has from a publication of this topic. When that is not all to
// be had a live.v1 client is told that there is a gap. The zero Position says that
// the client has nothing. With Last as well it is then sent the newest.
func Since(p Position) SubscribeOption {
	return func(o *subscribing) { o.since, o.resume = p, p != Position{} }
}

// Last has Subscribe first send the newest publications, n of them if there are as
// many, 1,000 at most. Nothing is lost or sent twice between them and what follows.
func Last(n int) SubscribeOption {
	return func(o *subscribing) { o.last = min(n, maxRecovered) }
}

// subscribing is one call of Subscribe.
type subscribing struct {
	since  Position
	resume bool
	last   int

	// answer is called with the topic locked, before the session is a subscriber: what
	// it queues comes before every publication. nil: send publishes the missed ones.
	answer func(outcome)
}

// outcome is what a subscription begins with.
type outcome struct {
	at        Position       // zero: the topic keeps no history
	recovered bool           // missed is all that followed since
	missed    []*Publication // oldest first; if not recovered, the newest that were asked for
}

// subscribe adds the session to the topic.
func (x *topics) subscribe(ctx context.Context, s *Session, name string, max int, o subscribing) error {
	for {
		t, err := x.lockReady(ctx, name)
		if err != nil {
			return err
		}
		out, again, err := x.outcome(ctx, t, o)
		if err != nil || again {
			x.unlock(t)
			if err != nil {
				return err
			}
			continue
		}
		err = x.attach(t, s, max, o, out)
		x.unlock(t)
		return err
	}
}

// attach answers and makes the session a subscriber; topic.mu is held.
func (x *topics) attach(t *topic, s *Session, max int, o subscribing, out outcome) error {
	known, err := s.mayHave(t.name, max)
	if err != nil {
		return err
	}
	if o.answer != nil {
		o.answer(out) // with Session.mu free: an answer that does not fit ends the session
	} else if !known {
		x.sendMissed(t, s, o, out)
	}
	if known {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrSessionClosed
	}
	x.add(t, s)
	return nil
}

// mayHave reports whether the session has a topic, and if not, whether it may.
func (s *Session) mayHave(topic string, max int) (known bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known = s.subs.find(topic) != nil
	switch {
	case s.closed:
		return known, ErrSessionClosed
	case !known && s.subs.len() >= max:
		return false, fmt.Errorf("%w: %d", ErrTooManyTopics, max)
	}
	return known, nil
}

// sendMissed sends what was missed as publications, after a gap if it is not all.
func (x *topics) sendMissed(t *topic, s *Session, o subscribing, out outcome) {
	var ready outbox.List
	send := func(f *frame.Frame) {
		f.Free = true // 1,000 at most, of which none may be missing
		s.conn.Add(f, &ready)
	}
	if o.resume && !out.recovered && s.wire == wireV1 {
		at := out.at
		if len(out.missed) > 0 {
			at.Offset = out.missed[0].Offset - 1 // what is missing lies before them
		}
		send(gapFrame(t.name, at.String()))
	}
	for _, p := range out.missed {
		send(x.frame(t, p, s.wire))
	}
	x.writers.Write(&ready)
}

// outcome finds out what the subscription begins with. The topic is locked before
// and after; again says that it was not meanwhile, so that it may have gone, and that
// the caller is to begin anew.
func (x *topics) outcome(ctx context.Context, t *topic, o subscribing) (out outcome, again bool, err error) {
	fd := t.feed
	if fd == nil {
		return outcome{}, false, nil
	}
	if o.resume {
		out, again, err = x.resume(ctx, t, o.since)
		if err != nil || again || out.recovered || o.last <= 0 {
			return out, again, err
		}
		out, again, err = x.newest(ctx, t, o.last)
		out.followFrom(o.since)
		return out, again, err
	}
	if o.last > 0 {
		return x.newest(ctx, t, o.last)
	}
	return outcome{at: fd.at}, false, nil
}

// followFrom makes the newest publications the answer to a client that was at a position, and
// has what came up to there. They may reach back to it after all: then what follows it is
// all that was missed.
func (out *outcome) followFrom(since Position) {
	out.recovered = false
	for since.Epoch == out.at.Epoch && len(out.missed) > 0 && out.missed[0].Offset <= since.Offset {
		out.missed = out.missed[1:]
		out.recovered = since.Offset <= out.at.Offset
	}
}

// resume finds what followed a position.
func (x *topics) resume(ctx context.Context, t *topic, since Position) (out outcome, again bool, err error) {
	fd := t.feed
	if since.Epoch != fd.at.Epoch || since.Offset > fd.at.Offset {
		// The client may have been at a server that is ahead of this one.
		if again, err := x.reach(ctx, t, since); err != nil || again {
			return outcome{}, again, err
		}
	}
	out.at = fd.at
	switch {
	case since.Epoch != fd.at.Epoch || since.Offset > fd.at.Offset:
		return out, false, nil
	case since.Offset >= fd.low:
		out.missed = fd.after(since.Offset)
		if len(out.missed) > 0 && t.expired(out.missed[0]) {
			out.missed = nil // the history says the same: it has been dropped
			return out, false, nil
		}
		out.recovered = true
		return out, false, nil
	}
	return x.readSince(ctx, t, since)
}

// expired reports whether a publication is older than the topic keeps them.
func (t *topic) expired(p *Publication) bool {
	return t.opts.HistoryAge > 0 && time.Since(p.Time) > t.opts.HistoryAge
}

// after returns the ring's publications after an offset that is not below low.
func (fd *feed) after(offset uint64) []*Publication {
	for i, p := range fd.ring {
		if p.Offset > offset {
			return append([]*Publication(nil), fd.ring[i:]...)
		}
	}
	return nil
}

// reach waits until the feed is where the history is. If the position is not in
// it then, nobody has it.
func (x *topics) reach(ctx context.Context, t *topic, since Position) (again bool, err error) {
	var last Position
	x.unlocked(t, func() { last, err = x.recover.Last(ctx, t.name) })
	switch at := t.feed.at; {
	case err != nil:
		return false, fmt.Errorf("live: topic %q: %w", t.name, err)
	case last.Epoch != since.Epoch || last.Offset < since.Offset:
		if last.Epoch != at.Epoch {
			x.startRepair(t)
		}
		return false, nil // nobody has it
	case at.Epoch == since.Epoch && at.Offset >= since.Offset:
		return false, nil // it came meanwhile
	}
	x.startRepair(t)
	x.unlocked(t, func() { sleep(ctx, lagBackoff(0)) })
	return true, ctx.Err()
}

// unlocked runs f with the topic unlocked, and kept in the index.
func (x *topics) unlocked(t *topic, f func()) {
	t.pins++
	t.mu.Unlock()
	f()
	t.mu.Lock()
	t.pins--
}

// readSince finds what followed a position in the broker's history, because it is
// older than the feed.
func (x *topics) readSince(ctx context.Context, t *topic, since Position) (out outcome, again bool, err error) {
	fd := t.feed
	upto := fd.at
	var page Page
	x.unlocked(t, func() {
		page, err = x.recover.Read(ctx, t.name, since.Offset, upto.Offset, maxRecovered+1)
	})
	out.at = fd.at
	switch {
	case err != nil:
		return outcome{}, false, fmt.Errorf("live: topic %q: %w", t.name, err)
	case fd.at.Epoch != since.Epoch:
		return out, false, nil
	case page.Epoch == since.Epoch && page.Upto >= since.Offset && !page.Complete, len(page.Publications) > maxRecovered:
		return out, false, nil
	case page.Epoch != since.Epoch, page.Upto < upto.Offset:
		x.unlocked(t, func() { sleep(ctx, lagBackoff(1)) }) // the copy that answered lags
		return outcome{}, true, ctx.Err()
	case fd.low > upto.Offset:
		return outcome{}, true, nil // so much came meanwhile that the feed has lost the link
	}
	out.missed = append(page.Publications, fd.after(upto.Offset)...)
	out.recovered = true
	return out, false, nil
}
