package websession

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// What requests cause is logged at a bounded rate: logBurst lines with one message text at
// once, and one more every logEvery. A client could fill a disk otherwise.
const (
	logBurst = 10
	logEvery = time.Second
)

// logLimit counts lines by their message. The zero value is ready for use.
type logLimit struct {
	mu    sync.Mutex // guards kinds
	kinds map[string]*logKind
}

type logKind struct {
	left    int       // lines that may be logged now
	at      time.Time // when left was last counted
	leftOut int       // lines that were not logged since the last one that was
}

// allow reports whether a line may be logged, and how many were left out since the last one
// that was.
func (l *logLimit) allow(message string) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	k := l.kinds[message]
	if k == nil {
		if l.kinds == nil {
			l.kinds = make(map[string]*logKind)
		}
		k = &logKind{left: logBurst, at: now}
		l.kinds[message] = k
	}
	if more := int(now.Sub(k.at) / logEvery); more > 0 {
		k.left = min(k.left+more, logBurst)
		k.at = k.at.Add(time.Duration(more) * logEvery)
	}
	if k.left == 0 {
		k.leftOut++
		return 0, false
	}
	k.left--
	leftOut, k.leftOut = k.leftOut, 0
	return leftOut, true
}

// logLimited logs at a bounded rate for each message text, which must be a constant.
func (m *Manager) logLimited(level slog.Level, message string, args ...any) {
	if !m.opts.Logger.Enabled(context.Background(), level) {
		return
	}
	leftOut, ok := m.logs.allow(message)
	if !ok {
		return
	}
	if leftOut > 0 {
		args = append(args, "left_out", leftOut)
	}
	m.opts.Logger.Log(context.Background(), level, message, args...)
}
