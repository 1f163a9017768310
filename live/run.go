package live

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

// Run serves HTTP until the process is told to end, and then ends the server in order. serve is the
// function that serves HTTP. It must return after a stop function was called, or by itself after the
// signal.
//
// The end begins with SIGTERM or Ctrl-C, when ctx ends, or when serve returns. Run then calls Shutdown,
// then each stop function, and waits until serve has returned. That takes Options.ShutdownTimeout at
// most. A second signal ends the process at once.
//
// With net/http, where web is an *http.Server:
//
//	err := server.Run(context.Background(), web.ListenAndServe, web.Shutdown)
//
// With mizu, which stops by itself when SIGTERM comes:
//
//	err := server.Run(context.Background(), func() error { return app.Listen(":8080") })
//
// The error is nil after an end in order. It joins the errors of serve, Shutdown and the stop
// functions. So if serve fails because its port is taken, the error says so. http.ErrServerClosed of
// serve is no error.
func (s *Server) Run(ctx context.Context, serve func() error, stop ...func(context.Context) error) error {
	told, forget := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer forget()
	served := make(chan error, 1)
	go func() { served <- serve() }() // ends when serve returns

	var failed error
	returned := false
	select {
	case failed = <-served:
		returned = true
	case <-told.Done():
		forget() // so that a second signal ends the process
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
