// Package outbox is the way from a session's publications to its socket: a
// bounded queue for each session, and a few writers, shared by all sessions,
// that send everything a session has queued in one write.
//
// A box is in one of three states. Idle: nothing is queued, and the box has no goroutine, no
// timer and no buffer. Listed: something is queued, and the box is on the writers' list. Owned: a
// writer, or the goroutine of a socket that was full, is writing. A box is listed once, and has
// one owner. So its bytes go out in the order in which they were queued, and only the owner
// touches the socket's write side.
package outbox

import (
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
	"github.com/livetopic/livetopic/live/internal/frame"
)

var (
	// ErrFull says that the queue has no space for a frame, even after all frames that
	// may be dropped were dropped.
	ErrFull = errors.New("outbox: queue full")

	// ErrClosed says that the box takes no more frames.
	ErrClosed = errors.New("outbox: closed")
)

// Box is the outbox of one session. It must be made with Init.
type Box struct {
	// The fields that a fan-out touches come first, so that they are in one line of the CPU's
	// cache.
	mu      sync.Mutex // guards the fields from here to pingAt; no lock is taken under it
	queue   *queue     // nil: nothing waits
	frames  int        // waiting or being written
	bytes   int        // the same, in bytes
	busy    bool       // listed or owned
	dead    bool       // the connection is closed, everything was dropped
	ping    bool       // a ping is due
	ending  ending
	writers *Writers // set by Init, like conn, raw, tcp and owner
	next    *Box     // on the writers' list; guarded by its lock

	flying     flight         // being written
	droppable  dropped        // the waiting frames that may be dropped
	aside      []*frame.Frame // frames that have stepped aside, one for each tag and key; see displace.go
	asideBytes int            // bytes of the frames in aside
	rest       []byte         // what the socket left of the last write
	pongs      []byte         // pongs that are due
	space      chan struct{}  // closed when there is space again; nil: nobody waits for it
	wrote      uint64         // bytes that the socket took
	timer      *time.Timer    // looks after a closing
	closing    closingState
	ended      chan struct{} // closed when the write side is shut or dead; nil until Shut
	pingAt     int64         // when the last ping was written; 0: it still has to be

	compact  bool         // the peer takes compressed frames; set by Compress
	silent   bool         // the peer is told of no gap; set by HideGaps
	greeting bool         // the first frame was not sent yet; set by GreetFirst
	slow     bool         // the socket was full once, or is no plain one; the owner's
	acks     bool         // the kernel tells what the peer has taken; the owner's
	pinging  *frame.Frame // the frame that Ping sends; set by PingWith
	conn     net.Conn
	raw      syscall.RawConn // nil: conn is no plain socket
	tcp      syscall.RawConn // the socket, below TLS too; nil: none is known
	owner    Owner
}

// Owner is the session of a box.
type Owner interface {
	// WriteFailed is called when writing fails, once at most, by the goroutine that
	// wrote, before the connection is closed.
	WriteFailed(err error)

	// Heard returns when the peer last sent something, on the clock of package clock.
	Heard() int64
}

// flight counts what the owner of a box took from the queue and has not yet written. The bytes
// count as queued until they are written. The frames do not, because one write of small frames may
// empty a whole queue.
type flight struct {
	frames, bytes int
	ping          bool
}

// dropped counts frames.
type dropped struct{ frames, bytes int }

type ending uint8

const (
	open     ending = iota
	closing         // a close frame was queued: no more data
	shutting        // when the queue is empty, no more bytes at all
	shut            // the write side is shut
)

// maxPongs bounds the pongs that wait, in bytes: thirty of the longest. A client that sends more
// pings at once gets the pongs of the newest. RFC 6455, section 5.5.3, allows a server to answer
// only those.
const maxPongs = 4 << 10

// Init makes b the outbox of a connection.
func (b *Box) Init(w *Writers, conn net.Conn, owner Owner) {
	b.writers, b.conn, b.owner = w, conn, owner
	b.pinging = frame.Ping
	b.raw = rawConn(conn)
	b.tcp = b.raw
	if tls, ok := conn.(interface{ NetConn() net.Conn }); ok && b.raw == nil {
		b.tcp = rawConn(tls.NetConn())
	}
}

// Compress has frames sent in their compressed form, where they have one. It must
// be called before the first Add.
func (b *Box) Compress() { b.compact = true }

// HideGaps is for a peer that knows no gap frame: it is not told where frames were dropped. It
// must be called before the first Add.
func (b *Box) HideGaps() { b.silent = true }

// PingWith has Ping send another frame than WebSocket's, for a peer that cannot see WebSocket's
// pings. It must be called before the first Ping.
func (b *Box) PingWith(f *frame.Frame) { b.pinging = f }

// GreetFirst has pings and pongs wait until the first frame that is added has been sent. It
// must be called before that.
func (b *Box) GreetFirst() { b.greeting = true }

// Add queues a frame. A session that was idle is put on the list, which the
// caller hands to the writers when it has added to all sessions.
//
// A frame that does not fit takes the place of frames that may be dropped: first of frames with
// its own tag, the oldest first, then of frames with other tags, but the newest of each of these
// is not lost. Where frames were dropped, the peer is told of the gap before the next frame of
// that tag. If there is still no space, the error is ErrFull.
//
// If no frame waits, one frame of any size fits. Frames are shared, so it costs the session
// nothing. A bound below the size of a publication would otherwise close every subscriber each
// time.
func (b *Box) Add(f *frame.Frame, list *List) error { return b.add(f, list, false) }

func (b *Box) add(f *frame.Frame, list *List, patient bool) error {
	b.mu.Lock()
	if b.ending != open || b.dead {
		b.mu.Unlock()
		return ErrClosed
	}
	if b.aside != nil && f.Tag != nil {
		f = b.replaceAside(f)
	}
	if !b.fits(f) {
		if f = b.displace(f, patient); f == nil {
			b.mu.Unlock()
			return ErrFull
		}
	}
	b.push(f)
	idle := b.markBusy()
	b.mu.Unlock()
	if idle {
		list.add(b)
	}
	return nil
}

// AddOrWait is Add for a caller that can wait. Instead of ErrFull it returns a channel that is
// closed when there is space again, or when the box is closed.
func (b *Box) AddOrWait(f *frame.Frame, list *List) (wait <-chan struct{}, err error) {
	for {
		if err := b.add(f, list, true); err != ErrFull {
			return nil, err
		}
		b.mu.Lock()
		full := b.ending == open && !b.dead && !b.fits(f)
		if full {
			wait = b.awaitSpace() // something waits, so something will be written
		}
		b.mu.Unlock()
		if full {
			return wait, nil
		}
	}
}

// HalfFree returns nil if frames that may not be dropped take at most half of the queue. Else it
// returns a channel that is closed when that is so, or when the box is closed.
func (b *Box) HalfFree() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.halfFree() || b.ending != open || b.dead {
		return nil
	}
	return b.awaitSpace()
}

// Settle is called before a frame is queued that tells the client its position in a topic that may
// drop frames: an answer, a gap, or publications that it asked for. The waiting frames of the tag,
// or their gap, then come before that frame, and none of them comes later.
func (b *Box) Settle(tag *frame.Tag) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settleTag(tag)
}

// Queued returns how much waits, or is being written.
func (b *Box) Queued() (frames, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.frames, b.bytes
}

// Ping sends a ping ahead of the queue. If a ping waits already, no second one is sent.
func (b *Box) Ping() {
	b.urgent(func() {
		b.ping = true
		b.pingAt = 0
	})
}

// PingSent returns when the last ping was written to the socket, on the clock of
// package clock. ok is false if it still has to be.
func (b *Box) PingSent() (at int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pingAt, b.pingAt != 0
}

// Pong answers a ping, ahead of the queue.
func (b *Box) Pong(payload []byte) {
	b.urgent(func() {
		if len(b.pongs)+2+len(payload) > maxPongs {
			b.pongs = b.pongs[:0]
		}
		b.pongs = append(append(b.pongs, finPong, byte(len(payload))), payload...)
	})
}

// Answer sends a text frame ahead of the queue, as Pong does.
func (b *Box) Answer(f *frame.Frame) {
	b.urgent(func() {
		if len(b.pongs)+f.Len() > maxPongs {
			b.pongs = b.pongs[:0]
		}
		b.pongs = append(b.pongs, f.Bytes()...)
	})
}

// finPong is the first byte of a pong (RFC 6455, section 5.5.3).
const finPong = 0x8a

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

// Close queues the last frames that the peer gets, beyond the bounds. The last of them is a close
// frame. With discard, the queued frames are dropped, except for the rest of a frame that is
// half sent. Without frames, Close only makes the box accept no more frames, because the peer has
// gone. From then on a timer watches the connection: see closingState. Only the first call of
// Close has an effect.
func (b *Box) Close(discard bool, last ...*frame.Frame) {
	b.mu.Lock()
	if b.ending != open || b.dead {
		b.mu.Unlock()
		return
	}
	if discard {
		b.drop()
		b.pongs = nil
	}
	b.ping = false
	b.ending = closing
	idle := false
	last = append(slices.Clone(b.aside), last...)
	b.aside, b.asideBytes = nil, 0
	for _, f := range last {
		b.push(f)
		idle = b.markBusy() || idle
	}
	b.startClosing()
	b.wake()
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
	b.startClosing()
	b.wake()
	if !b.busy {
		b.flushed()
	}
	return b.ended
}

// Raw returns the handle of a plain socket, or nil.
func (b *Box) Raw() syscall.RawConn { return b.raw }

// Kill closes the connection at once and drops what is queued.
func (b *Box) Kill() {
	b.mu.Lock()
	first := !b.dead
	b.dead = true
	b.drop()
	b.wake()
	b.rest, b.pongs, b.ping = nil, nil, false
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

// fail gives up the connection. The owner is told the reason first. Otherwise the reader would
// report first, that its connection was closed.
func (b *Box) fail(err error) {
	b.owner.WriteFailed(err)
	b.Kill()
}

// The rest is called with mu held.

func (b *Box) fits(f *frame.Frame) bool {
	return b.queue == nil || b.writers.limits.fit(b.frames-b.flying.frames, b.bytes, f)
}

// halfFree reports whether HalfFree returns nil.
func (b *Box) halfFree() bool {
	l := &b.writers.limits
	waiting := b.frames - b.flying.frames
	return b.queue == nil || waiting-b.droppable.frames <= l.Frames/2 && b.bytes-b.droppable.bytes <= l.Bytes/2
}

// awaitSpace returns a channel that wake closes.
func (b *Box) awaitSpace() <-chan struct{} {
	if b.space == nil {
		b.space = make(chan struct{})
	}
	return b.space
}

func (b *Box) wake() {
	if b.space != nil {
		close(b.space)
		b.space = nil
	}
}

func (b *Box) push(f *frame.Frame) {
	if b.queue == nil {
		b.queue = newQueue()
	}
	b.queue.push(f)
	b.frames += f.Messages()
	b.bytes += f.Len()
	if f.Tag != nil {
		b.droppable.frames += f.Messages()
		b.droppable.bytes += f.Len()
	}
}

// uncount counts a waiting frame no more, because it leaves the queue.
func (b *Box) uncount(f *frame.Frame) {
	b.frames -= f.Messages()
	b.bytes -= f.Len()
	b.countTaken(f)
}

// countTaken notes that a frame waits no more.
func (b *Box) countTaken(f *frame.Frame) {
	if f.Tag != nil {
		b.droppable.frames -= f.Messages()
		b.droppable.bytes -= f.Len()
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
	b.droppable = dropped{}
	b.aside, b.asideBytes = nil, 0
}

// flushed is called when the queue has run empty.
func (b *Box) flushed() {
	b.busy = false
	if b.ending == open || b.dead {
		return
	}
	b.closingFlushed()
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

// fill returns the bytes to write next. If the socket has left bytes of the last write, it returns
// these. Else it returns control frames, and then as many queued frames as fit in buf, or one frame
// alone that is larger than buf. It counts the bytes that it returned before as written. If
// nothing is left it returns nil, and the box is idle.
func (b *Box) fill(buf []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.rest) > 0 {
		rest := b.rest
		b.rest = nil
		return rest
	}
	b.landed()
	buf = buf[:0]
	if !b.greeting || b.queue == nil {
		buf = b.appendControl(buf)
	}
	for b.queue != nil {
		f := b.queue.peek()
		bytes := b.form(f)
		gap := f.Gap()
		if gap == nil && len(buf)+len(bytes) <= cap(buf) {
			buf = append(buf, bytes...)
			b.take(f)
			if b.greeting {
				b.greeting = false
				buf = b.appendControl(buf)
			}
			continue
		}
		if gap != nil {
			if len(buf)+len(gap.Bytes())+len(bytes) <= cap(buf) {
				buf = append(append(buf, gap.Bytes()...), bytes...)
				b.take(f)
				continue
			}
			bytes = append(append([]byte(nil), gap.Bytes()...), bytes...)
		}
		if len(buf) == 0 {
			buf = bytes
			b.take(f)
		}
		break
	}
	b.greeting = false
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

// landed counts the flight as written.
func (b *Box) landed() {
	b.frames -= b.flying.frames
	b.bytes -= b.flying.bytes
	if b.flying.ping {
		b.pingAt = clock.Now()
	}
	b.flying = flight{}
	b.comeBack()
	if b.space != nil && b.halfFree() {
		b.wake()
	}
}

func (b *Box) appendControl(buf []byte) []byte {
	if b.ping {
		buf = append(buf, b.pinging.Bytes()...)
		b.ping = false
		b.flying.ping = true
	}
	if len(b.pongs) > 0 {
		buf = append(buf, b.pongs...)
		b.pongs = nil
	}
	return buf
}

func (b *Box) take(f *frame.Frame) {
	b.flying.frames += f.Messages()
	b.flying.bytes += f.Len()
	b.countTaken(f)
	b.queue.pop()
	if b.queue.len() == 0 {
		b.queue.release()
		b.queue = nil
	}
}
