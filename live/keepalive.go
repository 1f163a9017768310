package live

import (
	"math/rand/v2"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// One timer finds the dead clients of all sessions: it checks when the server last read something
// from each client. It finds the users that hold too much as well. A walk over 100,000 sessions takes
// some milliseconds. As many timers would take 14 MB.

// sweepEvery is the time between two walks: a quarter of PingInterval or PingTimeout, whichever is
// shorter. A check may be done that much too early, which costs little. With MaxBytesPerUser it is
// userBytesEvery at most.
func (s *Server) sweepEvery() time.Duration {
	every := max(min(s.opts.PingInterval, s.opts.PingTimeout)/4, time.Millisecond)
	switch {
	case s.opts.MaxBytesPerUser <= 0:
		return every
	case s.opts.PingInterval < 0:
		return userBytesEvery
	}
	return min(every, userBytesEvery)
}

// startSweeper is called with mu held, when a session was added.
func (s *Server) startSweeper() {
	if s.opts.PingInterval < 0 && s.opts.MaxBytesPerUser <= 0 || s.sweeper != nil {
		return
	}
	s.swept = clock.Now()
	s.sweeper = time.AfterFunc(s.sweepEvery(), s.sweep)
}

// stopSweeper is called with mu held, when the last session was removed.
func (s *Server) stopSweeper() {
	if s.sweeper != nil {
		s.sweeper.Stop()
		s.sweeper = nil
	}
}

// sweep checks all sessions. A walk that comes late means that this process stood still, or had no CPU.
// Then the answers of clients lie in their sockets still, and silence says nothing.
func (s *Server) sweep() {
	every := s.sweepEvery()
	s.mu.Lock()
	late := clock.Now()-s.swept > 2*int64(every)
	s.mu.Unlock()
	sessions := s.snapshot()
	if s.opts.PingInterval >= 0 {
		for _, sess := range sessions {
			if late {
				sess.watch.asked = false // so it is asked once more
			}
			sess.checkAlive(s.opts.PingInterval, s.opts.PingTimeout, every)
		}
	}
	s.boundUsers(sessions)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swept = clock.Now()
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

// pingPhase is a random time, up to half of PingInterval, for which a new client is taken to have been
// silent already. So clients that came in the same second are not all pinged in the same second
// from then on.
func (s *Server) pingPhase() time.Duration {
	if s.opts.PingInterval <= 0 {
		return 0
	}
	return rand.N(s.opts.PingInterval/2 + 1)
}

// watch is what the sweeper knows of a session.
type watch struct {
	pinged       int64  // when it was last pinged, on the clock
	asked        bool   // a ping was sent because the client was silent, and it is silent still
	deadlineFrom int64  // when the ping was written, or later when the client last took something; 0: neither
	taken        uint64 // bytes that the client had taken at the last walk
}

// checkAlive pings a client that has been silent, and ends the session of one that
// stayed so. slack is how long it is until the next walk: each check is done that much
// early, so that a dead client is found within the promised time.
//
// The client's time begins when the ping has left for the socket. A client on a slow connection
// first has to take what was sent before the ping. That is a sign of life too.
func (s *Session) checkAlive(interval, timeout, slack time.Duration) {
	w, now := &s.watch, clock.Now()
	due := now-w.pinged >= int64(interval-slack)
	if s.in.Idle() < interval-slack {
		w.asked = false
		if due && s.wire == wireV1 { // it waits for pings, to know that the server lives
			s.ping(now)
		}
		return
	}
	taken, more := s.out.Progress()
	moved := more && taken > w.taken
	w.taken = taken
	if !w.asked {
		w.asked, w.deadlineFrom = true, 0
		s.ping(now)
		return
	}
	if sent, ok := s.out.PingSent(); ok && w.deadlineFrom == 0 {
		w.deadlineFrom = sent
	}
	if moved {
		w.deadlineFrom = now
	}
	switch {
	case w.deadlineFrom == 0: // how long a socket may take nothing at all is WriteTimeout's
	case now-w.deadlineFrom >= int64(timeout-slack):
		if s.end(closing{code: ClosePingTimeout, reason: "no answer to ping", err: ErrPingTimeout, discard: true}) {
			s.server.counters.pingTimeouts.Add(1)
		}
	case due:
		s.ping(now)
	}
}

func (s *Session) ping(now int64) {
	s.watch.pinged = now
	s.out.Ping()
}
