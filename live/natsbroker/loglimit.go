package natsbroker

import (
	"sync"
	"time"
)

// saysEvery is how often the same thing is logged at most: what lasts is seen, and what
// comes and goes fills no log.
const saysEvery = time.Minute

// logLimit remembers what was logged. Its keys are a few constants and names of streams.
type logLimit struct {
	mu   sync.Mutex
	last map[string]time.Time // when each was logged
}

// due reports whether a thing is to be logged now, and takes it as logged.
func (l *logLimit) due(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, ok := l.last[key]; ok && now.Sub(last) < saysEvery {
		return false
	}
	if l.last == nil {
		l.last = make(map[string]time.Time)
	}
	l.last[key] = now
	return true
}
