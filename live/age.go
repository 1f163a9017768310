package live

import (
	"math/rand/v2"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// One timer for all sessions ends those that reach MaxSessionAge. It runs while there are sessions, if
// MaxSessionAge is set. Ages are counted on the monotonic clock: when the system's clock is set, no
// session gets older.

// maxAgeGrain bounds the time between two walks over the sessions. A walk over 100,000 sessions takes some
// milliseconds.
const maxAgeGrain = time.Second

// ageGrain is the time between two walks. A session ends that much later than it is due, at most.
func (s *Server) ageGrain() time.Duration {
	return min(s.opts.MaxSessionAge/20, maxAgeGrain)
}

// startAging chooses when a new session ends because of MaxSessionAge: at a random age between 80 and
// 100 percent of it. So sessions that began together do not end together. mu is held.
func (s *Server) startAging(sess *Session) {
	age := s.opts.MaxSessionAge
	if age <= 0 {
		return
	}
	latest := age - s.ageGrain()
	sess.oldAt = clock.Now() + int64(latest-rand.N(latest-age/5*4+1))
	if s.ager == nil || sess.oldAt < s.nextAge {
		s.setAger(sess.oldAt)
	}
}

// setAger sets the timer to a time on the clock, or to ageGrain from now if that is later; mu is held.
func (s *Server) setAger(at int64) {
	s.nextAge = at
	wait := max(time.Duration(at-clock.Now()), s.ageGrain())
	if s.ager == nil {
		s.ager = time.AfterFunc(wait, s.endOld)
	} else {
		s.ager.Reset(wait)
	}
}

// stopAger stops the timer when the last session was removed; mu is held.
func (s *Server) stopAger() {
	if s.ager != nil {
		s.ager.Stop()
		s.ager = nil
	}
}

// endOld ends the sessions that have reached their age, and sets the timer for the next. The timer calls
// it.
func (s *Server) endOld() {
	now := clock.Now()
	var old []*Session
	next := int64(0)
	s.mu.Lock()
	for _, sess := range s.sessions {
		switch {
		case sess.oldAt <= now:
			old = append(old, sess)
		case next == 0 || sess.oldAt < next:
			next = sess.oldAt
		}
	}
	s.stopAger()
	if next > 0 {
		s.setAger(next)
	}
	s.mu.Unlock()
	for _, sess := range old {
		sess.end(tooOld(len(old)))
	}
}

// tooOld says how a session ends that has reached MaxSessionAge. sessions is how many have reached it at
// the same time. As a rule they are few. They are many if MaxSessionAge is short, or if the process
// stood still.
func tooOld(sessions int) closing {
	return comeBack("session is old", closedAge, ErrSessionAge, returnWindow(sessions))
}
