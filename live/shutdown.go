package live

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"time"
)

const (
	// closesPerSecond is how fast Shutdown closes sessions when its ctx leaves
	// the time: a client that comes back costs a handshake and its
	// resubscriptions, about a millisecond of the server that takes it over.
	closesPerSecond = 1000

	// minReturn is the shortest time over which clients are told to come back.
	minReturn = time.Second
)

// Shutdown ends the server. New clients are refused with 503. Every session is sent what is
// queued for it, and is then closed with code 1012. Shutdown waits until every OnClose has
// returned and every connection is closed. Then it closes the broker and returns. If ctx ends
// first, Shutdown cuts the remaining connections, closes the broker, and returns the error of
// ctx.
//
// Shutdown closes a thousand sessions a second, or more if they would otherwise take longer
// than half of the time that ctx leaves. The reason of the close frame names the time over
// which clients should spread their return, for example "restart; return within 5000 ms".
//
// The Shutdown of an http.Server does not know WebSocket connections. So a program calls both,
// and this one first. Run does that.
//
// A callback cannot call Shutdown, which would wait for it: the error is ErrInCallback, and nothing
// is shut down.
func (s *Server) Shutdown(ctx context.Context) error {
	if inCallback() {
		return ErrInCallback
	}
	s.mu.Lock()
	begins := !s.draining
	s.draining = true
	sessions := len(s.sessions)
	s.mu.Unlock()
	s.auths.refuseAll(errDraining)
	s.nodes.hurry()

	if begins && sessions > 0 {
		sleep(ctx, s.opts.ShutdownDelay)
	}
	s.closeAll(ctx)
	err := s.await(ctx)
	s.presence.stop()
	s.nodes.stop()

	if s.closed.Swap(true) {
		return err
	}
	// The broker has time of its own: ctx may have none left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerTimeout)
	defer cancel()
	s.topics.end()
	close(s.workers.over)
	if failed := s.opts.Broker.Close(ctx); failed != nil {
		return errors.Join(err, fmt.Errorf("live: broker did not close: %w", failed))
	}
	return err
}

// inCallback reports whether this goroutine runs a callback: whether code of this package has called the
// code that has called Shutdown. Only Shutdown pays for that.
func inCallback() bool {
	var callers [64]uintptr
	for skip := 3; ; skip += len(callers) { // without Callers, inCallback and Shutdown
		n := runtime.Callers(skip, callers[:])
		frames := runtime.CallersFrames(callers[:n])
		for {
			frame, more := frames.Next()
			if strings.HasPrefix(frame.Function, callbackCaller) && !strings.HasPrefix(frame.Function, runner) {
				return true
			}
			if !more {
				break
			}
		}
		if n < len(callers) {
			return false
		}
	}
}

// callbackCaller begins the names of all methods in this package. Callbacks are called by methods.
var callbackCaller = reflect.TypeFor[Server]().PkgPath() + ".(*"

// runner is the name of the method that calls Shutdown itself.
var runner = callbackCaller + "Server).Run"

// closeAll ends the sessions in random order, evenly over the window.
func (s *Server) closeAll(ctx context.Context) {
	sessions := s.snapshot()
	rand.Shuffle(len(sessions), func(i, j int) { sessions[i], sessions[j] = sessions[j], sessions[i] })
	window := shutdownWindow(ctx, len(sessions))
	s.presence.drain(window)
	start := time.Now()
	for i, sess := range sessions {
		due := window * time.Duration(i) / time.Duration(len(sessions))
		// Pauses below a timer's grain are saved up.
		if ahead := due - time.Since(start); ahead > 5*time.Millisecond {
			sleep(ctx, ahead)
		}
		sess.end(restart(window))
	}
}

func shutdownWindow(ctx context.Context, sessions int) time.Duration {
	window := time.Duration(sessions) * time.Second / closesPerSecond
	if deadline, ok := ctx.Deadline(); ok {
		window = min(window, time.Until(deadline)/2)
	}
	return max(window, 0)
}

func restart(window time.Duration) closing {
	within := max(window, minReturn).Milliseconds()
	return closing{
		code:   CloseRestart,
		reason: fmt.Sprintf("restart; return within %d ms", within),
		err:    ErrServerClosed,
		within: within,
	}
}

// tooOld ends a session that has reached MaxSessionAge. Its client may come back at once: others of the
// same age have other times.
func tooOld() closing {
	within := minReturn.Milliseconds()
	return closing{
		code:   CloseRestart,
		reason: fmt.Sprintf("session is old; return within %d ms", within),
		err:    ErrSessionAge,
		within: within,
	}
}

// await returns when all sessions have gone, or cuts them when ctx ends.
func (s *Server) await(ctx context.Context) error {
	gone := make(chan struct{})
	go func() {
		s.running.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	left := append([]*Session(nil), s.sessions...)
	for sess := range s.lingering {
		left = append(left, sess)
	}
	s.mu.Unlock()
	for _, sess := range left {
		sess.end(restart(0))
		sess.out.Kill()
	}
	return ctx.Err()
}
