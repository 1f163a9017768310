package live

import "sync/atomic"

// Stats has figures about a server: what it is doing now, and what it has done since it was
// made. The figures are read one after another. So they may not fit together exactly while the
// server is busy.
type Stats struct {
	Sessions      int // open now
	Topics        int // with a subscriber, or with a subscription under way
	Subscriptions int // of all sessions to all topics now

	Accepted uint64 // handshakes that became sessions
	Refused  uint64 // handshakes that did not

	RefusedFor Refusals // the same by reason

	AuthsWaiting int // handshakes that wait for OnAuth now; see MaxAuthsAtOnce

	Published uint64 // publications accepted
	Delivered uint64 // publications queued for a session when they came, counted for each session; without what sessions read from history
	Received  uint64 // messages from clients
	Malformed uint64 // invalid messages from clients, which were ignored or refused, or closed the session

	RateLimited uint64 // publications of clients that PublishRate refused

	CatchingUp int // subscriptions that read from history, because their client was away or reads too slowly

	Dropped uint64 // publications that a full queue dropped, as TopicOptions.Overflow allows
	Gaps    uint64 // gaps that were announced, to all subscribers of a topic or to one that was away or reads too slowly

	Snapshots uint64 // calls of TopicOptions.Snapshot; many clients share one

	Present      int    // how many times a session of this server is present in a topic
	Peers        int    // other servers that have told who is present at them
	PresenceJunk uint64 // broadcasts about presence that were not to be understood, and were ignored

	QueueFull    uint64 // sessions closed with ErrQueueFull
	UserBytes    uint64 // sessions closed with ErrUserBytes
	Replaced     uint64 // sessions closed with ErrReplaced
	PingTimeouts uint64 // sessions closed with ErrPingTimeout
	WriteFailed  uint64 // sessions closed with ErrWriteFailed
	Panics       uint64 // callbacks that panicked
}

type counters struct {
	accepted                atomic.Uint64
	refused                 refusedCounters
	published, delivered    atomic.Uint64
	dropped, gaps           atomic.Uint64
	snapshots               atomic.Uint64
	received, malformed     atomic.Uint64
	queueFull, pingTimeouts atomic.Uint64
	replaced, rateLimited   atomic.Uint64
	userBytes               atomic.Uint64
	writeFailed, panics     atomic.Uint64
}

// Subscribers returns how many sessions of this server are subscribed to a topic. Listeners do not
// count.
func (s *Server) Subscribers(topic string) int {
	t := s.topics.find(topic)
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.subs)
}

// Stats returns the figures of this server.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	sessions := len(s.sessions)
	s.mu.Unlock()
	present, peers, junk := s.presence.figures()
	c := &s.counters
	refusedFor, refused := c.refused.figures()
	return Stats{
		Present:       present,
		Peers:         peers,
		PresenceJunk:  junk,
		Sessions:      sessions,
		Topics:        int(s.topics.count.Load()),
		Subscriptions: int(s.topics.subscriptions.Load()),
		Accepted:      c.accepted.Load(),
		Refused:       refused,
		RefusedFor:    refusedFor,
		AuthsWaiting:  s.auths.length(),
		Published:     c.published.Load(),
		Delivered:     c.delivered.Load(),
		Received:      c.received.Load(),
		Malformed:     c.malformed.Load(),
		RateLimited:   c.rateLimited.Load(),
		CatchingUp:    int(s.topics.catchingUp.Load()),
		Dropped:       c.dropped.Load() + s.writers.Dropped(),
		Gaps:          c.gaps.Load(),
		Snapshots:     c.snapshots.Load(),
		QueueFull:     c.queueFull.Load(),
		UserBytes:     c.userBytes.Load(),
		Replaced:      c.replaced.Load(),
		PingTimeouts:  c.pingTimeouts.Load(),
		WriteFailed:   c.writeFailed.Load(),
		Panics:        c.panics.Load(),
	}
}
