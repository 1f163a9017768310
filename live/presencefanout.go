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
// is space again, it gets the whole state once more. So presence never fills a queue, and never
// closes a session.
//
// A state is sent in parts. Its members are sorted by their Order: a member that was told of later
// has a greater one. Differences are sent between the parts. A part tells its members as they are
// when the part is made. So for each client only the Order of the last member that it got is held.

const (
	// defaultPresenceLimit is the default of TopicOptions.PresenceLimit. Nobody reads a longer
	// list, and the state of 500 members takes some 30 KB.
	defaultPresenceLimit = 500

	// watcherPause is how much longer each watching session makes the pause between two
	// differences of a topic. So a topic costs at most 2,000 deliveries of differences a second,
	// as long as the pause is below maxPresencePause. A person takes minPresencePause for at
	// once. Nobody should wait longer than maxPresencePause for news, however large the topic is.
	watcherPause     = 500 * time.Microsecond
	minPresencePause = 100 * time.Millisecond
	maxPresencePause = 5 * time.Second
)

// watching is what a topic holds for its watching sessions: those that are told who is present. It
// is guarded by topic.mu.
type watching struct {
	sessions int
	pending  map[*subscription]uint64 // sessions that need the state, with the Order up to which they have it; 0: they have nothing
	due      int64                    // differences are not told before this time
	counting bool                     // the sessions are told a number only
	count    int                      // the number that was told last
}

// watch makes a session a watching session; topic.mu is held.
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
	p.untold[t.name] = p.untold[t.name] || false // a true stays true
	p.wake()
}

// unwatch undoes watch for a session; topic.mu is held.
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

// mayList reports whether clients that were told a number are told members again. That takes a tenth
// less members than PresenceLimit, so that a topic at its limit does not change to and fro.
func (t *topic) mayList(members int) bool {
	return t.opts.Presence == PresenceVisible && members <= t.opts.PresenceLimit-t.opts.PresenceLimit/10
}

// serve tells listeners and clients what is new in a topic. changed says that members may have
// changed. If rerun is true, serve must be called again soon, and then with stillChanged.
func (p *presenceState) serve(name string, changed bool, now int64) (rerun, stillChanged bool) {
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

// pauseFor returns the pause between two differences of a topic with so many watching sessions.
func pauseFor(sessions int) time.Duration {
	return min(max(time.Duration(sessions)*watcherPause, minPresencePause), maxPresencePause)
}

// flush returns what has changed in a topic, and tells its listeners. count is how many members the
// topic has after that.
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

// tellStateAnew has all watching sessions sent the state; topic.mu is held.
func (p *presenceState) tellStateAnew(t *topic) {
	for i := range t.subs {
		if sub := &t.subs[i]; sub.wire == wireV1 {
			t.watching.pending[sub.subscription] = 0
		}
	}
}

// fanOut queues frames for the watching sessions that have at least some of the state. A session
// whose queue has no space gets the state later. topic.mu is held.
func (p *presenceState) fanOut(t *topic, frames []*frame.Frame) {
	w := t.watching
	var ready outbox.List
	for i := range t.subs {
		sub := &t.subs[i]
		if sub.wire != wireV1 {
			continue
		}
		if order, needsState := w.pending[sub.subscription]; needsState && order == 0 {
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

// queueAll queues frames as long as half of the queue is free, and reports whether all of them were
// queued. For a session that has ended it reports true.
func queueAll(out *outbox.Box, frames []*frame.Frame, ready *outbox.List) bool {
	for _, f := range frames {
		if !out.IsHalfFree() || out.Add(f, ready) == outbox.ErrFull {
			return false
		}
	}
	return true
}

// sendStates sends the next part of the state to each session that needs it, if half of its queue is
// free. topic.mu is held.
func (p *presenceState) sendStates(t *topic) {
	w := t.watching
	parts := make(map[uint64]statePart) // by the Order after which they begin; sessions share parts
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

// awaitsReply reports whether the answer to a client's subscribe was not queued yet. No frame of the
// topic may come before that answer. topic.mu is held.
func (sub *subscription) awaitsReply() bool {
	return sub.cursor != nil && sub.cursor.reply != nil
}

// statePart is a part of a topic's state.
type statePart struct {
	frame *frame.Frame
	upto  uint64 // the Order of its last member
	last  bool
}

// statePart makes the part of a topic's state that has the members after an Order; topic.mu is held.
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

// partSize is how many bytes a frame of presence has at most. One member may take more.
func (p *presenceState) partSize() int {
	return max(min(p.server.opts.QueueBytes/4, partBytes), minPartBytes)
}

// finish compresses frames if any session of the server has compression.
func (p *presenceState) finish(frames []*frame.Frame) []*frame.Frame {
	if p.server.topics.compressed.Load() > 0 {
		for _, f := range frames {
			f.Deflate()
		}
	}
	return frames
}
