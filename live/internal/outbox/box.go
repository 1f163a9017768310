// Package outbox is the way from a session's publications to its socket: a
// bounded queue for each session, and a few writers, shared by all sessions,
// that send everything a session has queued in one write.
//
// A box is in one of three states. Idle: nothing is queued, and nothing but
// the struct exists: no goroutine, no timer, no buffer. Listed: something is
// queued, and the box stands on the writers' list. Owned: a writer, or the
// goroutine of a socket that was full, is writing. A box is listed once and
// owned by one, so its bytes go out in the order in which they were queued,
// and only the owner touches the socket's write side.
package outbox

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/livetopic/livetopic/live/internal/frame"
)

var (
	// ErrFull says that a frame would take the queue over its bounds. The
	// queue is as it was.
	ErrFull = errors.New("outbox: queue full")

	// ErrClosed says that the box takes no more frames.
	ErrClosed = errors.New("outbox: closed")
)

// Box is one session's way out. It must be made with Init.
type Box struct {
	// What a fan-out touches comes first, in one line of the CPU's cache.
	mu      sync.Mutex // guards the fields from here to ended; no lock is taken under it
	queue   *queue     // nil: nothing queued
	frames  int        // queued or being written
	bytes   int        // the same, in bytes
	busy    bool       // listed or owned
	dead    bool       // the connection is closed, everything was dropped
	ping    bool       // a ping is due
	ending  ending
	writers *Writers // set by Init, like conn, raw and failed
	next    *Box     // on the writers' list; guarded by its lock

	flying     flight        // being written
	freeFrames int           // queued or being written, and counts for no bound
	freeBytes  int           // the same, in bytes
	rest       []byte        // what the socket left of the last write
	pong       []byte        // the newest pong that is due; an older one is obsolete (RFC 6455, section 5.5.3)
	timer      *time.Timer   // ends a closing that takes too long
	ended      chan struct{} // closed when the write side is shut or dead; nil until Shut

	compact bool         // the peer takes compressed frames; set by Compress
	pinging *frame.Frame // what a ping is; set by PingWith
	conn    net.Conn
	raw     syscall.RawConn // nil: conn is no plain socket
	failed  func(error)     // told by the owner when the socket cannot be written
}

// flight is what the owner of a box took from the queue and has not yet
// written. It counts as queued until it is written.
type flight struct {
	frames, bytes         int
	freeFrames, freeBytes int // the same, of what counts for no bound
}

type ending uint8

const (
	open     ending = iota
	closing         // a close frame was queued: no more data
	shutting        // when the queue is empty, no more bytes at all
	shut            // the write side is shut
)

// Init makes b the way out to conn. failed is called at most once, from the
// goroutine that wrote, when writing fails, before the connection is closed.
func (b *Box) Init(w *Writers, conn net.Conn, failed func(error)) {
	b.writers, b.conn, b.failed = w, conn, failed
	b.pinging = frame.Ping
	b.raw = rawConn(conn)
}

// Compress has frames sent in their compressed form, where they have one. It must
// be called before the first Add.
func (b *Box) Compress() { b.compact = true }

// PingWith has Ping send another frame than WebSocket's, for a peer that cannot
// see those. It must be called before the first Ping.
func (b *Box) PingWith(f *frame.Frame) { b.pinging = f }

// Add queues a frame. A session that was idle is put on the list, which the
// caller hands to the writers when it has added to all sessions.
//
// One frame always fits in an empty queue, whatever its size: frames are shared,
// so it costs the session nothing, and a bound below the size of a publication
// would otherwise close every subscriber each time.
func (b *Box) Add(f *frame.Frame, list *List) error {
	b.mu.Lock()
	if b.ending != open || b.dead {
		b.mu.Unlock()
		return ErrClosed
	}
	if !b.fits(f) {
		b.mu.Unlock()
		return ErrFull
	}
	b.push(f)
	idle := b.markBusy()
	b.mu.Unlock()
	if idle {
		list.add(b)
	}
	return nil
}

// Displace queues a frame in the place of others with its tag that still wait: the
// oldest of them, as many as must be, or all. Where the first of them stood gap
// comes, unless gap is nil or stands there already.
//
// When none of its tag is left to go the frame is queued beyond the bound: what drops
// its own frames never closes a session, and there is one such frame for each tag.
func (b *Box) Displace(f *frame.Frame, all bool, gap *frame.Frame, list *List) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending != open || b.dead {
		return ErrClosed
	}
	if b.queue != nil {
		b.displace(f, all, gap)
	}
	b.push(f)
	if b.markBusy() {
		list.add(b)
	}
	return nil
}

// Queued returns how much waits to be written, of what counts for the bounds and of
// what does not.
func (b *Box) Queued() (frames, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.frames + b.freeFrames, b.bytes + b.freeBytes
}

// Ping sends a ping ahead of the queue. A ping that is still due is not
// doubled.
func (b *Box) Ping() {
	b.urgent(func() { b.ping = true })
}

// Pong sends a pong frame ahead of the queue.
func (b *Box) Pong(bytes []byte) {
	b.urgent(func() { b.pong = append(b.pong[:0], bytes...) })
}

func (b *Box) urgent(set func()) {
	b.mu.Lock()
	if b.ending != open || b.dead {
		b.mu.Unlock()
		return
	}
	set()
	idle := b.markBusy()
	b.mu.Unlock()
	if idle {
		b.writers.write(b)
	}
}

// Close queues a close frame, the last that the peer gets, and bounds the time
// that it may take to arrive, and then that the peer has to answer it: after
// that the connection is closed. With discard, what is queued is dropped, save
// the rest of a frame half sent. A nil frame only ends the taking of frames: the
// peer has gone. Only the first call of Close has an effect.
func (b *Box) Close(f *frame.Frame, discard bool) {
	b.mu.Lock()
	if b.ending != open || b.dead {
		b.mu.Unlock()
		return
	}
	if discard {
		b.drop()
	}
	b.pong, b.ping = nil, false
	b.ending = closing
	b.startTimer()
	idle := false
	if f != nil {
		b.push(f)
		idle = b.markBusy()
	}
	b.mu.Unlock()
	if idle {
		b.writers.write(b)
	}
}

// Shut lets the queue run empty and then shuts the write side, so that the
// peer reads all that was sent and then the end. It takes no more frames. The
// channel is closed when that is done, or the connection is closed. Shut is
// called once.
func (b *Box) Shut() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = make(chan struct{})
	if b.dead {
		close(b.ended)
		return b.ended
	}
	b.ending = shutting
	b.startTimer()
	if !b.busy {
		b.flushed()
	}
	return b.ended
}

// Kill closes the connection at once and drops what is queued.
func (b *Box) Kill() {
	b.mu.Lock()
	first := !b.dead
	b.dead = true
	b.drop()
	b.rest, b.pong, b.ping = nil, nil, false
	if b.timer != nil {
		b.timer.Stop()
	}
	if first && b.ended != nil && b.ending != shut {
		close(b.ended)
	}
	b.mu.Unlock()
	if first {
		b.conn.Close()
	}
}

// fail gives up on the connection. The reason is told first, lest the reader
// report that its connection was closed.
func (b *Box) fail(err error) {
	b.failed(err)
	b.Kill()
}

// The rest is called with mu held.

// displace drops what Displace says from the queue.
func (b *Box) displace(f *frame.Frame, all bool, gap *frame.Frame) {
	waiting := b.queue.frames[b.queue.head:]
	kept := waiting[:0]
	dropped := false
	for _, old := range waiting {
		switch {
		case old.Tag != f.Tag || !all && dropped && b.fits(f):
			kept = append(kept, old)
		case old.Free:
			kept = append(kept, old)
			if old.Gap {
				gap = nil
			}
		default:
			b.frames--
			b.bytes -= old.Len()
			dropped = true
			if gap != nil {
				kept = append(kept, gap)
				b.freeFrames++
				b.freeBytes += gap.Len()
				gap = nil
			}
		}
	}
	clear(waiting[len(kept):])
	b.queue.frames = b.queue.frames[:b.queue.head+len(kept)]
}

func (b *Box) fits(f *frame.Frame) bool {
	return b.writers.limits.fit(b.frames, b.bytes, f)
}

func (b *Box) push(f *frame.Frame) {
	if b.queue == nil {
		b.queue = newQueue()
	}
	b.queue.push(f)
	if f.Free {
		b.freeFrames++
		b.freeBytes += f.Len()
	} else {
		b.frames++
		b.bytes += f.Len()
	}
}

func (b *Box) markBusy() (wasIdle bool) {
	wasIdle = !b.busy
	b.busy = true
	return wasIdle
}

func (b *Box) drop() {
	if b.queue != nil {
		b.queue.release()
		b.queue = nil
	}
	b.frames, b.bytes = b.flying.frames, b.flying.bytes
	b.freeFrames, b.freeBytes = b.flying.freeFrames, b.flying.freeBytes
}

func (b *Box) startTimer() {
	if b.timer == nil {
		b.timer = time.AfterFunc(b.writers.limits.FlushTimeout, b.Kill)
	}
}

// flushed is called when the queue has run empty.
func (b *Box) flushed() {
	b.busy = false
	if b.ending == open || b.dead {
		return
	}
	b.timer.Reset(b.writers.limits.CloseTimeout)
	if b.ending == shutting {
		b.shutWrite()
		close(b.ended)
	}
}

// shutWrite tells the peer that nothing follows. It does not wait: a socket
// takes it like a byte, and TLS bounds it by the write deadline set here.
func (b *Box) shutWrite() {
	b.ending = shut
	half, ok := b.conn.(interface{ CloseWrite() error })
	if !ok {
		b.conn.Close()
		return
	}
	if b.raw == nil {
		b.conn.SetWriteDeadline(time.Now().Add(b.writers.limits.WriteTimeout))
		go half.CloseWrite() // TLS writes an alert; ends with the deadline
		return
	}
	half.CloseWrite()
}

// fill returns the bytes to write next: what the socket left the last time,
// else control frames, then as many queued frames as fit in buf, or one
// frame alone that is larger than buf. It counts what was returned before as
// written. When nothing is left it returns nil, and the box is idle.
func (b *Box) fill(buf []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.rest) > 0 {
		rest := b.rest
		b.rest = nil
		return rest
	}
	b.landed()
	buf = b.appendControl(buf[:0])
	for b.queue != nil {
		f := b.queue.peek()
		bytes := b.form(f)
		if len(buf)+len(bytes) > cap(buf) {
			if len(buf) == 0 {
				buf = bytes
				b.take(f)
			}
			break
		}
		buf = append(buf, bytes...)
		b.take(f)
	}
	if len(buf) == 0 {
		b.flushed()
		return nil
	}
	return buf
}

func (b *Box) form(f *frame.Frame) []byte {
	if b.compact {
		return f.Compact()
	}
	return f.Bytes()
}

// landed counts what was being written as written.
func (b *Box) landed() {
	b.frames -= b.flying.frames
	b.bytes -= b.flying.bytes
	b.freeFrames -= b.flying.freeFrames
	b.freeBytes -= b.flying.freeBytes
	b.flying = flight{}
}

func (b *Box) appendControl(buf []byte) []byte {
	if b.ping {
		buf = append(buf, b.pinging.Bytes()...)
		b.ping = false
	}
	if len(b.pong) > 0 {
		buf = append(buf, b.pong...)
		b.pong = nil
	}
	return buf
}

func (b *Box) take(f *frame.Frame) {
	if f.Free {
		b.flying.freeFrames++
		b.flying.freeBytes += f.Len()
	} else {
		b.flying.frames++
		b.flying.bytes += f.Len()
	}
	b.queue.pop()
	if b.queue.len() == 0 {
		b.queue.release()
		b.queue = nil
	}
}
