package live

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/inbox"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// Session is one client's connection. Its methods may be called from any
// goroutine, in callbacks too, and after it has ended.
type Session struct {
	id     string
	value  any
	user   string // whose it is; "" for nobody in particular
	server *Server

	out outbox.Box   // the way to the client
	in  inbox.Reader // the way from the client

	wire       wire // how the client speaks
	compressed bool // permessage-deflate was agreed

	ctx    context.Context // of the callbacks
	cancel context.CancelFunc

	inbound    inbound
	connecting bool       // OnConnect was not called yet; only the worker of the session uses it
	calls      sync.Mutex // held during a callback: one at a time

	mu     sync.Mutex // guards what follows
	closed bool
	err    error
	subs   subscriptionSet
	behind behindSet

	listeners map[*listener]struct{} // nil: none; nothing is added once it is closed

	newestBytes atomic.Int64 // of publications that topics without history keep for it; see hold

	readUntil, lookupUntil int64 // when its questions to the broker count no more; see gate

	watch    watch        // the sweeper's
	index    int          // in Server.sessions; guarded by Server.mu
	expiry   atomic.Int64 // Unix time, in seconds; 0: none
	readDone bool         // guarded by Server.mu
}

// ID returns what IDGenerator made for this session.
func (s *Session) ID() string { return s.id }

// Value returns what OnAuth returned; nil without OnAuth.
func (s *Session) Value() any { return s.value }

// Send queues a message for this client alone and does not wait. It returns
// ErrSessionClosed if the session has ended; ErrQueueFull if the client has
// too much waiting already, which closes the session; and an error that wraps
// ErrInvalidData or ErrInvalidTopic, with the session unharmed, if the message
// cannot be sent to anyone. An empty Topic or Data is left out of the message.
func (s *Session) Send(m Message) error {
	f, err := m.encode()
	if err != nil {
		return err
	}
	if s.compressed {
		f.Deflate()
	}
	var ready outbox.List
	switch s.out.Add(f, &ready) {
	case nil:
		s.server.writers.Write(&ready)
		return nil
	case outbox.ErrFull:
		s.queueFull()
		return ErrQueueFull
	default:
		return ErrSessionClosed
	}
}

// put queues a frame that the client has asked for, and waits while the queue is full: a
// client that asks and does not read is not heard any further. The error is
// ErrSessionClosed.
func (s *Session) put(f *frame.Frame) error {
	for {
		wait, err := s.tryPut(f)
		if wait == nil || err != nil {
			return err
		}
		if err := s.await(wait); err != nil {
			return err
		}
	}
}

// tryPut queues a frame without waiting. If there is no space it returns a channel that is
// closed when there is space again; nil: the frame was queued.
func (s *Session) tryPut(f *frame.Frame) (wait <-chan struct{}, err error) {
	var ready outbox.List
	wait, err = s.out.AddOrWait(f, &ready)
	s.server.writers.Write(&ready)
	if err != nil {
		return nil, ErrSessionClosed
	}
	return wait, nil
}

// await waits for space, or for the end of the session.
func (s *Session) await(space <-chan struct{}) error {
	select {
	case <-space:
		return nil
	case <-s.ctx.Done():
		return ErrSessionClosed
	}
}

// Close ends the session: what is queued is sent, then a close frame with
// code 1000. It does not wait for that, nor for OnClose, which runs when a
// callback that is running has returned. The error is always nil; a second
// call does nothing.
func (s *Session) Close() error {
	s.end(disconnection(CloseNormal, ""))
	return nil
}

// IsClosed reports whether the session has ended.
func (s *Session) IsClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// CloseError returns why the session ended: ErrQueueFull, ErrPingTimeout, an
// error of the connection, …; nil while it is open, and when either side
// closed it on purpose.
func (s *Session) CloseError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// queueFull ends the session of a client that takes too little.
func (s *Session) queueFull() {
	if s.end(closing{code: CloseQueueFull, reason: "queue full", err: ErrQueueFull, discard: true}) {
		s.server.counters.queueFull.Add(1)
	}
}

// closing is how a session ends.
type closing struct {
	code    int    // 0: no close frame, since there is nobody to read it; inbox.NoCode: one without a code
	reason  string // for the client
	err     error  // for the application
	discard bool   // do not send what is queued: the client cannot take it

	within int64 // if not 0: a live.v1 client is told to come back within so many ms
}

// end ends the session and reports whether it was still open. From here on it
// takes no frame and no subscription; what takes locks or calls the
// application goes on in a goroutine of its own, because end is called with
// locks held and from within callbacks.
func (s *Session) end(c closing) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.closed, s.err = true, c.err
	s.mu.Unlock()
	s.in.End()
	s.endInbound()
	s.out.Close(c.discard, c.frames(s.wire)...)
	s.cancel()
	go s.leave() // ends when OnClose has returned
	return true
}

// frames are the last that the client gets.
func (c *closing) frames(w wire) []*frame.Frame {
	var last []*frame.Frame
	if c.within > 0 && w == wireV1 {
		last = append(last, drainFrame(c.within))
	}
	switch c.code {
	case 0:
	case inbox.NoCode:
		last = append(last, frame.EmptyClose)
	default:
		last = append(last, frame.Close(c.code, c.reason))
	}
	return last
}

// leave takes the session out of every topic and then tells the application.
func (s *Session) leave() {
	defer s.server.running.Done()
	s.server.topics.leave(s)
	s.mu.Lock()
	listeners := slices.Collect(maps.Keys(s.listeners))
	s.mu.Unlock()
	for _, l := range listeners {
		l.Unsubscribe()
	}
	s.server.remove(s)
	if onClose := s.server.opts.OnClose; onClose != nil {
		s.call("OnClose", func() { onClose(s, s.CloseError()) })
	}
	if l := s.server.opts.Logger; l.Enabled(s.ctx, slog.LevelDebug) { // asked first, since logging takes a larger stack
		l.Debug("live: session ended", "session", s.id, "err", s.CloseError())
	}
}

// call runs a callback, alone.
func (s *Session) call(name string, callback func()) {
	s.calls.Lock()
	s.callLocked(name, callback)
}

// callLocked runs a callback and unlocks calls. A callback that panics, or that ends its
// goroutine with runtime.Goexit as a test's t.Fatal does, costs its own session only.
func (s *Session) callLocked(name string, callback func()) {
	defer s.calls.Unlock()
	returned := false
	defer func() {
		if !returned {
			s.callbackFailed(name, recover())
		}
	}()
	callback()
	returned = true
}

// callbackFailed ends the session; p is nil after runtime.Goexit.
func (s *Session) callbackFailed(name string, p any) {
	if p == nil {
		p = "runtime.Goexit"
	}
	s.server.panicked(name, p, "session", s.id)
	s.end(closing{code: ClosePanic, reason: "internal error", err: fmt.Errorf("%w: %s: %v", ErrPanic, name, p)})
}

func (s *Session) connect() {
	if err := s.server.opts.OnConnect(s.ctx, s); err != nil {
		s.end(closing{code: CloseRefused, reason: "refused", err: err})
	}
}

// closingFor is how a session ends whose reading has ended with err.
func (s *Session) closingFor(err error) closing {
	switch err := err.(type) {
	case *inbox.ProtocolError:
		c := closing{code: err.Code, reason: err.Text, err: fmt.Errorf("live: %w", err)}
		if err.Code == CloseTooBig {
			c.err = ErrMessageTooBig
		}
		return c
	case *inbox.CloseError:
		c := closing{code: err.Code, reason: err.Reason}
		switch err.Code {
		case CloseNormal, closeGoingAway, inbox.NoCode:
		default:
			if err.Code >= 3000 { // of the page's own choice (RFC 6455, section 7.4.2)
				break
			}
			c.err = fmt.Errorf("live: client closed with code %d %q", err.Code, err.Reason)
		}
		return c
	}
	return closing{err: lostError{err}}
}

// lostError says that the connection broke. It is formatted only where somebody reads it:
// formatting takes a larger stack, which every session's reader would have to grow to.
type lostError struct{ cause error }

func (e lostError) Error() string { return "live: connection lost: " + e.cause.Error() }
func (e lostError) Unwrap() error { return e.cause }

// closeGoingAway is what a browser sends when its page is left (RFC 6455, section 7.4.1).
const closeGoingAway = 1001

// writing is a Session as its box sees it (outbox.Owner).
type writing Session

func (w *writing) Heard() int64 { return w.in.Heard() }

func (w *writing) WriteFailed(err error) {
	s := (*Session)(w)
	if s.end(closing{err: fmt.Errorf("%w: %w", ErrWriteFailed, err)}) {
		s.server.counters.writeFailed.Add(1)
	}
}
