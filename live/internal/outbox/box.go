// Package outbox is the way from a session's publications to its socket. Each session has a bounded
// queue. All sessions share a few writers. A writer sends everything that a session has queued in
// one write.
//
// A box is in one of three states. Idle: no frame is queued, and the box has no goroutine, no
// timer and no buffer. Listed: frames are queued, and the box is on the writers' list. Owned: a
// writer, or the goroutine of a socket that was full, is writing. A box is on the list at most once,
// and has at most one owner. So its bytes go out in the order in which they were queued, and only
// the owner writes to the socket.
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
	// ErrFull says that the queue has no space for a frame, not even after other frames were
	// dropped for it.
	ErrFull = errors.New("outbox: queue full")

	// ErrClosed says that the box takes no more frames.
	ErrClosed = errors.New("outbox: closed")
)

// Box is the outbox of one session. It must be made with Init.
type Box struct {
	// The fields that a fan-out touches come first, so that they are in one line of the CPU's
	// cache.
	mu      sync.Mutex // guards the fields from here to pingAt, except writers and next; no lock is taken under it
	queue   *queue     // frames that wait; nil: there are none
	frames  int        // how many wait or are being written
	bytes   int        // of these frames
	busy    bool       // listed or owned
	dead    bool       // the connection is closed, and all frames were dropped
	ping    bool       // a ping is due
	ending  ending
	writers *Writers // set by Init, like conn, raw, tcp and owner
	next    *Box     // the next box on the writers' list; guarded by Writers.mu

	flying     flight         // taken from the queue and being written
	droppable  dropped        // counts the waiting frames that may be dropped
	aside      []*frame.Frame // frames that have stepped aside, one for each tag and key; see displace.go
	asideBytes int            // of the frames in aside
	rest       []byte         // bytes of the last write that the socket did not take
	pongs      []byte         // pongs that are due
	space      chan struct{}  // closed when there is space again; nil: nobody waits for it
	wrote      uint64         // how many bytes the socket took
	timer      *time.Timer    // checks a closing; nil: the box does not close
	closing    closingState
	ended      chan struct{} // closed when the write side is shut or dead; nil until Shut
	pingAt     int64         // when the last ping was written; 0: it was not written yet

	compact  bool         // the peer takes compressed frames; set by Compress
	silent   bool         // the peer is not told of gaps; set by HideGaps
	greeting bool         // the first frame was not sent yet; set by GreetFirst and cleared by the box's owner
	slow     bool         // the socket was full once, or is not plain; only the box's owner uses it
	acks     bool         // the kernel tells how much the peer has taken; only the box's owner uses it
	pinging  *frame.Frame // the frame that Ping sends; set by PingWith
	conn     net.Conn
	raw      syscall.RawConn // nil: conn is no plain socket
	tcp      syscall.RawConn // the TCP socket, also that below TLS; nil: it is not known
	owner    Owner           // the session; not to be confused with the goroutine that owns the box
}

// Owner is the session of a box.
type Owner interface {
	// WriteFailed is called when writing fails, at most once. The goroutine that wrote calls it
	// before the connection is closed.
	WriteFailed(err error)

	// Heard returns when the peer last sent something, on the clock of package clock.
	Heard() int64
}

// flight counts the frames that the owner of a box took from the queue and has not yet written. The bytes
// count as queued until they are written. The frames do not, because one write of small frames may
// empty a whole queue.
type flight struct {
	frames, bytes int
	ping          bool
	since         int64 // Frame.Queued of the oldest frame that has it; 0: none has it
}

// dropped counts frames.
type dropped struct{ frames, bytes int }

type ending uint8

const (
	open     ending = iota
	closing         // a close frame was queued: no more frames are added
	shutting        // the write side is shut when the queue is empty
	shut            // the write side is shut
)

// maxPongs bounds the pongs that wait, in bytes: thirty of the longest pongs fit. If a client sends
// more pings at once, the server answers only the newest of them. RFC 6455, section 5.5.3, allows
// that.
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

// Compress makes the box send the compressed form of frames that have one. It must
// be called before the first Add.
func (b *Box) Compress() { b.compact = true }

// HideGaps is for a peer that knows no gap frame. The peer is not told where frames were dropped. It
// must be called before the first Add.
func (b *Box) HideGaps() { b.silent = true }

// PingWith sets the frame that Ping sends instead of a WebSocket ping. It is for a peer that cannot
// see WebSocket pings. It must be called before the first Ping.
func (b *Box) PingWith(f *frame.Frame) { b.pinging = f }

// GreetFirst makes pings and pongs wait until the first frame was sent. It must be called before
// the first Add.
func (b *Box) GreetFirst() { b.greeting = true }

// Add queues a frame. It puts a box that was idle on the list. When the caller has added the frame
// to all boxes, it hands the list to the writers.
//
// A frame that does not fit takes the place of frames that may be dropped. First frames with its own
// tag are dropped, the oldest first. Then frames with other tags are dropped, but not the newest
// frame of each tag. If frames were dropped, the peer is told of the gap before the next frame of
// their tag. If there is still no space, the error is ErrFull.
//
// If no frame waits, one frame of any size fits. It costs the session nothing, because sessions
// share frames. Otherwise a publication that is larger than the bound would close the sessions of
// all subscribers.
func (b *Box) Add(f *frame.Frame, list *List) error { return b.add(f, list, false) }

// add is Add. A patient caller waits for space if the error is ErrFull; see displace.
func (b *Box) add(f *frame.Frame, list *List, patient bool) error {
	b.mu.Lock()
	if b.ending != open || b.dead {
		b.mu.Unlock()
		return ErrClosed
	}
	if b.aside != nil && f.Tag != nil || !b.fits(f) {
		if f = b.makeSpace(f, patient); f == nil {
			b.mu.Unlock()
			return ErrFull
		}
	}
	b.push(f)
	list.queued.frames += f.Messages()
	list.queued.bytes += f.Len()
	idle := b.markBusy()
	b.mu.Unlock()
	if idle {
		list.add(b)
	}
	return nil
}

// makeSpace drops frames for a new frame. It returns the frame to queue, or nil if there is no space.
// mu is held.
func (b *Box) makeSpace(f *frame.Frame, patient bool) *frame.Frame {
	before := b.depth()
	if b.aside != nil && f.Tag != nil {
		f = b.replaceAside(f)
	}
	if !b.fits(f) {
		f = b.displace(f, patient)
	}
	b.writers.queued.add(b.depth().minus(before))
	return f
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
			wait = b.awaitSpace() // frames wait, so there will be space when they were written
		}
		b.mu.Unlock()
		if full {
			return wait, nil
		}
	}
}

// HalfFree returns nil if the frames that must not be dropped take at most half of the queue. If they
// take more, it returns a channel. The channel is closed when they take at most half, or when the
// box is closed.
func (b *Box) HalfFree() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.halfFree() || b.ending != open || b.dead {
		return nil
	}
	return b.awaitSpace()
}

// Settle is called before a frame that tells the client its position in a topic is queued: an
// answer, a gap, or publications that the client asked for. The tag is that of the topic. All frames
// with this tag that wait, or their gap, then come before that frame.
func (b *Box) Settle(tag *frame.Tag) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settleTag(tag)
}

// Queued returns how many frames and bytes wait or are being written.
func (b *Box) Queued() (frames, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.frames, b.bytes
}

// Held returns the bytes of all frames that wait or are being written, also of those that are kept aside.
func (b *Box) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes + b.asideBytes
}

// Ping sends a ping ahead of the queue. If a ping waits already, no second ping is sent.
func (b *Box) Ping() {
	b.urgent(func() {
		b.ping = true
		b.pingAt = 0
	})
}

// PingSent returns when the last ping was written to the socket, on the clock of
// package clock. ok is false if it was not written yet.
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

// urgent calls set with mu held, and has the box written. set makes a control frame due.
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

// Close queues the last frames that the peer gets, even beyond the bounds. The last of them is a
// close frame. If discard is true, the queued frames are dropped, except for the rest of a frame that
// is half sent. If the peer has gone, the caller passes no frames. In all cases the box accepts no
// more frames. From then on a timer checks the connection: see closingState. Only the first call of
// Close has an effect.
func (b *Box) Close(discard bool, last ...*frame.Frame) {
	b.mu.Lock()
	if b.ending != open || b.dead {
		b.mu.Unlock()
		return
	}
	before := b.depth()
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
	b.writers.queued.add(b.depth().minus(before))
	b.startClosing()
	b.wake()
	b.mu.Unlock()
	if idle {
		b.writers.write(b)
	}
}

// Shut shuts the write side when the queue is empty. So the peer reads all that
// was sent, and then the end. The box accepts no more frames. The channel is
// closed when the write side is shut or the connection is closed. Shut is
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

// Kill closes the connection at once and drops the queued frames.
func (b *Box) Kill() {
	b.mu.Lock()
	first := !b.dead
	b.dead = true
	before := b.depth()
	b.drop()
	b.writers.queued.add(b.depth().minus(before))
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

// fail gives up the connection. It tells the owner the reason before it closes the connection.
// Otherwise the reader would be the first to report, and only that the connection was closed.
func (b *Box) fail(err error) {
	b.owner.WriteFailed(err)
	b.Kill()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writers.queued.add(depth{-b.flying.frames, -b.flying.bytes}) // they will not land
}

// The functions below are called with mu held, except fill, which takes it.

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

// uncount takes a waiting frame out of all counts, because it leaves the queue.
func (b *Box) uncount(f *frame.Frame) {
	b.frames -= f.Messages()
	b.bytes -= f.Len()
	b.countTaken(f)
}

// countTaken takes a frame out of droppable, because it waits no more.
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

// shutWrite tells the peer that no more bytes follow. It does not wait. A socket takes that as
// quickly as a byte. TLS may take longer, but not longer than the write deadline that is set here.
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
// these. Else it returns control frames, and then as many queued frames as fit in buf. A frame that
// is larger than buf is returned alone. fill counts the bytes that it returned before as written. If
// no bytes are left it returns nil, and the box is idle.
func (b *Box) fill(batch *batch) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.rest) > 0 {
		rest := b.rest
		b.rest = nil
		return rest
	}
	b.landed(&batch.wrote)
	buf := batch.buf[:0]
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

// form returns the frame in the form that the peer takes.
func (b *Box) form(f *frame.Frame) []byte {
	if b.compact {
		return f.Compact()
	}
	return f.Bytes()
}

// landed counts the frames in flying as written.
func (b *Box) landed(wrote *wrote) {
	if b.flying.frames > 0 {
		b.frames -= b.flying.frames
		b.bytes -= b.flying.bytes
		wrote.land(&b.flying)
	}
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
	if f.Queued != 0 && b.flying.since == 0 {
		b.flying.since = f.Queued
	}
	b.countTaken(f)
	b.queue.pop()
	if b.queue.len() == 0 {
		b.queue.release()
		b.queue = nil
	}
}
