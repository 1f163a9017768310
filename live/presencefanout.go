package live

import (
	"maps"
	"time"

	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/outbox"
	"github.com/livetopic/livetopic/live/internal/presence"
)

// What clients are told of who is present. A client that subscribes gets the state of the topic:
// its members. Then it gets the differences, one frame for all that happens in a moment. If the
// topic has more members than its limit, it gets their number instead.
//
// A client that reads slowly is told nothing while more than half of its queue is taken. When there
// is space again it gets the state anew. So presence never fills a queue, and never closes a
// session.
//
// A state comes in parts, in the order in which the members were told of first. Differences go on
// between the parts. A member that is in a later part is told as it is then, so nothing has to be
// held for the client but the number of the last member that it got.

const (
	// defaultPresenceLimit is the default of TopicOptions.PresenceLimit. Nobody reads a longer
	// list, and the state of 500 members takes some 30 KB.
	defaultPresenceLimit = 500

	// watcherPause is how much time between two differences each watching session adds: a topic
	// costs 2,000 deliveries of differences a second at most, until the pause is
	// maxPresencePause. The least pause, minPresencePause, is what a person takes for at once.
	watcherPause     = 500 * time.Microsecond
	minPresencePause = 100 * time.Millisecond
	maxPresencePause = 5 * time.Second
)

// watching is what a topic holds for the sessions that are told who is present. It is guarded by
// topic.mu.
type watching struct {
	sessions int
	pending  map[*subscription]uint64 // those that need the state; the Order up to which they have it
	due      int64                    // not before this time are differences told again
	counting bool                     // they are told a number only
	count    int                      // the number that was told last
}

// watch makes a session one that is told; topic.mu is held.
func (p *presenceState) watch(t *topic, sub *subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.watching == nil {
		p.use().Watch(t.name)
		t.watching = &watching{pending: make(map[*subscription]uint64)}
		t.watching.counting = t.mustCount(p.table.ShownCount(t.name))
	}
	t.watching.sessions++
	t.watching.pending[sub] = 0
	p.untold[t.name] = p.untold[t.name] || false // its changes, if there are any, stay noted
	p.wake()
}

// unwatch undoes watch; topic.mu is held.
func (p *presenceState) unwatch(t *topic, sub *subscription) {
	w := t.watching
	delete(w.pending, sub)
	w.sessions--
	if w.sessions > 0 {
		return
	}
	t.watching = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	p.table.Unwatch(t.name)
}

// mustCount reports whether clients are told a number instead of so many members.
func (t *topic) mustCount(members int) bool {
	return t.opts.Presence == PresenceCounted || members > t.opts.PresenceLimit
}

// mayList reports whether clients that were told a number are told members again. There is a tenth
// between the two limits, so that a topic at its limit does not change to and fro.
func (t *topic) mayList(members int) bool {
	return t.opts.Presence == PresenceVisible && members <= t.opts.PresenceLimit-t.opts.PresenceLimit/10
}

// serve tells listeners and clients what is new in a topic. again says that it must be called again
// soon, and still that members may have changed that nobody was told of.
func (p *presenceState) serve(name string, changed bool, now int64) (again, still bool) {
	t := p.server.topics.find(name)
	if t == nil {
		if changed {
			p.flush(name)
		}
		return false, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.watching
	if w == nil {
		if changed {
			p.flush(name)
		}
		return false, false
	}
	due := now >= w.due
	if changed && due {
		w.due = now + int64(pauseFor(w.sessions))
		d, count := p.flush(name)
		p.tell(t, &d, count)
	}
	p.sendStates(t)
	return len(w.pending) > 0 || changed && !due, changed && !due
}

// pauseFor returns the time between two differences for so many sessions.
func pauseFor(sessions int) time.Duration {
	return min(max(time.Duration(sessions)*watcherPause, minPresencePause), maxPresencePause)
}

// flush returns what has changed in a topic, and tells its listeners. count is how many members
// were told of then.
func (p *presenceState) flush(name string) (d presence.Diff, count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d = p.table.Flush(name)
	if !d.IsEmpty() {
		for _, l := range p.listeners[name] {
			l.add(&d)
		}
	}
	return d, p.table.ShownCount(name)
}

// tell tells the watching sessions what has changed; topic.mu is held.
func (p *presenceState) tell(t *topic, d *presence.Diff, count int) {
	w := t.watching
	switch {
	case w.counting && t.mayList(count):
		w.counting = false
		p.tellStateAnew(t)
	case w.counting:
		if count != w.count {
			p.tellCount(t, count)
		}
	case t.mustCount(count):
		w.counting = true
		p.tellCount(t, count)
	case !d.IsEmpty():
		p.fanOut(t, p.finish(differenceFrames(t, d, p.partSize())))
	}
}

// tellCount sends the number of members; topic.mu is held.
func (p *presenceState) tellCount(t *topic, count int) {
	t.watching.count = count
	maps.DeleteFunc(t.watching.pending, func(sub *subscription, _ uint64) bool { return !sub.awaitsReply() })
	p.fanOut(t, p.finish([]*frame.Frame{countFrame(t, count)}))
}

// tellStateAnew makes all watching sessions get the state; topic.mu is held.
func (p *presenceState) tellStateAnew(t *topic) {
	for i := range t.subs {
		if sub := &t.subs[i]; sub.wire == wireV1 {
			t.watching.pending[sub.subscription] = 0
		}
	}
}

// fanOut queues frames for the watching sessions that have the state, or some of it. A session whose queue
// has no space gets the state later. topic.mu is held.
func (p *presenceState) fanOut(t *topic, frames []*frame.Frame) {
	w := t.watching
	var ready outbox.List
	for i := range t.subs {
		sub := &t.subs[i]
		if sub.wire != wireV1 {
			continue
		}
		if order, waits := w.pending[sub.subscription]; waits && order == 0 {
			continue
		}
		if !queueAll(sub.out, frames, &ready) {
			w.pending[sub.subscription] = 0
		}
		if ready.Len() == handOver {
			p.server.writers.Write(&ready)
		}
	}
	p.server.writers.Write(&ready)
}

// queueAll queues frames if they fit in a half of the queue, and reports whether all of them were
// queued. A session that has ended needs none.
func queueAll(out *outbox.Box, frames []*frame.Frame, ready *outbox.List) bool {
	for _, f := range frames {
		if !out.IsHalfFree() || out.Add(f, ready) == outbox.ErrFull {
			return false
		}
	}
	return true
}

// sendStates sends the next part of the state to the sessions that need it, and for whose part there
// is space. topic.mu is held.
func (p *presenceState) sendStates(t *topic) {
	w := t.watching
	parts := make(map[uint64]statePart) // by the Order after which they begin; sessions share them
	var ready outbox.List
	for sub, after := range w.pending {
		if sub.awaitsReply() || !sub.session.out.IsHalfFree() {
			continue
		}
		part, made := parts[after]
		if !made {
			part = p.statePart(t, after)
			parts[after] = part
		}
		switch {
		case sub.session.out.Add(part.frame, &ready) == outbox.ErrFull:
		case part.last:
			delete(w.pending, sub)
		default:
			w.pending[sub] = part.upto
		}
	}
	p.server.writers.Write(&ready)
}

// awaitsReply reports whether the answer to a client's subscribe is still to come. Nothing of the
// topic comes before it. topic.mu is held.
func (sub *subscription) awaitsReply() bool {
	return sub.cursor != nil && sub.cursor.reply != nil
}

// statePart is a part of a topic's state.
type statePart struct {
	frame *frame.Frame
	upto  uint64 // the Order of its last member
	last  bool
}

func (p *presenceState) statePart(t *topic, after uint64) statePart {
	p.mu.Lock()
	count := p.table.ShownCount(t.name)
	var members []presence.Member
	if !t.watching.counting {
		members = p.table.Shown(t.name, after)
	}
	p.mu.Unlock()
	if t.watching.counting {
		t.watching.count = count
		return statePart{frame: p.finish([]*frame.Frame{countFrame(t, count)})[0], last: true}
	}
	first, rest := cutMembers(members, p.partSize())
	part := statePart{last: len(rest) == 0}
	if len(first) > 0 {
		part.upto = first[len(first)-1].Order
	}
	part.frame = p.finish([]*frame.Frame{stateOfMembers(t, first, after > 0, !part.last)})[0]
	return part
}

// partSize is how many bytes a frame of presence has at most, as far as its members are small.
func (p *presenceState) partSize() int {
	return max(min(p.server.opts.QueueBytes/4, partBytes), minPartBytes)
}

// finish compresses frames, if a session may need that.
func (p *presenceState) finish(frames []*frame.Frame) []*frame.Frame {
	if p.server.topics.compressed.Load() > 0 {
		for _, f := range frames {
			f.Deflate()
		}
	}
	return frames
}
