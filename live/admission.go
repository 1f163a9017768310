package live

import "slices"

// beginHandshake counts a handshake in running. If the server takes no clients now, it returns the
// refusal instead, so that the client costs no more.
func (s *Server) beginHandshake() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusesAll(); err != nil {
		return err
	}
	s.running.Add(1) // mu is held, so Shutdown does not wait for running yet
	return nil
}

// reserve takes one of the MaxSessions places for a handshake whose turn for OnAuth has come. A
// handshake that waits for its turn has no place. The place is given back with release, when the
// session ends or does not begin.
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

// release gives back the place that reserve took.
func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admitted--
}

// placesOfUser counts the sessions of one user. Server.mu guards it.
type placesOfUser struct {
	taken int        // places of sessions that have not left yet, and of handshakes
	open  []*Session // sessions, the oldest first; used only with ReplaceOldest
}

// countsUsers reports whether the sessions of this user are counted.
func (s *Server) countsUsers(user string) bool {
	return user != "" && s.opts.MaxSessionsPerUser > 0
}

// reserveUser takes one of the MaxSessionsPerUser places for a handshake. It is given back with
// releaseUser if no session begins, and with givePlaceBack if one does. With ReplaceOldest it always
// succeeds. The oldest session ends only when the new session has begun, so a handshake that fails
// ends no session.
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

// releaseUser gives back the place that reserveUser took, if no session has begun.
func (s *Server) releaseUser(user string) {
	if !s.countsUsers(user) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leavePlace(user)
}

// leavePlace gives back one place of a user; mu is held.
func (s *Server) leavePlace(user string) {
	places := s.perUser[user]
	places.taken--
	if places.taken == 0 {
		delete(s.perUser, user)
	}
}

// takePlace is called when a session begins. If its user now has one session too many, it returns the
// session that must end; nil: none must. mu is held.
func (s *Server) takePlace(sess *Session) (replaced *Session) {
	if !s.opts.ReplaceOldest || !s.countsUsers(sess.user) {
		return nil
	}
	places := s.perUser[sess.user]
	places.open = append(places.open, sess)
	if len(places.open) <= s.opts.MaxSessionsPerUser {
		return nil
	}
	// A session that has ended, and has not left yet, is preferred: nobody notices that it is replaced.
	i := max(0, slices.IndexFunc(places.open, func(old *Session) bool { return old.ctx.Err() != nil }))
	replaced = places.open[i]
	places.open = slices.Delete(places.open, i, i+1)
	return replaced
}

// givePlaceBack gives back the place of a session that has left.
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

// replace ends a session whose place a newer session of the user has taken. The frames that wait for
// its client are dropped: the client is seldom still there, and does not come back.
func (s *Session) replace() {
	s.end(closing{code: CloseReplaced, reason: "a newer session of the user took its place", err: ErrReplaced, why: closedReplaced, discard: true})
}
