package live

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/inbox"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// Session is the connection of one client. Its methods may be called from any goroutine, from
// callbacks too, and after the session has ended.
type Session struct {
	id     string
	value  any
	user   string // Options.UserID; "": no user in particular
	server *Server

	// These two are objects of their own because Go's collector scans objects up to 512 bytes in
	// batches, and larger ones one by one.
	out *outbox.Box   // frames for the client
	in  *inbox.Reader // frames from the client

	wire       wire // plain or live.v1
	compressed bool // permessage-deflate was agreed
	reserved   bool // Server.reserve has counted it; only the handshake uses it

	ctx    context.Context // given to the callbacks
	cancel context.CancelFunc

	inbound    inbound
	connecting bool  // OnConnect was not called yet; only the worker of the session uses it
	calls      turns // taken during a callback, so that they run one at a time

	mu     sync.Mutex // guards what follows
	closed bool
	why    closeReason // set when closed is; beside it, so that a Session fits into 416 bytes
	err    error       // set when closed is
	subs   subscriptionSet
	behind behindSet

	listeners map[*listener]struct{} // nil: none; nothing is added once the session is closed

	newestBytes atomic.Int64 // of publications that topics without history keep for it; see hold

	readUntil, lookupUntil int64 // the times until which its questions to the broker count; see gate

	watch    watch        // used by the sweeper alone
	index    int          // in Server.sessions; guarded by Server.mu
	expiry   atomic.Int64 // Unix time in seconds; 0: none
	oldAt    int64        // when it reaches its part of MaxSessionAge, on the clock; guarded by Server.mu
	readDone bool         // the connection is closed; guarded by Server.mu

	catchingUp atomic.Int32 // subscriptions that catch up
	began      int64        // when the session began, on the clock
}

// ID returns the session's ID, which Options.IDGenerator made.
func (s *Session) ID() string { return s.id }

// Value returns the value that OnAuth returned for this session. It is nil without OnAuth.
func (s *Session) Value() any { return s.value }

// UserID returns whose session it is, as Options.UserID told from the Value; "": no user in
// particular.
func (s *Session) UserID() string { return s.user }

// Context returns the context that the session's callbacks get. It has the values of the
// handshake's context, and is cancelled when the session ends.
func (s *Session) Context() context.Context { return s.ctx }

// Subscribe is Server.Subscribe for this session.
func (s *Session) Subscribe(topic string, opts ...SubscribeOption) error {
	return s.server.Subscribe(s, topic, opts...)
}

// Unsubscribe is Server.Unsubscribe for this session.
func (s *Session) Unsubscribe(topic string) error { return s.server.Unsubscribe(s, topic) }

// Send queues a message for this client alone, and does not wait. An empty Topic or Data is
// left out of the message.
//
// The error is ErrSessionClosed if the session has ended. It is ErrQueueFull if too much waits
// for the client already; then Send has closed the session. It wraps ErrInvalidData or
// ErrInvalidTopic if the message is invalid; then the session goes on.
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
		s.closeForFullQueue()
		return ErrQueueFull
	default:
		return ErrSessionClosed
	}
}

// Close ends the session. The client gets what is queued for it, and then a close frame with
// code 1000, which tells it to stay away. Close does not wait for that. It does not wait for
// OnClose either, which runs after the callback that is running now. The error is always nil.
// A second call does nothing.
func (s *Session) Close() error {
	s.end(disconnection(CloseNormal, "", closedByApplication))
	return nil
}

// IsClosed reports whether the session has ended.
func (s *Session) IsClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// CloseError returns why the session ended: ErrQueueFull, ErrPingTimeout, an error of the
// connection, and so on. It is nil while the session is open, and if either side closed it on
// purpose.
func (s *Session) CloseError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// put queues a frame that the client has asked for, and waits while the queue is full.
// Meanwhile the session handles no further message of a client that asks but does not read.
// The error is ErrSessionClosed.
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
// closed when there is space again. A nil channel says that the frame was queued.
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

// closeForFullQueue ends the session of a client that reads too slowly.
func (s *Session) closeForFullQueue() {
	s.end(closing{code: CloseQueueFull, reason: "queue full", err: ErrQueueFull, why: closedQueueFull, discard: true})
}

// end ends the session, and reports whether it was still open. From here on the session accepts
// no frame and no subscription. leave takes locks and calls the application. It runs in a
// goroutine of its own, because end is called with locks held and from within callbacks.
func (s *Session) end(c closing) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.closed, s.err, s.why = true, c.err, c.why
	s.mu.Unlock()
	s.server.counters.closed[c.why].Add(1)
	s.in.End()
	ending := s.newEnding(&c)
	s.endInbound()
	s.out.Close(c.discard, c.frames(s.wire)...)
	s.cancel()
	go s.leave(ending) // ends when OnClose has returned
	return true
}

// leave takes the session out of every topic and then tells the application.
func (s *Session) leave(e ending) {
	catchingUp := int(s.catchingUp.Load())
	left := s.server.topics.leave(s)
	s.noteEnd(e, len(left), catchingUp)
	s.server.presence.leaveAll(s)
	s.mu.Lock()
	listeners := slices.Collect(maps.Keys(s.listeners))
	s.mu.Unlock()
	for _, l := range listeners {
		l.Unsubscribe()
	}
	s.server.remove(s)
	s.logEnd()
	s.tellOfEnd(left)
}

// logEnd is called before the application is told, because OnClose may take long, or never return.
func (s *Session) logEnd() {
	if l := closeLog[s.why]; s.server.opts.Logger.Enabled(s.ctx, l.level) { // first, since logging takes a larger stack
		s.server.logOfClient(l.level, l.message, "session", s.id, "user", s.user, "err", s.CloseError())
	}
}

// tellOfEnd calls OnUnsubscribe for each subscription, and then OnClose. If OnUnsubscribe ends this
// goroutine with runtime.Goexit, another goroutine makes the calls that are left.
func (s *Session) tellOfEnd(left []*subscription) {
	last := false // no call is left after the one that is being made
	defer func() {
		if last {
			s.server.running.Done()
		} else {
			go s.tellOfEnd(left) // ends when OnClose has returned
		}
	}()
	if onUnsubscribe := s.server.opts.OnUnsubscribe; onUnsubscribe != nil {
		for len(left) > 0 {
			sub := left[0]
			left = left[1:]
			s.call("OnUnsubscribe", func() { onUnsubscribe(s, sub.topic.name) })
		}
	}
	last = true
	if onClose := s.server.opts.OnClose; onClose != nil {
		s.call("OnClose", func() { onClose(s, s.CloseError()) })
	}
}

// call runs a callback when no other callback of the session runs.
func (s *Session) call(name string, callback func()) {
	s.calls.Lock()
	s.callLocked(name, callback)
}

// callLocked runs a callback, and then unlocks calls. A callback may panic, or end its goroutine
// with runtime.Goexit as t.Fatal does in a test. That ends its own session only.
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

// callbackFailed ends the session. p is nil after runtime.Goexit.
func (s *Session) callbackFailed(name string, p any) {
	if p == nil {
		p = "runtime.Goexit"
	}
	s.server.panicked(name, p, "session", s.id)
	s.end(closing{code: ClosePanic, reason: "internal error", err: fmt.Errorf("%w: %s: %v", ErrPanic, name, p), why: closedPanic})
}

func (s *Session) connect() {
	if err := s.server.opts.OnConnect(s.ctx, s); err != nil {
		s.end(closing{code: CloseRefused, reason: "refused", err: err, why: closedRefused})
	}
}

// closingFor returns how the session ends after reading has failed with err.
func (s *Session) closingFor(err error) closing {
	switch err := err.(type) {
	case *inbox.ProtocolError:
		c := closing{code: err.Code, reason: err.Text, err: fmt.Errorf("live: %w", err), why: closedForProtocol}
		if err.Code == CloseTooBig {
			c.err, c.why = ErrMessageTooBig, closedTooBig
		}
		return c
	case *inbox.CloseError:
		c := closing{code: err.Code, reason: err.Reason, why: closedByClient}
		switch err.Code {
		case CloseNormal, closeGoingAway, inbox.NoCode:
		default:
			if err.Code >= 3000 { // the page chose it (RFC 6455, section 7.4.2)
				break
			}
			c.err = fmt.Errorf("live: client closed with code %d %q", err.Code, err.Reason)
		}
		return c
	}
	return closing{err: lostError{err}, why: closedLost}
}

// lostError says that the connection broke. Its text is formatted only when somebody reads it.
// Formatting needs a larger stack, and the reader of every session would have to grow to it.
type lostError struct{ cause error }

func (e lostError) Error() string { return "live: connection lost: " + e.cause.Error() }
func (e lostError) Unwrap() error { return e.cause }

// closeGoingAway is the code that a browser sends when the user leaves the page (RFC 6455,
// section 7.4.1).
const closeGoingAway = 1001

// writing is a Session as its outbox.Box sees it (outbox.Owner).
type writing Session

func (w *writing) Heard() int64 { return w.in.Heard() }

func (w *writing) WriteFailed(err error) {
	s := (*Session)(w)
	s.end(closing{err: fmt.Errorf("%w: %w", ErrWriteFailed, err), why: closedWriteFailed})
}
