// Package loglimit bounds the rate of log lines that clients and brokers cause. Otherwise they could
// fill a disk.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// Lines are counted by their message text. The first burst lines with a text are logged at once.
// After that one line is logged in every interval.
const (
	burst    = 10
	interval = time.Second
)

// Limiter counts lines by their message text. The zero value is ready for use.
type Limiter struct {
	mu    sync.Mutex // guards kinds; no lock is taken under it
	kinds map[string]*kind
}

type kind struct {
	left    int   // how many lines may be logged now
	at      int64 // when left was last counted, on the clock of package clock
	leftOut int   // how many lines were not logged since the last line that was logged
}

// Log logs a line, unless there were too many with the same message. The next line that is logged
// then says how many were left out. message must be a constant, because the Limiter keeps all
// messages.
func (l *Limiter) Log(logger *slog.Logger, level slog.Level, message string, args ...any) {
	if !logger.Enabled(context.Background(), level) {
		return
	}
	leftOut, ok := l.allow(message)
	if !ok {
		return
	}
	if leftOut > 0 {
		args = append(args, "left_out", leftOut)
	}
	logger.Log(context.Background(), level, message, args...)
}

// allow reports whether a line may be logged, and how many were left out since the last line that
// was logged.
func (l *Limiter) allow(message string) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := clock.Now()
	k := l.kinds[message]
	if k == nil {
		if l.kinds == nil {
			l.kinds = make(map[string]*kind)
		}
		k = &kind{left: burst, at: now}
		l.kinds[message] = k
	}
	if more := (now - k.at) / int64(interval); more > 0 {
		k.left = int(min(int64(k.left)+more, burst))
		k.at += more * int64(interval)
	}
	if k.left == 0 {
		k.leftOut++
		return 0, false
	}
	k.left--
	leftOut, k.leftOut = k.leftOut, 0
	return leftOut, true
}
