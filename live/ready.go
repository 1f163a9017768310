package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// readyTimeout is how long ReadyHandler waits for the broker. Kubernetes and many load balancers wait a
// second for an answer.
const readyTimeout = 900 * time.Millisecond

// Ready reports whether the server takes new clients. The error is nil, wraps ErrServerClosed after
// Shutdown was called, or is that of the Broker, if it has a method Ready(context.Context) error:
// natsbroker's waits until ctx ends for NATS to be there.
func (s *Server) Ready(ctx context.Context) error {
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if draining {
		return fmt.Errorf("%w: it is shutting down", ErrServerClosed)
	}
	if b, ok := s.opts.Broker.(interface{ Ready(context.Context) error }); ok {
		return b.Ready(ctx)
	}
	return nil
}

// ReadyHandler answers the health checks of load balancers: with 200 if Ready returns nil within a second, and
// else with 503. What the Broker says is logged, and not sent. A server that is not ready should get
// no new clients. It need not be restarted: those that it has may be content.
func (s *Server) ReadyHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		w.Header().Set("Cache-Control", "no-store")
		if err := s.Ready(ctx); err != nil {
			if !errors.Is(err, ErrServerClosed) {
				s.logOfClient(slog.LevelWarn, "live: not ready", "err", err)
			}
			w.Header().Set("Retry-After", retryAfter(errDraining))
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
}
