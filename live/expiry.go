package live

import (
	"math/rand/v2"
	"time"
)

// One timer for all sessions finds sign-ins that expire, and sessions that reach MaxSessionAge. It runs
// while a session has an expiry or an age. Both are whole seconds, so the timer walks over the sessions
// at most once a second. Expiries are rounded up, so that no session ends before its expiry.

// maxExpiryWait bounds how late an expiry is noticed after the system's clock was set, or the system
// slept. A timer does not notice either. A walk a minute costs nothing that can be measured.
const maxExpiryWait = time.Minute

// ExpireAt closes the session with CloseSignInExpired at a given time, for example when its
// token or its cookie expires. The client then fetches a new token and comes back. The session
// is closed about a second after the given time at the latest, or at once if the time has passed.
// The zero Time means never. Each call replaces the time of an earlier call.
func (s *Session) ExpireAt(t time.Time) {
	t = t.Round(0) // drops the monotonic clock: a token's expiry means the wall clock
	switch {
	case t.IsZero():
		s.expiry.Store(0)
	case t.After(time.Now()):
		at := t.Unix()
		if t.Nanosecond() > 0 {
			at++
		}
		s.expiry.Store(at)
		s.server.expireAt(s, at)
	default:
		s.expire()
	}
}

// expire closes a session whose sign-in has expired.
func (s *Session) expire() {
	s.end(disconnection(CloseSignInExpired, "sign-in expired", closedExpired))
}

// startAging chooses when a new session ends because of MaxSessionAge: at a random age between 80 and
// 100 percent of it. So sessions that began together do not end together. mu is held.
func (s *Server) startAging(sess *Session) {
	if age := s.opts.MaxSessionAge; age > 0 {
		sess.oldAt = time.Now().Add(age - rand.N(age/5+1)).Unix()
		s.expireNext(sess.oldAt)
	}
}

// expireAt sets the timer for a session, unless the session was removed.
func (s *Server) expireAt(sess *Session, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.index < len(s.sessions) && s.sessions[sess.index] == sess {
		s.expireNext(at)
	}
}

// expireNext sets the timer to a time, unless it is set to an earlier time; mu is held.
func (s *Server) expireNext(at int64) {
	if s.expirer != nil && s.nextExpiry <= at {
		return
	}
	s.nextExpiry = at
	if s.expirer == nil {
		s.expirer = time.AfterFunc(expiryWait(at), s.expire)
	} else {
		s.expirer.Reset(expiryWait(at))
	}
}

// expiryWait returns how long the timer waits for an expiry, a Unix time in seconds.
func expiryWait(at int64) time.Duration {
	return max(min(time.Until(time.Unix(at, 0)), maxExpiryWait), 0)
}

// stopExpirer stops the timer when the last session was removed; mu is held.
func (s *Server) stopExpirer() {
	if s.expirer != nil {
		s.expirer.Stop()
		s.expirer = nil
	}
}

// expire closes the sessions whose expiry or age has come, and sets the timer for the next. The timer
// calls it.
func (s *Server) expire() {
	now := time.Now().Unix()
	s.mu.Lock()
	if s.expirer == nil {
		s.mu.Unlock()
		return
	}
	if s.nextExpiry > now {
		s.expirer.Reset(expiryWait(s.nextExpiry))
		s.mu.Unlock()
		return
	}
	s.expirer = nil // a call of ExpireAt during the walk starts a new timer
	sessions := append([]*Session(nil), s.sessions...)
	s.mu.Unlock()

	next := int64(0)
	for _, sess := range sessions {
		if sess.IsClosed() {
			continue
		}
		at, old := sess.expiry.Load(), sess.oldAt
		if at > 0 && at <= now {
			if sess.expiry.CompareAndSwap(at, 0) { // not replaced meanwhile
				sess.expire()
			}
			continue
		}
		if old > 0 && old <= now {
			sess.end(tooOld())
			continue
		}
		for _, at := range [2]int64{at, old} {
			if at > 0 && (next == 0 || at < next) {
				next = at
			}
		}
	}
	if next == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) > 0 {
		s.expireNext(next)
	}
}
