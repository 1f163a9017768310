package live

import (
	"maps"
	"slices"
	"sync"

	"github.com/livetopic/livetopic/live/internal/presence"
)

// PresenceChange says how the members of a topic have changed. No member is in two of the lists. Each
// list is in the order of the IDs, and nil if it is empty.
type PresenceChange struct {
	Topic   string   // whose members they are
	Joined  []Member // their first session has come
	Changed []Member // they have other sessions, or other infos
	Left    []Member // their last session has ended, and its PresenceGrace is over; Sessions is nil
}

// ListenPresence calls fn when members join a topic, change or leave, on any server of the Broker,
// until Unsubscribe. Changes within some tens of milliseconds come in one call. If the topic has
// members already, they are Joined in the first call.
//
// The calls are made one after another, in a goroutine of their own. While fn runs, the next changes
// are collected, so that a slow fn gets fewer and larger changes. A panic in fn is logged, and fn is
// called for the next change all the same. A call that began before Unsubscribe may still run after
// it.
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
	changes map[string]memberChange // changes that fn was not told yet, by the ID of the member
	running bool                    // a goroutine calls fn
	stopped bool
}

// memberChange is a change of a member that fn was not told yet.
type memberChange struct {
	known bool // fn knows the member
	gone  bool // the member has left
	now   presence.Member
}

// Unsubscribe ends the listening. The error is always nil.
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

// add collects a difference; presenceState.mu is held, so that differences come in order.
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
		c, collected := l.changes[id]
		if collected && !c.known {
			delete(l.changes, id) // fn never hears of this member
			continue
		}
		l.changes[id] = memberChange{known: true, gone: true, now: presence.Member{ID: id}}
	}
	if len(l.changes) > 0 && !l.running && !l.stopped {
		l.running = true
		go l.run() // ends when fn was told all changes, or after Unsubscribe
	}
}

// change notes how a member is now. known says whether fn knows the member. If an earlier change is
// still collected, its known holds instead. mu is held.
func (l *presenceListener) change(id string, known bool, now presence.Member) {
	if before, collected := l.changes[id]; collected {
		known = before.known
	}
	l.changes[id] = memberChange{known: known, now: now}
}

// run calls fn until it was told all changes.
func (l *presenceListener) run() {
	done := false
	defer func() {
		if !done { // fn has called runtime.Goexit, which has ended this goroutine
			go l.run() // ends when fn was told all changes, or after Unsubscribe
		}
	}()
	for {
		l.mu.Lock()
		if l.stopped || len(l.changes) == 0 {
			l.running, done = false, true
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

// changeOf makes the argument of fn, in the order of the members' IDs.
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
