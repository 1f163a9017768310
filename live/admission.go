package live

// reserve counts one more client, before it costs more than its handshake. Each
// reserve is paired with a release, when its session ends or does not begin.
func (s *Server) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return errDraining
	case s.opts.MaxSessions > 0 && s.admitted >= s.opts.MaxSessions:
		return errTooManySessions
	}
	s.admitted++
	s.running.Add(1) // under mu, so never after Shutdown has begun to wait
	return nil
}

// reserveUser is the same for one user.
func (s *Server) reserveUser(user string) error {
	if user == "" || s.opts.MaxSessionsPerUser <= 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perUser[user] >= s.opts.MaxSessionsPerUser {
		return errTooManyOfUser
	}
	s.perUser[user]++
	return nil
}

func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admitted--
}

func (s *Server) releaseUser(user string) {
	if user == "" || s.opts.MaxSessionsPerUser <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.perUser[user]--
	if s.perUser[user] == 0 {
		delete(s.perUser, user)
	}
}
