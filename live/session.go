package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// Session is one client's connection. Its methods may be called from any
// goroutine, in callbacks too, and after it has ended.
type Session struct {
	id     string
	value  any
	user   string // whose it is; "" for nobody in particular
	server *Server
	conn   *outbox.Conn

	wire       wire // how the client speaks
	compressed bool // permessage-deflate was agreed

	ctx    context.Context // of the callbacks
	cancel context.CancelFunc

	// The goroutine that reads owns these. It hands them on to a fresh one
	// after each message: see read.
	ws   *websocket.Conn
	rate limiter

	calls sync.Mutex // held during a callback: one at a time

	mu     sync.Mutex // guards what follows
	closed bool
	err    error
	subs   subscriptionSet

	listeners map[*listener]struct{} // nil: none; nothing is added once it is closed

	pinged   time.Time    // the sweeper's, for live.v1
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
	switch s.conn.Add(f, &ready) {
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

// Close ends the session: what is queued is sent, then a close frame with
// code 1000. It does not wait for that, nor for OnClose, which runs when a
// callback that is running has returned. The error is always nil; a second
// call does nothing.
func (s *Session) Close() error {
	s.end(closing{code: CloseNormal})
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
	code    int    // 0: no close frame; there is nobody to read it
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
	if c.within > 0 && s.wire == wireV1 {
		s.answer(drainFrame(c.within))
	}
	var last *frame.Frame
	if c.code != 0 {
		last = frame.Close(c.code, c.reason)
	}
	s.conn.Box.Close(last, c.discard)
	s.cancel()
	go s.leave() // ends when OnClose has returned
	return true
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
	s.server.opts.Logger.Debug("live: session ended", "session", s.id, "err", s.CloseError())
}

// call runs a callback, alone.
func (s *Session) call(name string, callback func()) {
	s.calls.Lock()
	s.callLocked(name, callback)
}

// callLocked runs a callback and unlocks calls. A callback that panics costs
// its own session only.
func (s *Session) callLocked(name string, callback func()) {
	defer s.calls.Unlock()
	defer func() {
		if p := recover(); p != nil {
			s.server.counters.panics.Add(1)
			s.server.opts.Logger.Error("live: callback panicked",
				"callback", name, "session", s.id, "panic", p, "stack", string(debug.Stack()))
			s.end(closing{code: ClosePanic, reason: "internal error", err: fmt.Errorf("%w: %s: %v", ErrPanic, name, p)})
		}
	}()
	callback()
}

// run is the session's life from its first moment, with calls locked.
func (s *Session) run() {
	s.callLocked("OnConnect", s.connect)
	go s.read() // ends with the connection
}

func (s *Session) connect() {
	onConnect := s.server.opts.OnConnect
	if onConnect == nil {
		return
	}
	if err := onConnect(s.ctx, s); err != nil {
		s.end(closing{code: CloseRefused, reason: "refused", err: err})
	}
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// A buffer that grew past this for one message is not kept for the next.
const maxPooledBuffer = 64 << 10

// read waits for one message, handles it, and hands over to a new goroutine.
// A goroutine's stack does not shrink while it waits, and decoding and the
// application's code make it grow: by 4 KB for every idle session, were it to
// go on itself.
func (s *Session) read() {
	for s.conn.Await() {
		s.throttle() // a ping or a pong
	}
	_, r, err := s.ws.Reader(context.Background())
	if err != nil {
		s.readEnded(err)
		return
	}
	buf := buffers.Get().(*bytes.Buffer)
	if _, err := buf.ReadFrom(r); err != nil {
		s.readEnded(err)
		return
	}
	s.throttle()
	s.receive(buf.Bytes())
	if buf.Cap() <= maxPooledBuffer {
		buf.Reset()
		buffers.Put(buf)
	}
	go s.read() // ends with the connection
}

// throttle waits while the client is over InboundRate.
func (s *Session) throttle() {
	if wait := s.rate.take(s.server.inbound); wait > 0 {
		sleep(s.ctx, wait)
	}
}

func (s *Session) receive(raw []byte) {
	s.server.counters.received.Add(1)
	if s.wire == wireV1 {
		s.receiveV1(raw)
	} else {
		s.receivePlain(raw)
	}
}

// receivePlain takes a message for the application.
func (s *Session) receivePlain(raw []byte) {
	m, err := decodeMessage(raw, s.server.opts.MaxTopicLength)
	if err != nil {
		s.server.counters.malformed.Add(1)
		s.server.opts.Logger.Debug("live: message ignored", "session", s.id, "err", err)
		return
	}
	onMessage := s.server.opts.OnMessage
	if onMessage == nil {
		return
	}
	s.call("OnMessage", func() {
		if !s.IsClosed() { // nothing comes after OnClose
			onMessage(s.ctx, s, m.Topic, m.Data)
		}
	})
}

// readEnded ends the session because nothing more can be read.
func (s *Session) readEnded(err error) {
	s.end(s.closingFor(err))
	s.conn.Discard()
	s.conn.Kill()
	s.server.readEnded(s)
	s.server.running.Done()
}

func (s *Session) closingFor(err error) closing {
	var peer websocket.CloseError
	switch {
	case errors.Is(err, websocket.ErrMessageTooBig):
		return closing{err: ErrMessageTooBig} // coder/websocket has sent the code
	case errors.As(err, &peer):
		switch peer.Code {
		case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
			return closing{}
		}
		return closing{err: fmt.Errorf("live: client closed with code %d %q", peer.Code, peer.Reason)}
	}
	return closing{err: fmt.Errorf("live: connection lost: %w", err)}
}

// writeFailed is called by the outbox when the connection could not be written.
func (s *Session) writeFailed(err error) {
	if s.end(closing{err: fmt.Errorf("%w: %w", ErrWriteFailed, err)}) {
		s.server.counters.writeFailed.Add(1)
	}
}

// checkAlive pings a client that has been silent, and ends the session of one
// that stayed so. slack is how long it is until the next check: each is done
// that much early, so that a dead client is found within the promised time.
func (s *Session) checkAlive(interval, timeout, slack time.Duration) {
	switch idle := s.conn.Idle(); {
	case idle >= interval+timeout-slack:
		if s.end(closing{code: ClosePingTimeout, reason: "no answer to ping", err: ErrPingTimeout, discard: true}) {
			s.server.counters.pingTimeouts.Add(1)
		}
	case idle >= interval-slack:
		s.conn.Ping()
	case s.wire == wireV1 && time.Since(s.pinged) >= interval-slack:
		// It waits for pings, to know that the server lives.
		s.conn.Ping()
	default:
		return
	}
	s.pinged = time.Now()
}
