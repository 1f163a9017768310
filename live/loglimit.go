package live

import "log/slog"

// logOnce logs a message text once in the server's life.
func (s *Server) logOnce(message string) {
	if _, logged := s.loggedOnce.LoadOrStore(message, nil); !logged {
		s.opts.Logger.Info(message)
	}
}

// logOfClient logs what clients and brokers cause, at a bounded rate for each message text, which
// must be a constant.
func (s *Server) logOfClient(level slog.Level, message string, args ...any) {
	s.logs.Log(s.opts.Logger, level, message, args...)
}
