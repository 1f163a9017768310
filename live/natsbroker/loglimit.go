package natsbroker

import (
	"maps"
	"sync"
	"time"
)

// logEvery is how often the same problem is logged at most. A problem that lasts stays visible,
// and a problem that comes and goes does not fill the log.
const logEvery = time.Minute

// maxLogKeys bounds how many different problems are logged within logEvery.
const maxLogKeys = 1000

// logLimit remembers what was logged. Its keys are a few constants, the names of streams, and
// errors of NATS. Some of these errors have texts that vary, so the number of keys is bounded.
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
	if len(l.last) >= maxLogKeys {
		maps.DeleteFunc(l.last, func(_ string, last time.Time) bool { return now.Sub(last) >= logEvery })
		if len(l.last) >= maxLogKeys {
			return false
		}
	}
	l.last[key] = now
	return true
}
