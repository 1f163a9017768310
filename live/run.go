package live

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

// Run calls serve, which serves HTTP until it is told to stop, and returns when the process was told to
// end, by SIGTERM or by Ctrl-C, or ctx has ended, and all has ended in order: Run calls Shutdown, then
// each stop, and waits for serve. All of it takes Options.ShutdownTimeout at most. A second signal ends
// the process at once.
//
// With net/http, where web is an *http.Server:
//
//	err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown)
//
// With mizu, which stops by itself when SIGTERM comes:
//
//	err := server.Run(context.Background(), func() error { return app.Listen(":8080") })
//
// The error is nil after an end in order. If serve returns before that, for example because its port
// is taken, Run shuts down too, and returns the error of serve.
func (s *Server) Run(ctx context.Context, serve func() error, stop ...func(context.Context) error) error {
	told, forget := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
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
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.ShutdownTimeout)
	defer cancel()
	errs := []error{s.Shutdown(ending)}
	for _, f := range stop {
		errs = append(errs, f(ending))
	}
	if !returned {
		select {
		case failed = <-served:
		case <-ending.Done():
			failed = errors.New("live: Run's serve did not return in time; give Run a function that stops it")
		}
	}
	if errors.Is(failed, http.ErrServerClosed) {
		failed = nil
	}
	return errors.Join(append([]error{failed}, errs...)...)
}
