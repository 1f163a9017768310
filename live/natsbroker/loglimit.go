package natsbroker

import (
	"sync"
	"time"
)

// logEvery is how often the same problem is logged at most. A problem that lasts stays visible,
// and a problem that comes and goes does not fill the log.
const logEvery = time.Minute

// logLimit remembers what was logged. Its keys are a few constants and the names of streams.
type logLimit struct {
	mu   sync.Mutex
	last map[string]time.Time // when each key was last logged
}

// due reports whether a problem may be logged now. If so, it counts as logged.
func (l *logLimit) due(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, ok := l.last[key]; ok && now.Sub(last) < logEvery {
		return false
	}
	if l.last == nil {
		l.last = make(map[string]time.Time)
	}
	l.last[key] = now
	return true
}
