package live

import (
	"maps"
	"slices"
	"sync"

	"github.com/livetopic/livetopic/live/internal/presence"
)

// PresenceChange is what has changed in a topic.
type PresenceChange struct {
	Topic   string
	Joined  []Member // whose first session came
	Changed []Member // who have other sessions, or other infos
	Left    []Member // whose last session has ended, and whose grace is over; without Sessions
}

// ListenPresence calls fn when members join or leave a topic, on any server of the Broker, or change
// in it, until Unsubscribe. What happens in some tens of milliseconds comes in one call. The first call has
// those who are there already, as joined, if there are any.
//
// The calls are made one after another, in a goroutine of their own. While fn runs the next change
// is collected, so that a slow fn gets fewer and larger changes. A panic in fn is logged, and ends
// nothing. A call that began before Unsubscribe may still run after it.
//
// The error wraps ErrInvalidTopic or ErrNoPresence, or is ErrServerClosed.
func (s *Server) ListenPresence(topic string, fn func(PresenceChange)) (Subscription, error) {
	if err := s.checkTopic(topic); err != nil {
		return nil, err
	}
	if s.opts.Topics(topic).Presence == PresenceOff {
		return nil, errNoPresence(topic)
	}
	p := &s.presence
	l := &presenceListener{server: s, topic: topic, fn: fn, changes: make(map[string]memberChange)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil, ErrServerClosed
	}
	p.use().Watch(topic)
	l.add(&presence.Diff{Joined: p.table.Shown(topic, 0)})
	p.listeners[topic] = append(p.listeners[topic], l)
	p.wake()
	return l, nil
}

// presenceListener is Go code that is told who is present.
type presenceListener struct {
	server *Server
	topic  string
	fn     func(PresenceChange)

	mu      sync.Mutex              // guards what follows; no other lock is taken under it
	changes map[string]memberChange // that fn was not told yet, by the ID of the member
	running bool                    // a goroutine calls fn
	stopped bool
}

// memberChange is what fn is to be told of a member.
type memberChange struct {
	known bool // fn knows the member
	gone  bool // the member has left
	now   presence.Member
}

// Unsubscribe ends the listening.
func (l *presenceListener) Unsubscribe() error {
	l.mu.Lock()
	first := !l.stopped
	l.stopped = true
	l.mu.Unlock()
	if !first {
		return nil
	}
	p := &l.server.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.listeners[l.topic]
	i := slices.Index(all, l)
	if all = slices.Delete(all, i, i+1); len(all) == 0 {
		delete(p.listeners, l.topic)
	} else {
		p.listeners[l.topic] = all
	}
	p.table.Unwatch(l.topic)
	return nil
}

// add collects a difference; presenceState.mu is held, so that they come in order.
func (l *presenceListener) add(d *presence.Diff) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range d.Joined {
		l.change(m.ID, false, m)
	}
	for _, m := range d.Changed {
		l.change(m.ID, true, m)
	}
	for _, id := range d.Left {
		c, waits := l.changes[id]
		if waits && !c.known {
			delete(l.changes, id) // fn never hears of this member
			continue
		}
		l.changes[id] = memberChange{known: true, gone: true, now: presence.Member{ID: id}}
	}
	if len(l.changes) > 0 && !l.running && !l.stopped {
		l.running = true
		go l.run() // ends when nothing waits
	}
}

// change notes how a member is now. known says that fn knows the member, unless a change that waits
// says otherwise.
func (l *presenceListener) change(id string, known bool, now presence.Member) {
	if before, waits := l.changes[id]; waits {
		known = before.known
	}
	l.changes[id] = memberChange{known: known, now: now}
}

// run calls fn until nothing waits.
func (l *presenceListener) run() {
	goOn := true
	defer func() {
		if goOn { // fn has ended the goroutine
			go l.run() // ends when nothing waits
		}
	}()
	for {
		l.mu.Lock()
		if l.stopped || len(l.changes) == 0 {
			l.running, goOn = false, false
			l.mu.Unlock()
			return
		}
		changes := l.changes
		l.changes = make(map[string]memberChange)
		l.mu.Unlock()
		c := changeOf(l.topic, changes)
		l.server.callSafely("ListenPresence", "topic", l.topic, func() { l.fn(c) })
	}
}

// changeOf returns changes in the order of the members' IDs.
func changeOf(topic string, changes map[string]memberChange) PresenceChange {
	c := PresenceChange{Topic: topic}
	for _, id := range slices.Sorted(maps.Keys(changes)) {
		m := changes[id]
		switch {
		case m.gone:
			c.Left = append(c.Left, memberOf(m.now))
		case m.known:
			c.Changed = append(c.Changed, memberOf(m.now))
		default:
			c.Joined = append(c.Joined, memberOf(m.now))
		}
	}
	return c
}
