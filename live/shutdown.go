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

	"github.com/livetopic/livetopic/live/internal/closecode"
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

// Shutdown ends the server. New clients are refused with 503. For Options.ShutdownDelay that is all.
// Then every session is sent what is queued for it, and is closed with code 1012. Shutdown waits until
// every OnClose has returned and every connection is closed. Then it closes the broker, which has five
// seconds for that, and returns. If ctx ends first, Shutdown cuts the remaining connections, ends the
// contexts of callbacks and of OnAuth, closes the broker, and returns the error of ctx. The error may
// also wrap that of the broker's Close.
//
// Shutdown closes a thousand sessions a second, or more if they would otherwise take longer
// than half of the time that ctx leaves. The reason of the close frame names the time over
// which clients should spread their return, for example "restart; return within 5000 ms".
//
// Shutdown may be called more than once, also at the same time. The first call's ctx sets the pace. A
// later call waits for the same end, and changes nothing unless its ctx ends first: then the remaining
// connections are cut for all calls. So a call with a ctx that has ended already ends the server at
// once. Every call returns after the broker is closed. Only a call whose ctx has ended returns the error
// of a context. The others wait for each OnClose, also if the connections were cut.
//
// The Shutdown of an http.Server does not know WebSocket connections. So a program calls both,
// and this one first. Run does that.
//
// Shutdown waits for callbacks, so a callback must not call it. If one does, the error is
// ErrInCallback, and nothing is shut down. That holds for a callback of another Server too. A callback
// calls Shutdown in a goroutine of its own.
func (s *Server) Shutdown(ctx context.Context) error {
	if inCallback() {
		return ErrInCallback
	}
	s.mu.Lock()
	first := s.shutdown == nil
	if first {
		s.shutdown = newShutdown(ctx)
	}
	end := s.shutdown
	sessions := len(s.sessions)
	s.mu.Unlock()
	if first {
		s.opts.Logger.Info("live: shutting down", "sessions", sessions, "delay", s.opts.ShutdownDelay)
		go s.windDown(ctx, end) // ends when the broker is closed
	}
	var err error
	select {
	case <-end.over:
	case <-ctx.Done():
		err = ctx.Err()
		end.cut()
		<-end.over
	}
	if err == nil { // another call may have cut the connections, and callbacks may still run
		select {
		case <-end.gone:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if end.failed != nil {
		return errors.Join(err, fmt.Errorf("live: broker did not close: %w", end.failed))
	}
	return err
}

// shutdown is the end of a server, which all calls of Shutdown share.
type shutdown struct {
	ctx    context.Context    // has the values of the first call's ctx; ends when the remaining connections must be cut
	cut    context.CancelFunc // ends ctx
	gone   chan struct{}      // closed when the last handshake, callback and connection has ended
	over   chan struct{}      // closed when the broker is closed
	failed error              // of the broker's Close; set before over is closed
}

// newShutdown returns the end that begins with the first call of Shutdown. ctx is that of the call.
func newShutdown(ctx context.Context) *shutdown {
	end := &shutdown{gone: make(chan struct{}), over: make(chan struct{})}
	end.ctx, end.cut = context.WithCancel(context.WithoutCancel(ctx))
	return end
}

// isDraining reports whether Shutdown was called; mu is held.
func (s *Server) isDraining() bool { return s.shutdown != nil }

// windDown ends the server. first is the ctx of the first call, which has set the pace.
func (s *Server) windDown(first context.Context, end *shutdown) {
	defer end.cut() // frees ctx
	defer close(end.over)
	s.auths.refuseAll(errDraining)
	s.nodes.hurry()
	go func() { // ends with the last handshake, callback and connection
		s.running.Wait()
		close(end.gone)
	}()

	sleep(end.ctx, s.opts.ShutdownDelay)
	s.closeAll(first, end.ctx)
	select {
	case <-end.gone:
	case <-end.ctx.Done():
		s.cutAll()
	}
	s.presence.stop()
	s.nodes.stop()
	s.closed.Store(true)
	s.topics.end()
	close(s.workers.over)
	// The broker gets brokerTimeout to close, because ctx may have ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(end.ctx), brokerTimeout)
	defer cancel()
	end.failed = errBrokerPanicked // unless Close returns
	s.callSafely("Broker.Close", "node", s.nodes.id, func() { end.failed = s.opts.Broker.Close(ctx) })
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

// closeAll ends the sessions in random order, evenly over the window that the ctx of the first Shutdown
// leaves. When ctx ends, it ends the others at once.
func (s *Server) closeAll(first, ctx context.Context) {
	sessions := s.snapshot()
	rand.Shuffle(len(sessions), func(i, j int) { sessions[i], sessions[j] = sessions[j], sessions[i] })
	window := shutdownWindow(first, len(sessions))
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
	window := returnWindow(sessions)
	if deadline, ok := ctx.Deadline(); ok {
		window = min(window, time.Until(deadline)/2)
	}
	return max(window, 0)
}

// returnWindow returns the time that servers need to take so many clients.
func returnWindow(sessions int) time.Duration {
	return time.Duration(sessions) * time.Second / closesPerSecond
}

// restart says how a session ends because of Shutdown. window is the time over which all sessions are
// closed.
func restart(window time.Duration) closing {
	return comeBack("restart", closedShutdown, ErrServerClosed, window)
}

// comeBack says how a session ends if its client is to come back within a window, or within minReturn if
// that is longer. text is for the client.
func comeBack(text string, why closeReason, err error, window time.Duration) closing {
	within := max(window, minReturn)
	return closing{
		code:   CloseRestart,
		reason: closecode.WithWindow(text, within),
		err:    err,
		why:    why,
		within: within.Milliseconds(),
	}
}

// cutAll ends the remaining sessions, and closes their connections at once. The contexts of OnAuth end too.
func (s *Server) cutAll() {
	s.endHandshakes()
	s.mu.Lock()
	left := append([]*Session(nil), s.sessions...)
	for sess := range s.lingering {
		left = append(left, sess)
	}
	s.mu.Unlock()
	s.opts.Logger.Warn("live: the time for Shutdown has ended; connections are cut, and callbacks may go on", "connections", len(left))
	for _, sess := range left {
		sess.end(restart(0))
		sess.out.Kill()
	}
}
