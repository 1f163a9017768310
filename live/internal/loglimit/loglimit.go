// Package loglimit logs what clients and brokers cause at a bounded rate. They could fill a disk
// otherwise.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// burst lines with one message text are logged at once, and one each every after that.
const (
	burst = 10
	every = time.Second
)

// Limiter counts lines by their message text. The zero value is ready for use.
type Limiter struct {
	mu    sync.Mutex // guards kinds; no lock is taken under it
	kinds map[string]*kind
}

type kind struct {
	left    int   // lines that may be logged now
	at      int64 // when left was last counted, on the clock of package clock
	leftOut int   // lines that were not logged since the last one that was
}

// Log logs a message, which must be a constant, unless there were too many of it. The next one
// then says how many were left out.
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

// allow reports whether a line may be logged, and how many were left out since the last one
// that was.
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
	if more := (now - k.at) / int64(every); more > 0 {
		k.left = int(min(int64(k.left)+more, burst))
		k.at += more * int64(every)
	}
	if k.left == 0 {
		k.leftOut++
		return 0, false
	}
	k.left--
	leftOut, k.leftOut = k.leftOut, 0
	return leftOut, true
}
