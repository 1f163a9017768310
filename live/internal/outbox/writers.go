package outbox

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/internal/frame"
)

const (
	// batchBytes is how much one write carries at most: a burst of 64
	// publications of a kilobyte. Larger frames go out alone, uncopied.
	batchBytes = 64 << 10

	// slowBatchBytes is the same for a socket that was full or is not plain:
	// small enough that a client of 2 KB/s takes it within a write timeout.
	slowBatchBytes = 16 << 10
)

// Limits bound every box of a Writers.
type Limits struct {
	Frames       int           // queued frames
	Bytes        int           // queued bytes
	WriteTimeout time.Duration // how long a socket may take nothing
	FlushTimeout time.Duration // how long what is queued may take to go out when a box is closed
	CloseTimeout time.Duration // how long a peer may leave a close frame unanswered
}

// fit reports whether a frame may be added to what is queued already.
func (l *Limits) fit(frames, bytes int, f *frame.Frame) bool {
	return f.Free || frames < l.Frames && (frames == 0 || bytes+f.Len() <= l.Bytes)
}

// Writers send what the boxes have queued. Its goroutines, at most one for
// each CPU, start when a box has something to send and end when none has.
type Writers struct {
	limits Limits
	max    int

	mu      sync.Mutex // guards what follows, and Box.next; no lock is taken under it
	list    List       // boxes with something to send, longest waiting first
	running int
	pace    pace
}

// NewWriters returns the writers of a server.
func NewWriters(limits Limits) *Writers {
	return &Writers{limits: limits, max: runtime.GOMAXPROCS(0)}
}

// List is a list of boxes that became busy. Its zero value is empty.
type List struct {
	head, tail *Box
	n          int
}

// Len returns the number of boxes on the list.
func (l *List) Len() int { return l.n }

func (l *List) add(b *Box) {
	b.next = nil
	if l.tail == nil {
		l.head = b
	} else {
		l.tail.next = b
	}
	l.tail = b
	l.n++
}

func (l *List) join(other *List) {
	if other.head == nil {
		return
	}
	if l.tail == nil {
		l.head = other.head
	} else {
		l.tail.next = other.head
	}
	l.tail = other.tail
	l.n += other.n
	*other = List{}
}

func (l *List) pop() *Box {
	b := l.head
	if b == nil {
		return nil
	}
	l.head = b.next
	if l.head == nil {
		l.tail = nil
	}
	b.next = nil
	l.n--
	return b
}

// Write has the writers send what the boxes on the list have queued, and
// empties the list.
func (w *Writers) Write(list *List) {
	w.pace.calls.Add(1)
	if list.n == 0 {
		return
	}
	w.mu.Lock()
	w.list.join(list)
	first := w.running == 0
	if first {
		w.running = 1
		w.pace.begin()
	}
	w.mu.Unlock()
	if first {
		go w.runFirst()
	}
}

func (w *Writers) write(b *Box) {
	var list List
	list.add(b)
	w.Write(&list)
}

var batches = sync.Pool{New: func() any { return newBatch(batchBytes) }}

func (w *Writers) runFirst() {
	w.pace.hold()
	w.run()
}

// run is one writer: it takes boxes off the list until it is empty.
func (w *Writers) run() {
	batch := batches.Get().(*batch)
	defer batches.Put(batch)
	for w.take(batch) {
		for b := batch.boxes.pop(); b != nil; b = batch.boxes.pop() {
			b.flush(batch)
		}
	}
}

// portion is how many boxes a writer takes at a time: enough that the lock is
// seldom taken, few enough that another writer finds some left.
const portion = 16

// take moves boxes from the list to the batch, and starts another writer if
// there is work for one. When there is none it says so, and the writer ends.
func (w *Writers) take(batch *batch) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pace.count(batch)
	for w.list.n > 0 && batch.boxes.n < portion {
		batch.boxes.add(w.list.pop())
	}
	if batch.boxes.n == 0 {
		w.running--
		if w.running == 0 {
			w.pace.end()
		}
		return false
	}
	if w.list.n > 0 && w.running < w.max {
		w.running++
		go w.run() // ends when the list is empty
	}
	return true
}

// flush sends everything that is queued in one write that does not wait. A
// socket that does not take it all gets a goroutine until it has drained; so
// does a connection that is no plain socket.
func (b *Box) flush(batch *batch) {
	if b.raw == nil {
		go b.drain()
		return
	}
	bytes := b.fill(batch.buf)
	if bytes == nil {
		return
	}
	batch.writes++
	batch.frames += b.flying.frames + b.flying.freeFrames
	n, err := batch.writeNow(b.raw, bytes)
	switch {
	case err != nil:
		b.fail(err)
	case n < len(bytes):
		b.keep(bytes[n:])
		go b.drain()
	default:
		b.settle()
	}
}

// settle counts what was written, and lists the box again if more was queued
// meanwhile: at the end, so that one busy session does not hold up the others.
func (b *Box) settle() {
	b.mu.Lock()
	b.landed()
	more := b.queue != nil || b.ping || len(b.pong) > 0
	if !more {
		b.flushed()
	}
	b.mu.Unlock()
	if more {
		b.writers.write(b)
	}
}

// keep holds what the socket did not take. The bytes may stand in a batch
// that is used again, so they are copied.
func (b *Box) keep(rest []byte) {
	b.mu.Lock()
	if !b.dead {
		b.rest = append([]byte(nil), rest...)
	}
	b.mu.Unlock()
}

var slowBatches = sync.Pool{New: func() any { return newBatch(slowBatchBytes) }}

// drain writes, waiting for the socket, until the queue is empty or the
// socket took nothing for WriteTimeout.
func (b *Box) drain() {
	batch := slowBatches.Get().(*batch)
	defer slowBatches.Put(batch)
	for {
		bytes := b.fill(batch.buf)
		if bytes == nil {
			return
		}
		if err := b.writeWaiting(bytes); err != nil {
			b.fail(err)
			return
		}
	}
}

// writeWaiting writes all of p. A socket that takes some of it is slow; one
// that takes none of it for WriteTimeout is given up.
func (b *Box) writeWaiting(p []byte) error {
	defer b.conn.SetWriteDeadline(time.Time{}) // an expired one would fail the next write
	for {
		b.conn.SetWriteDeadline(time.Now().Add(b.writers.limits.WriteTimeout))
		n, err := b.conn.Write(p)
		p = p[n:]
		// TLS is torn by a timeout, whatever was sent.
		if err == nil || n == 0 || b.raw == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}
