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
	// closesPerSecond is how many sessions Shutdown closes in a second, if its ctx leaves the time.
	// A client that comes back costs the server that takes it about a millisecond of CPU time, for
	// the handshake and the subscriptions.
	closesPerSecond = 1000

	// minReturn is the shortest time over which clients are told to come back. It keeps the clients
	// of a server with few sessions from coming back at the same moment.
	minReturn = time.Second

	// timerGrain is the shortest pause that closeAll makes. Timers are not exact to less than a few
	// milliseconds, so shorter pauses are added up.
	timerGrain = 5 * time.Millisecond
)

// Shutdown ends the server. New clients are refused with 503. If the server has sessions,
// Shutdown waits for Options.ShutdownDelay. Then every session is sent what is queued for it, and
// is closed with code 1012. Shutdown waits until every OnClose has returned and every connection
// is closed. Then it closes the broker and returns. If ctx ends first, Shutdown cuts the remaining
// connections, closes the broker, and returns the error of ctx. The error may also wrap that of
// the broker's Close.
//
// Shutdown closes a thousand sessions a second, or more if they would otherwise take longer
// than half of the time that ctx leaves. The reason of the close frame names the time over
// which clients should spread their return, for example "restart; return within 5000 ms".
//
// The Shutdown of an http.Server does not know WebSocket connections. So a program calls both,
// and this one first. Run does that.
//
// Shutdown waits for callbacks, so a callback must not call it. If one does, the error is
// ErrInCallback, and nothing is shut down.
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
	// The broker gets brokerTimeout to close, because ctx may have ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerTimeout)
	defer cancel()
	s.topics.end()
	close(s.workers.over)
	if failed := s.opts.Broker.Close(ctx); failed != nil {
		return errors.Join(err, fmt.Errorf("live: broker did not close: %w", failed))
	}
	return err
}

// inCallback reports whether Shutdown was called in a callback. That is so if a method of this package
// other than Run is among the callers of Shutdown. Only Shutdown pays for the walk over its stack.
func inCallback() bool {
	var callers [64]uintptr                 // more than most stacks have; the loop reads a deeper stack in pieces
	for skip := 3; ; skip += len(callers) { // leaves out Callers, inCallback and Shutdown
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

// callbackCaller is the beginning of the names of all methods with a pointer receiver in this package.
// Such methods call the callbacks.
var callbackCaller = reflect.TypeFor[Server]().PkgPath() + ".(*"

// runner is the name of Run, which calls Shutdown and is no callback.
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
		if ahead := due - time.Since(start); ahead > timerGrain {
			sleep(ctx, ahead)
		}
		sess.end(restart(window))
	}
}

// shutdownWindow returns the time over which sessions are closed, at most half of what ctx leaves.
func shutdownWindow(ctx context.Context, sessions int) time.Duration {
	window := time.Duration(sessions) * time.Second / closesPerSecond
	if deadline, ok := ctx.Deadline(); ok {
		window = min(window, time.Until(deadline)/2)
	}
	return max(window, 0)
}

// restart says how Shutdown ends a session. window is the time over which all sessions are closed.
func restart(window time.Duration) closing {
	within := max(window, minReturn).Milliseconds()
	return closing{
		code:   CloseRestart,
		reason: fmt.Sprintf("restart; return within %d ms", within),
		err:    ErrServerClosed,
		why:    closedShutdown,
		within: within,
	}
}

// tooOld says how a session ends that has reached MaxSessionAge. Its client may come back within
// minReturn, because sessions that began together do not end together.
func tooOld() closing {
	within := minReturn.Milliseconds()
	return closing{
		code:   CloseRestart,
		reason: fmt.Sprintf("session is old; return within %d ms", within),
		err:    ErrSessionAge,
		why:    closedAge,
		within: within,
	}
}

// await waits until all sessions have gone. If ctx ends first, it cuts the remaining sessions, and
// returns the error of ctx.
func (s *Server) await(ctx context.Context) error {
	gone := make(chan struct{})
	go func() { // ends when the last handshake, callback and connection has ended
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
