package outbox

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/internal/frame"
)

const (
	// batchBytes is how much one write carries at most: a burst of 64
	// publications of a kilobyte. Larger frames go out alone, uncopied.
	batchBytes = 64 << 10

	// slowBatchBytes is the same for a socket that was full or is not plain. A client that
	// takes 2 KB/s takes so much within a write timeout.
	slowBatchBytes = 16 << 10
)

// Limits bound every box of a Writers.
type Limits struct {
	Frames       int           // frames that wait
	Bytes        int           // bytes that wait or are being written
	WriteTimeout time.Duration // how long a socket may take nothing
	FlushTimeout time.Duration // how long a box that closes has in any case; see closingState
	CloseTimeout time.Duration // how long a peer may leave a close frame unanswered
}

// fit reports whether a frame may be added to what is queued already.
func (l *Limits) fit(frames, bytes int, f *frame.Frame) bool {
	return frames+f.Messages() <= l.Frames && bytes+f.Len() <= l.Bytes
}

// Writers send what the boxes have queued. There is at most one writing goroutine for each CPU.
// The goroutines start when a box has something to send, and end when no box has.
type Writers struct {
	limits  Limits
	max     int
	dropped atomic.Uint64 // frames that made space for others

	mu      sync.Mutex // guards what follows, and Box.next; no lock is taken under it
	list    List       // boxes with something to send, longest waiting first
	running int
	pace    pace
}

// NewWriters returns the writers of a server.
func NewWriters(limits Limits) *Writers {
	return &Writers{limits: limits, max: runtime.GOMAXPROCS(0)}
}

// Dropped returns how many frames made space for others in full queues.
func (w *Writers) Dropped() uint64 { return w.dropped.Load() }

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

// WriteHere is Write in the caller's goroutine, without the writers.
func (w *Writers) WriteHere(list *List) {
	if list.n == 0 {
		return
	}
	batch := batches.Get().(*batch)
	defer batches.Put(batch)
	for b := list.pop(); b != nil; b = list.pop() {
		b.flush(batch)
	}
	batch.frames, batch.writes = 0, 0
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

// portion is how many boxes a writer takes at a time. With so many the lock is seldom taken, and
// other writers still find boxes.
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

// flush sends everything that is queued in one write that does not wait. If the socket does not
// take everything, a goroutine sends the rest. A connection that is not a plain socket gets a
// goroutine too.
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
	batch.frames += b.flying.frames
	n, err := batch.writeNow(b.raw, bytes)
	switch {
	case err != nil:
		b.fail(err)
	case n < len(bytes):
		b.keep(bytes[n:], n)
		go b.drain()
	default:
		b.settle(n)
	}
}

// settle counts what was written. If more was queued meanwhile, it puts the box at the end of the
// list, so that one busy session does not hold up the others.
func (b *Box) settle(wrote int) {
	b.mu.Lock()
	b.wrote += uint64(wrote)
	b.landed()
	more := b.queue != nil || b.ping || len(b.pongs) > 0
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
func (b *Box) keep(rest []byte, wrote int) {
	b.mu.Lock()
	b.wrote += uint64(wrote)
	if !b.dead {
		b.rest = append([]byte(nil), rest...)
	}
	b.mu.Unlock()
}

var slowBatches = sync.Pool{New: func() any { return newBatch(slowBatchBytes) }}

// drain writes, waiting for the socket, until the queue is empty or the peer took
// nothing for WriteTimeout.
func (b *Box) drain() {
	if !b.slow {
		b.slow = true
		limitUnsent(b.tcp)
		_, _, b.acks = acknowledged(b.tcp)
	}
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

// writeWaiting writes all of p. It gives up a peer that takes nothing for WriteTimeout.
func (b *Box) writeWaiting(p []byte) error {
	defer b.conn.SetWriteDeadline(time.Time{}) // an expired one would fail the next write
	switch {
	case b.raw != nil:
		return b.writeInSteps(p)
	case b.acks:
		return b.writeWatched(p)
	}
	timeout := b.writers.limits.WriteTimeout
	for len(p) > 0 {
		b.conn.SetWriteDeadline(time.Now().Add(timeout))
		n, err := b.conn.Write(p[:min(len(p), blindStep)])
		b.count(n)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// blindStep is how much is written at a time if the server cannot see how much the peer takes. A
// client that takes 1 KB/s takes so much within WriteTimeout.
const blindStep = 4 << 10

// writeChecks is how often a write is checked within WriteTimeout.
const writeChecks = 4

// writeInSteps writes to a plain socket, which a deadline does not harm.
func (b *Box) writeInSteps(p []byte) error {
	timeout := b.writers.limits.WriteTimeout
	stall := b.watchStall()
	for {
		b.conn.SetWriteDeadline(time.Now().Add(timeout / writeChecks))
		n, err := b.conn.Write(p)
		b.count(n)
		p = p[n:]
		if !errors.Is(err, os.ErrDeadlineExceeded) || stall.lasts(n) {
			return err
		}
	}
}

// writeWatched writes to a connection that is of no use after a deadline has passed, such as TLS. The
// deadline is moved for as long as the peer takes something.
func (b *Box) writeWatched(p []byte) error {
	b.conn.SetWriteDeadline(time.Now().Add(b.writers.limits.WriteTimeout))
	w := watches.Get().(*writeWatch)
	w.begin(b)
	n, err := b.conn.Write(p)
	w.end()
	watches.Put(w)
	b.count(n)
	return err
}

// writeWatch watches one write at a time. Watches are reused, because nearly all writes end before
// the first check.
type writeWatch struct {
	timer *time.Timer

	mu    sync.Mutex // guards what follows
	box   *Box       // that is writing; nil: none is
	stall *stall     // since the first check
}

var watches = sync.Pool{New: func() any {
	w := new(writeWatch)
	w.timer = time.AfterFunc(time.Hour, w.check)
	return w
}}

func (w *writeWatch) begin(b *Box) {
	w.mu.Lock()
	w.box = b
	w.mu.Unlock()
	w.timer.Reset(b.writers.limits.WriteTimeout / writeChecks)
}

func (w *writeWatch) end() {
	w.timer.Stop()
	w.mu.Lock()
	w.box, w.stall = nil, nil
	w.mu.Unlock()
}

func (w *writeWatch) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.box == nil {
		return
	}
	if w.stall == nil {
		w.stall = w.box.watchStall()
	}
	conn, timeout := w.box.conn, w.box.writers.limits.WriteTimeout
	if w.stall.lasts(0) {
		conn.SetWriteDeadline(time.Now())
		return
	}
	// Later than the check that decides: what the peer takes shortly before that counts too.
	conn.SetWriteDeadline(time.Now().Add(timeout))
	w.timer.Reset(timeout / writeChecks)
}

// stall watches whether the peer of a box takes anything.
type stall struct {
	box   *Box
	taken uint64
	since time.Time // it has taken nothing
}

func (b *Box) watchStall() *stall {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &stall{box: b, taken: b.taken(), since: time.Now()}
}

// lasts reports whether the peer has taken nothing for WriteTimeout. n is how much the
// kernel has taken since the last call.
func (s *stall) lasts(n int) bool {
	s.box.mu.Lock()
	taken := s.box.taken()
	s.box.mu.Unlock()
	if n > 0 || taken > s.taken {
		s.since = time.Now()
	}
	s.taken = taken // also when a window got smaller: it opens again from there
	return time.Since(s.since) >= s.box.writers.limits.WriteTimeout
}

func (b *Box) count(n int) {
	b.mu.Lock()
	b.wrote += uint64(n)
	b.mu.Unlock()
}
