package natsbroker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
)

// levelTrace is four levels under slog.LevelDebug. A logger with this level gets every line of
// the NATS protocol, without the payloads.
const levelTrace = slog.LevelDebug - 4

// serverLogger passes the log of the embedded server to a slog.Logger. It has no Close, which
// the server would call.
type serverLogger struct {
	log        *slog.Logger
	fatal      chan error   // holds the first fatal error until it is read
	onProblem  func(string) // called with the text of each warning and error
	restarting *atomic.Bool // true while JetStream restarts, and finds files that a full disk has cut short
	hasMender  bool         // a mender reports what menderReports says
	limit      logLimit     // of menderReports, if there is no mender, and of twinReports
}

func newServerLogger(l *slog.Logger, node string) *serverLogger {
	return &serverLogger{log: l.With("node", node), fatal: make(chan error, 1), onProblem: func(string) {}, restarting: new(atomic.Bool)}
}

func (s *serverLogger) enabled(level slog.Level) bool {
	return s.log.Enabled(context.Background(), level)
}

// Noticef logs for debugging only: the server reports each step of its start and end, which the
// user of a library does not need.
func (s *serverLogger) Noticef(format string, v ...any) { s.logf(slog.LevelDebug, format, v...) }

func (s *serverLogger) Debugf(format string, v ...any) { s.logf(slog.LevelDebug, format, v...) }
func (s *serverLogger) Tracef(format string, v ...any) { s.logf(levelTrace, format, v...) }

func (s *serverLogger) Warnf(format string, v ...any)  { s.problem(slog.LevelWarn, format, v...) }
func (s *serverLogger) Errorf(format string, v ...any) { s.problem(slog.LevelError, format, v...) }

// menderReports are parts of the server's messages about a store that is full or cannot be
// written to. The server repeats them for each stream. The mender reports the problem once,
// with advice. A store in memory has no mender, so there the messages are logged, but each of
// them only once in a while.
var menderReports = []string{
	"ritical write error", "failed to store a msg", "Error applying stream entries", "JetStream out of", "disabling JetStream",
	"resource limits exceeded", "account limits exceeded",
}

// twinReports are parts of the server's messages while another node has its name. The server repeats
// them several times a second. Each of them is logged once in a while.
var twinReports = []string{twinReport, "processRemoteSub Parse Error"}

const twinReport = "has a duplicate name"

// problem logs a warning or an error, and tells onProblem.
func (s *serverLogger) problem(level slog.Level, format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	s.onProblem(text)
	if level < slog.LevelError && s.restarting.Load() {
		level = slog.LevelDebug
	}
	for _, said := range menderReports {
		if strings.Contains(text, said) && (s.hasMender || !s.limit.due(said)) {
			level = slog.LevelDebug
		}
	}
	for _, said := range twinReports {
		if strings.Contains(text, said) && !s.limit.due(said) {
			level = slog.LevelDebug
		}
	}
	s.logf(level, "%s", text)
}

// Fatalf does not end the process. The server gives up by itself, and the goroutine that
// started it reads the reason from fatal.
func (s *serverLogger) Fatalf(format string, v ...any) {
	select {
	case s.fatal <- fmt.Errorf(format, v...):
	default:
	}
	s.logf(slog.LevelError, format, v...)
}

func (s *serverLogger) logf(level slog.Level, format string, v ...any) {
	if s.enabled(level) {
		s.log.Log(context.Background(), level, "natsbroker: server: "+fmt.Sprintf(format, v...))
	}
}
