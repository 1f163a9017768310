package live

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// What clients and brokers cause is logged at a bounded rate: ten lines with one message text
// at once, and one a second after that. A client could fill a disk otherwise.
var logRate = rate{every: time.Second, burst: 10 * time.Second}

// logLimiter counts lines by their message.
type logLimiter struct {
	mu    sync.Mutex // guards kinds
	kinds map[string]*logKind
}

type logKind struct {
	limiter
	leftOut int // lines left out since the last one that was logged
}

// allow reports whether a line may be logged, and how many were left out since the last one
// that was.
func (l *logLimiter) allow(message string) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[message]
	if k == nil {
		if l.kinds == nil {
			l.kinds = make(map[string]*logKind)
		}
		k = new(logKind)
		l.kinds[message] = k
	}
	now := clock.Now()
	if time.Duration(max(k.paidUntil, now)-now)+logRate.every > logRate.burst {
		k.leftOut++
		return 0, false
	}
	k.take(1, logRate, now)
	leftOut, k.leftOut = k.leftOut, 0
	return leftOut, true
}

// logOnce logs a message text once in the server's life.
func (s *Server) logOnce(message string) {
	if _, said := s.saidOnce.LoadOrStore(message, nil); !said {
		s.opts.Logger.Info(message)
	}
}

// logOfClient logs at a bounded rate for each message text, which must be a constant.
func (s *Server) logOfClient(level slog.Level, message string, args ...any) {
	if !s.opts.Logger.Enabled(context.Background(), level) {
		return
	}
	leftOut, ok := s.logs.allow(message)
	if !ok {
		return
	}
	if leftOut > 0 {
		args = append(args, "left_out", leftOut)
	}
	s.opts.Logger.Log(context.Background(), level, message, args...)
}
