package live

import (
	"math/rand/v2"
	"time"
)

// Dead clients are found by one timer for all sessions, not one each: it looks
// at when each was last heard of. A walk over 100,000 sessions takes some
// milliseconds; as many timers would take 14 MB.

// sweepEvery is the time between two walks: a quarter of the shorter of the two
// times that it watches, so that acting that much early costs little.
func (s *Server) sweepEvery() time.Duration {
	return max(min(s.opts.PingInterval, s.opts.PingTimeout)/4, time.Millisecond)
}

// startSweeper is called with mu held, when a session was added.
func (s *Server) startSweeper() {
	if s.opts.PingInterval < 0 || s.sweeper != nil {
		return
	}
	s.sweeper = time.AfterFunc(s.sweepEvery(), s.sweep)
}

// stopSweeper is called with mu held, when the last session was removed.
func (s *Server) stopSweeper() {
	if s.sweeper != nil {
		s.sweeper.Stop()
		s.sweeper = nil
	}
}

func (s *Server) sweep() {
	for _, sess := range s.snapshot() {
		sess.checkAlive(s.opts.PingInterval, s.opts.PingTimeout, s.sweepEvery())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sweeper != nil {
		s.sweeper.Reset(s.sweepEvery())
	}
}

// snapshot returns the sessions that are open now.
func (s *Server) snapshot() []*Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Session(nil), s.sessions...)
}

// pingPhase is how long a new client is taken to have been silent already, up
// to half of PingInterval: clients that came in one second are not all pinged
// in one second for ever after.
func (s *Server) pingPhase() time.Duration {
	if s.opts.PingInterval <= 0 {
		return 0
	}
	return rand.N(s.opts.PingInterval/2 + 1)
}
