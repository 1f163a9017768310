package live

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

const (
	// sessionsFifths is how many fifths of ShutdownTimeout Shutdown gets. The rest is for the stop
	// functions: HTTP requests seldom take more than the 1.8 s that they get of the default.
	sessionsFifths = 4

	// serveGrace is how long serve has to return after it was stopped, even if no time is left. serve
	// returns at once, but its goroutine may have to wait for a CPU.
	serveGrace = 100 * time.Millisecond
)

// Run serves HTTP until the process is told to end, and then ends the server in order. serve is the
// function that serves HTTP. It must return after a stop function was called, or by itself after the
// signal.
//
// The end begins with SIGTERM or Ctrl-C, when ctx ends, or when serve returns. Run then calls Shutdown,
// then each stop function, and waits until serve has returned. That takes Options.ShutdownTimeout at
// most, if the Broker does not hang. Shutdown has four fifths of that time, with ShutdownDelay. Then the
// sessions that are left are cut. So at least a fifth is for the stop functions, and web.Shutdown below
// can wait for HTTP requests. A second signal ends the process at once. A signal that the process ignores
// stays ignored (see signal.Ignore), as Ctrl-C in a program that a shell script has started with "&".
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
	told, forget := notifyContext(ctx)
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
	timeout := s.opts.ShutdownTimeout
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	sessions, cancelSessions := context.WithTimeout(ending, timeout/5*sessionsFifths)
	defer cancelSessions()
	errs := []error{s.Shutdown(sessions)}
	for _, f := range stop {
		errs = append(errs, f(ending))
	}
	if !returned {
		failed = awaitServe(ending, served)
	}
	if errors.Is(failed, http.ErrServerClosed) {
		failed = nil
	}
	return errors.Join(append([]error{failed}, errs...)...)
}

// notifyContext returns a context that ends with ctx, with SIGTERM and with Ctrl-C, and a function that
// has these signals act as before. Signals that are ignored stay ignored.
func notifyContext(ctx context.Context) (context.Context, context.CancelFunc) {
	signals := slices.DeleteFunc([]os.Signal{os.Interrupt, syscall.SIGTERM}, signal.Ignored)
	if len(signals) == 0 { // without a list, NotifyContext would take all signals
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, signals...)
}

// awaitServe returns the error of serve, which was stopped. ctx ends when serve must have returned.
func awaitServe(ctx context.Context, served <-chan error) error {
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-served:
		return err
	case <-time.After(serveGrace):
		return errors.New("live: Run's serve did not return in time; give Run a function that stops it")
	}
}
