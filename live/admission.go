package live

import "slices"

// mayBegin refuses a client that there is no place for, before it costs more than its handshake. If it
// returns nil, the handshake is counted in running.
func (s *Server) mayBegin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusesAll(); err != nil {
		return err
	}
	s.running.Add(1) // under mu, so never after Shutdown has begun to wait
	return nil
}

// reserve counts one more client when it has waited for its turn. So handshakes that wait take no place
// from others. Each reserve is paired with a release, when its session ends or does not begin.
func (s *Server) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusesAll(); err != nil {
		return err
	}
	s.admitted++
	return nil
}

// refusesAll returns why no client is accepted now; mu is held.
func (s *Server) refusesAll() error {
	switch {
	case s.draining:
		return errDraining
	case s.opts.MaxSessions > 0 && s.admitted >= s.opts.MaxSessions:
		return errTooManySessions
	}
	return nil
}

func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admitted--
}

// placesOfUser counts the sessions of one user. Server.mu guards it.
type placesOfUser struct {
	taken int        // by sessions that have not left yet, and by handshakes
	open  []*Session // the oldest first; used only with ReplaceOldest
}

// countsUsers reports whether the sessions of a user are counted.
func (s *Server) countsUsers(user string) bool {
	return user != "" && s.opts.MaxSessionsPerUser > 0
}

// reserveUser is reserve for one user. With ReplaceOldest it always succeeds: another session ends
// when the new one has begun, so that a handshake that fails ends none.
func (s *Server) reserveUser(user string) error {
	if !s.countsUsers(user) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	places := s.perUser[user]
	if places == nil {
		places = new(placesOfUser)
		s.perUser[user] = places
	}
	if places.taken >= s.opts.MaxSessionsPerUser && !s.opts.ReplaceOldest {
		return errTooManyOfUser
	}
	places.taken++
	return nil
}

func (s *Server) releaseUser(user string) {
	if !s.countsUsers(user) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leavePlace(user)
}

// leavePlace is called with mu held.
func (s *Server) leavePlace(user string) {
	places := s.perUser[user]
	places.taken--
	if places.taken == 0 {
		delete(s.perUser, user)
	}
}

// takePlace is called when a session begins. If its user has one session too many now, it returns the
// session that has to end; mu is held.
func (s *Server) takePlace(sess *Session) (replaced *Session) {
	if !s.opts.ReplaceOldest || !s.countsUsers(sess.user) {
		return nil
	}
	places := s.perUser[sess.user]
	places.open = append(places.open, sess)
	if len(places.open) <= s.opts.MaxSessionsPerUser {
		return nil
	}
	// A session that has ended, and has not left yet, makes space without harm.
	i := max(0, slices.IndexFunc(places.open, func(old *Session) bool { return old.ctx.Err() != nil }))
	replaced = places.open[i]
	places.open = slices.Delete(places.open, i, i+1)
	return replaced
}

// givePlaceBack is called when a session has left.
func (s *Server) givePlaceBack(sess *Session) {
	if !s.countsUsers(sess.user) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	places := s.perUser[sess.user]
	if i := slices.Index(places.open, sess); i >= 0 {
		places.open = slices.Delete(places.open, i, i+1)
	}
	s.leavePlace(sess.user)
}

// replace ends a session whose place a newer session of the user has taken. What waits for its client
// is dropped: the client is seldom there, and will not come back.
func (s *Session) replace() {
	if s.end(closing{code: CloseReplaced, reason: "a newer session of the user took its place", err: ErrReplaced, discard: true}) {
		s.server.counters.replaced.Add(1)
	}
}
