package live

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// readyTimeout is how long ReadyHandler waits for the broker. Kubernetes and many load balancers wait
// one second for an answer, and the answer needs some time to reach them.
const readyTimeout = 900 * time.Millisecond

// Ready returns nil if the server takes new clients. After Shutdown was called the error wraps
// ErrServerClosed. If the Broker has a method Ready(context.Context) error, the error is that of the
// method. The Broker of natsbroker waits for NATS until ctx ends.
func (s *Server) Ready(ctx context.Context) error {
	s.mu.Lock()
	draining := s.isDraining()
	s.mu.Unlock()
	if draining {
		return fmt.Errorf("%w: it is shutting down", ErrServerClosed)
	}
	b, ok := s.opts.Broker.(interface{ Ready(context.Context) error })
	if !ok {
		return nil
	}
	err := b.Ready(ctx)
	s.noteReady(err)
	return err
}

// noteReady notes the answer of the broker, and logs it if it has changed. A load balancer may ask every
// second.
func (s *Server) noteReady(err error) {
	switch was := s.notReady.Swap(err != nil); {
	case err != nil && !was:
		s.logOfClient(slog.LevelWarn, "live: not ready", "err", err)
	case err == nil && was:
		s.logOfClient(slog.LevelInfo, "live: ready again")
	}
}

// ReadyHandler returns a handler for the health checks of load balancers. It answers with 200 if Ready
// returns nil within 0.9 s, and with 503 and a Retry-After if not. The error of the Broker is logged,
// and not sent. A server that is not ready should get no new clients. It need not be restarted: the
// clients that it has may not notice anything.
func (s *Server) ReadyHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		w.Header().Set("Cache-Control", "no-store")
		if err := s.Ready(ctx); err != nil {
			w.Header().Set("Retry-After", retryAfter(errDraining))
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
}
