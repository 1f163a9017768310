package live

import (
	"context"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// SubscribeContext is Subscribe with a context, as clients' own operations have one.
func SubscribeContext(s *Server, ctx context.Context, sess *Session, topic string, opts ...SubscribeOption) error {
	var o subscribing
	for _, opt := range opts {
		opt(&o)
	}
	_, err := s.subscribe(ctx, sess, topic, o)
	return err
}

// RestingWorkers is how many goroutines wait for a session.
func RestingWorkers(s *Server) int { return int(s.workers.idle.Load()) }

// RunWorker has a worker call OnConnect of a session, which lasts until the function that
// it returns is called.
func RunWorker(s *Server) (release func()) {
	wait := make(chan struct{})
	s.opts.OnConnect = func(context.Context, *Session) error { <-wait; return nil }
	sess := &Session{server: s, connecting: true} // of no connection
	sess.calls.Lock()
	s.workers.run(sess)
	return func() { close(wait) }
}

// PresenceRuns reports whether the goroutine of presence runs.
func PresenceRuns(s *Server) bool {
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	return s.presence.running
}

// PresenceLeft counts what is held of sessions for presence.
func PresenceLeft(s *Server) int {
	p := &s.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.refs) + len(p.extras) + len(p.untold) + len(p.listeners)
}

// BytesOf is how many bytes the histories of a broker count as.
func BytesOf(b *MemoryBroker) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}

// EndAll has all sessions reach their age now, as after a process stood still.
func EndAll(s *Server) {
	s.mu.Lock()
	for _, sess := range s.sessions {
		sess.oldAt = clock.Now()
	}
	s.mu.Unlock()
	s.endOld()
}

// CallsOf counts the calls that wait for an answer about a topic.
func CallsOf(s *Server, topic string) int {
	t := s.topics.find(topic)
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pins
}

// FillEnds has a server remember as many ends of sessions as it may.
func FillEnds(s *Server) {
	for range maxEnds {
		s.ends.add(SessionEnd{SessionID: randomID(), Error: randomID() + randomID() + randomID()})
	}
}
