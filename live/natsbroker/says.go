package natsbroker

import (
	"sync"
	"time"
)

// saysEvery is how often the same thing is logged at most: what lasts is seen, and what
// comes and goes fills no log.
const saysEvery = time.Minute

// says remembers what was logged. Its keys are a few constants and names of streams.
type says struct {
	mu   sync.Mutex
	last map[string]time.Time // when each was logged
}

// due reports whether a thing is to be logged now, and takes it as logged.
func (s *says) due(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if last, ok := s.last[key]; ok && now.Sub(last) < saysEvery {
		return false
	}
	if s.last == nil {
		s.last = make(map[string]time.Time)
	}
	s.last[key] = now
	return true
}
