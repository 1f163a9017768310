package live

import (
	"math/rand/v2"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// The sweeper is one timer for all sessions. At each walk over the sessions it checks when the server
// last read something from each client, and so finds dead clients. It also finds users who hold more
// than MaxBytesPerUser. A walk over 100,000 sessions takes some milliseconds. A timer for each of them
// would take 14 MB.

// sweepEvery is the time between two walks: a quarter of PingInterval or PingTimeout, whichever is
// shorter. A client is pinged up to that much too early, which costs little. A millisecond at least
// keeps a tiny PingTimeout from taking a whole CPU. With MaxBytesPerUser it is at most userBytesEvery.
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

// startSweeper starts the sweeper when a session was added, unless it runs or has nothing to check; mu
// is held.
func (s *Server) startSweeper() {
	if s.opts.PingInterval < 0 && s.opts.MaxBytesPerUser <= 0 || s.sweeper != nil {
		return
	}
	s.swept = clock.Now()
	s.sweeper = time.AfterFunc(s.sweepEvery(), s.sweep)
}

// stopSweeper stops the sweeper when the last session was removed; mu is held.
func (s *Server) stopSweeper() {
	if s.sweeper != nil {
		s.sweeper.Stop()
		s.sweeper = nil
	}
}

// sweep walks over all sessions and checks them. A walk that comes late means that this process was
// stopped, or had no CPU. Then the answers of clients may lie in their sockets unread. So the silence
// of a client means nothing, and the client is pinged once more.
func (s *Server) sweep() {
	every := s.sweepEvery()
	s.mu.Lock()
	late := clock.Now()-s.swept > 2*int64(every)
	s.mu.Unlock()
	sessions := s.snapshot()
	if s.opts.PingInterval >= 0 {
		for _, sess := range sessions {
			if late {
				sess.watch.asked, sess.watch.deadlineFrom = false, 0 // so that checkAlive pings it again
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

// pingPhase is a random time of at most half of PingInterval. A new client counts as having been silent
// for that time. So clients that came in the same second are not pinged in the same second.
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
	deadlineFrom int64  // when PingTimeout began: see checkAlive and checkUnread; 0: not yet
	taken        uint64 // bytes that the client had taken at the last walk
}

// checkAlive pings a client that has been silent for interval. It ends the session if the client then
// stays silent for timeout. slack is the time until the next walk: each check is done that much early,
// so that a dead client is found within the promised time.
//
// timeout begins when the ping was written to the socket. A client on a slow connection first has to
// take the bytes before the ping. That is a sign of life, and timeout begins again. The client's kernel takes
// them also if its program stands still. So on a busy topic such a client is found when that kernel's buffer is
// full. The window that the kernel offers tells no more: with small packets it may stand still while the
// program reads.
func (s *Session) checkAlive(interval, timeout, slack time.Duration) {
	w, now := &s.watch, clock.Now()
	if s.in.Paused() {
		s.checkUnread(interval, timeout, slack)
		return
	}
	due := now-w.pinged >= int64(interval-slack)
	if s.in.Idle() < interval-slack {
		w.asked, w.deadlineFrom = false, 0
		if due && s.wire == wireV1 { // the client needs pings to know that the server lives
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
	case w.deadlineFrom == 0: // the ping was not written yet: WriteTimeout ends a session whose socket takes nothing
	case now-w.deadlineFrom >= int64(timeout-slack):
		s.endUnanswered()
	case due:
		s.ping(now)
	}
}

// checkUnread checks a client that the server does not read for now. Its answers would lie unread, so its silence means
// nothing. It is pinged all the same. If it has left, its kernel resets the connection at the ping: see HasLeft. The
// end of the connection itself may be behind bytes for which this kernel has no space. If it has vanished, its kernel
// acknowledges nothing. The session then ends after timeout. It begins at the first walk that finds bytes in flight.
// That may be one walk after the ping, so the ping is one walk earlier than checkAlive's.
func (s *Session) checkUnread(interval, timeout, slack time.Duration) {
	w, now := &s.watch, clock.Now()
	taken, _ := s.out.Progress()
	moved := taken > w.taken
	w.taken = taken
	if w.asked {
		w.asked, w.deadlineFrom = false, 0
	}
	switch {
	case moved || !s.out.InFlight():
		w.deadlineFrom = 0
	case w.deadlineFrom == 0:
		w.deadlineFrom = now
	case now-w.deadlineFrom >= int64(timeout-slack):
		s.endUnanswered()
		return
	}
	if now-w.pinged >= int64(interval-2*slack) {
		s.ping(now)
	}
}

// endUnanswered ends the session of a client that is taken for dead.
func (s *Session) endUnanswered() {
	s.end(closing{code: ClosePingTimeout, reason: "no answer to ping", err: ErrPingTimeout, why: closedPingTimeout, discard: true})
}

func (s *Session) ping(now int64) {
	s.watch.pinged = now
	s.out.Ping()
}
