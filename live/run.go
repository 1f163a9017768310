package live

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// runTimeout is how long Run takes to end if nobody says. Docker kills a process ten seconds after
// SIGTERM, Kubernetes after thirty.
const runTimeout = 9 * time.Second

// Run calls serve, which serves HTTP until it is told to stop, and returns when the process was told to
// end, by SIGTERM or by Ctrl-C, and has ended in order: Run calls Shutdown, then each stop, and waits
// for serve. All of it takes within at most. 0: nine seconds. A second signal ends the process at once.
//
// With net/http, where web is an *http.Server:
//
//	err := server.Run(web.ListenAndServe, 0, web.Shutdown)
//
// With mizu, which stops by itself when SIGTERM comes:
//
//	err := server.Run(func() error { return app.Listen(":8080") }, 0)
//
// The error is nil after an end in order. If serve returns before a signal has come, for example
// because its port is taken, Run shuts down too, and returns the error of serve.
func (s *Server) Run(serve func() error, within time.Duration, stop ...func(context.Context) error) error {
	told, forget := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer forget()
	served := make(chan error, 1)
	go func() { served <- serve() }() // ends when it is told to stop

	var failed error
	returned := false
	select {
	case failed = <-served:
		returned = true
	case <-told.Done():
		forget() // so a second signal is not ours
	}
	if within <= 0 {
		within = runTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	errs := []error{s.Shutdown(ctx)}
	for _, f := range stop {
		errs = append(errs, f(ctx))
	}
	if !returned {
		select {
		case failed = <-served:
		case <-ctx.Done():
			failed = errors.New("live: Run's serve did not return in time; give Run a function that stops it")
		}
	}
	if errors.Is(failed, http.ErrServerClosed) {
		failed = nil
	}
	return errors.Join(append([]error{failed}, errs...)...)
}
