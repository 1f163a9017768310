package live

import "sync/atomic"

// Stats is what a server is doing and has done since it was made. The figures
// are taken one after another, so they need not fit together exactly while the
// server is busy.
type Stats struct {
	Sessions      int // open now
	Topics        int // with a subscriber, or about to have one
	Subscriptions int // of all sessions to all topics now

	Accepted uint64 // handshakes that became sessions
	Refused  uint64 // handshakes that did not

	Published uint64 // publications accepted
	Delivered uint64 // publications queued as they came, each session counted; not what sessions catch up with
	Received  uint64 // messages from clients
	Malformed uint64 // of these, those that were not valid: ignored, refused, or the session was closed

	CatchingUp int // subscriptions that read on in the history, since their client was away or takes too little

	Dropped uint64 // publications that a full queue dropped, of topics that allow it
	Gaps    uint64 // losses that were announced: to all subscribers of a topic, or to one that was away or takes too little

	Snapshots uint64 // calls of TopicOptions.Snapshot; many clients share one

	QueueFull    uint64 // sessions closed with ErrQueueFull
	PingTimeouts uint64 // sessions closed with ErrPingTimeout
	WriteFailed  uint64 // sessions closed with ErrWriteFailed
	Panics       uint64 // callbacks that panicked
}

type counters struct {
	accepted, refused       atomic.Uint64
	published, delivered    atomic.Uint64
	dropped, gaps           atomic.Uint64
	snapshots               atomic.Uint64
	received, malformed     atomic.Uint64
	queueFull, pingTimeouts atomic.Uint64
	writeFailed, panics     atomic.Uint64
}

// Stats returns the figures of this server.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	sessions := len(s.sessions)
	s.mu.Unlock()
	c := &s.counters
	return Stats{
		Sessions:      sessions,
		Topics:        int(s.topics.count.Load()),
		Subscriptions: int(s.topics.subscriptions.Load()),
		Accepted:      c.accepted.Load(),
		Refused:       c.refused.Load(),
		Published:     c.published.Load(),
		Delivered:     c.delivered.Load(),
		Received:      c.received.Load(),
		Malformed:     c.malformed.Load(),
		CatchingUp:    int(s.topics.catchingUp.Load()),
		Dropped:       c.dropped.Load() + s.writers.Dropped(),
		Gaps:          c.gaps.Load(),
		Snapshots:     c.snapshots.Load(),
		QueueFull:     c.queueFull.Load(),
		PingTimeouts:  c.pingTimeouts.Load(),
		WriteFailed:   c.writeFailed.Load(),
		Panics:        c.panics.Load(),
	}
}
