package live

import (
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// This file lets a program look into a server. Package inspector shows the same to a person. The lists
// of sessions and topics are copied under their locks. After that the figures are read one by one, each
// under the lock of its own session or topic. So the figures of 10,000 sessions never hold up a
// publication for longer than it takes to copy those of one session or topic.

// Sessions returns the sessions of this server that are open when the loop over them begins, in no
// particular order. No lock is held while the loop runs. So a session may have ended when its turn
// comes, and its figures are then its last.
func (s *Server) Sessions() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		for _, sess := range s.snapshot() {
			if !yield(sess) {
				return
			}
		}
	}
}

// SessionByID returns an open session of this server. nil: there is none with this ID. It walks over
// all sessions, so it is for people who look after a server, and not for each message.
func (s *Server) SessionByID(id string) *Session {
	for sess := range s.Sessions() {
		if sess.id == id {
			return sess
		}
	}
	return nil
}

// SessionStats has figures about a session.
type SessionStats struct {
	ID     string // of the session
	UserID string // "": no user in particular

	Since   time.Time // when the session began
	Heard   time.Time // when the client last sent something; an answer to a ping counts
	Expires time.Time // see ExpireAt; the zero Time: never

	LiveV1     bool // the client speaks live.v1
	Compressed bool // permessage-deflate was agreed

	Topics     int // subscriptions
	CatchingUp int // subscriptions that read from history, because the client was away or reads too slowly

	QueuedMessages int // wait for the client
	QueuedBytes    int // of these messages
	Unhandled      int // messages of the client that wait for the application
}

// Stats returns the figures of the session. They are read one after another, so they may not fit
// together exactly.
func (s *Session) Stats() SessionStats {
	now, ticks := time.Now(), clock.Now()
	timeOf := func(at int64) time.Time { return now.Add(-time.Duration(max(ticks-at, 0))) }
	st := SessionStats{
		ID:         s.id,
		UserID:     s.user,
		Since:      timeOf(s.began),
		LiveV1:     s.wire == wireV1,
		Compressed: s.compressed,
		CatchingUp: int(s.catchingUp.Load()),
	}
	st.Heard = timeOf(max(s.in.Heard(), s.began)) // at first Heard may be before the session, because of pingPhase
	if at := s.expiry.Load(); at != 0 {
		st.Expires = time.Unix(at, 0)
	}
	st.QueuedMessages, st.QueuedBytes = s.out.Queued()
	s.mu.Lock()
	st.Topics = s.subs.len()
	s.mu.Unlock()
	s.inbound.mu.Lock()
	st.Unhandled = s.inbound.waiting
	s.inbound.mu.Unlock()
	return st
}

// IsSubscribed reports whether the session is subscribed to a topic.
func (s *Session) IsSubscribed(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.subs.find(topic) != nil
}

// SubscriptionStats tells how far a session has come in a topic.
type SubscriptionStats struct {
	Topic string // of the subscription

	// Position is how far the client has come: everything up to it was sent, or waits in the client's
	// queue. It is zero if the topic keeps no history.
	Position Position

	// CatchingUp says that the session reads on from Position in the history, because its client was
	// away or reads too slowly. If the topic keeps no history, the client gets only the newest
	// publication when its queue has space.
	CatchingUp bool

	// Behind is how many offsets lie between Position and the newest publication of the topic. A
	// MemoryBroker numbers each topic on its own, so Behind is the number of publications. Other
	// brokers may give the topics of a stream their numbers in turn, and Behind is the most that
	// the client lacks. It is 0 if the session does not catch up.
	Behind uint64
}

// Subscriptions returns the subscriptions of the session, in the order of their topics.
func (s *Session) Subscriptions() []SubscriptionStats {
	s.mu.Lock()
	subs := s.subs.list()
	s.mu.Unlock()
	all := make([]SubscriptionStats, 0, len(subs))
	for _, sub := range subs {
		if st, subscribed := sub.stats(); subscribed {
			all = append(all, st)
		}
	}
	slices.SortFunc(all, func(a, b SubscriptionStats) int { return strings.Compare(a.Topic, b.Topic) })
	return all
}

// stats returns the figures of the subscription. subscribed is false if it has ended.
func (sub *subscription) stats() (st SubscriptionStats, subscribed bool) {
	t := sub.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(sub.index) >= len(t.subs) || t.subs[sub.index].subscription != sub {
		return st, false
	}
	st.Topic = t.name
	newest := t.newestPosition()
	if st.Position = newest; sub.cursor != nil {
		st.CatchingUp, st.Position = true, sub.cursor.at
	}
	if st.Position.Epoch == newest.Epoch && newest.Offset > st.Position.Offset {
		st.Behind = newest.Offset - st.Position.Offset
	}
	return st, true
}

// newestPosition returns the position of the subscribers that are live; mu is held. It is zero if the
// topic keeps no history.
func (t *topic) newestPosition() Position {
	if t.feed == nil || !t.feed.started {
		return Position{}
	}
	return t.feed.at
}

// TopicStats has figures about a topic that this server has in its memory, because it has a subscriber
// or a listener here.
type TopicStats struct {
	Topic string // its name

	Subscribers int // sessions of this server
	Listeners   int // calls of Listen at this server that have not ended
	CatchingUp  int // subscribers that read from history, because their clients were away or read too slowly

	// Published is how many publications have come to this server since it has the topic in its
	// memory, whichever server made them. It begins with 0 again if the last subscriber leaves and
	// another comes.
	Published uint64

	Keyed    bool     // see TopicOptions
	History  int      // the same
	Position Position // of the newest publication; zero: the topic keeps no history

	// Held is how many of the newest publications this server holds in its memory for clients that
	// come back: 256 at most. The history of the Broker may reach further. On a keyed topic it is
	// how many keys there are.
	Held int

	// HeldSince is the Time of the oldest publication that is held, on the clock of the server that
	// made it. It is zero if nothing is held, and on a keyed topic.
	HeldSince time.Time

	Presence Presence // see TopicOptions
	Present  int      // members on all servers; see PresenceCount
}

// Topics returns the figures of all topics that this server has in its memory, in no particular order.
// No lock is held while the loop runs.
func (s *Server) Topics() iter.Seq[TopicStats] {
	return func(yield func(TopicStats) bool) {
		for i := range s.topics.shards {
			for _, t := range s.topics.shards[i].list() {
				if st, ok := s.statsOf(t); ok && !yield(st) {
					return
				}
			}
		}
	}
}

// TopicStats returns the figures of a topic. ok is false if this server does not have it in its memory.
func (s *Server) TopicStats(topic string) (st TopicStats, ok bool) {
	if t := s.topics.find(topic); t != nil {
		return s.statsOf(t)
	}
	return TopicStats{}, false
}

func (s *Server) statsOf(t *topic) (st TopicStats, ok bool) {
	if st, ok = t.stats(); ok && st.Presence != PresenceOff {
		st.Present = s.PresenceCount(st.Topic)
	}
	return st, ok
}

// stats returns the figures of the topic, without Present. ok is false if the topic is not in the
// index any more.
func (t *topic) stats() (st TopicStats, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return st, false
	}
	st = TopicStats{
		Topic:       t.name,
		Subscribers: len(t.subs),
		Listeners:   len(t.listeners),
		CatchingUp:  t.behindCount,
		Published:   t.published,
		Keyed:       t.opts.Keyed,
		History:     t.opts.History,
		Position:    t.newestPosition(),
		Presence:    t.opts.Presence,
	}
	switch feed := t.feed; {
	case feed == nil:
	case feed.keys != nil:
		st.Held = feed.keys.keys
	case len(feed.ring) > 0:
		st.Held, st.HeldSince = len(feed.ring), feed.ring[0].Time
	}
	return st, true
}

// list returns the topics of the shard.
func (sh *shard) list() []*topic {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	all := make([]*topic, 0, len(sh.topics))
	for _, t := range sh.topics {
		all = append(all, t)
	}
	return all
}
