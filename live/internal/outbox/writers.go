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
	// batchBytes is how many bytes one write carries at most: a burst of 64
	// publications of a kilobyte. A larger frame goes out alone, and is not copied.
	batchBytes = 64 << 10

	// slowBatchBytes is the same for a socket that was full or is not plain. A client that
	// takes 2 KB/s takes so many bytes within a write timeout.
	slowBatchBytes = 16 << 10
)

// Limits bound every box of a Writers.
type Limits struct {
	Frames       int           // frames that wait
	Bytes        int           // bytes that wait or are being written
	WriteTimeout time.Duration // how long a socket may take no byte
	FlushTimeout time.Duration // how long a peer that still takes or sends bytes has for a closing; see closing.go
	CloseTimeout time.Duration // how long a peer may leave a close frame unanswered
}

// fit reports whether a frame fits besides the frames and bytes that are queued already.
func (l *Limits) fit(frames, bytes int, f *frame.Frame) bool {
	return frames+f.Messages() <= l.Frames && bytes+f.Len() <= l.Bytes
}

// Writers send the queued frames of the boxes. There is at most one writing goroutine for each CPU.
// The goroutines start when a box has something to send, and end when no box has.
type Writers struct {
	limits  Limits
	max     int       // how many writers may run at the same time
	figures []figures // of what was written; see figuresOf

	watches sync.Pool // of *writeWatch. Not one for all servers: a timer belongs to the synctest bubble that made it

	droppedOldest, droppedLatest atomic.Uint64 // how many frames were dropped to make space for others

	mu      sync.Mutex // guards the fields below, except queued, and Box.next; no lock is taken under it
	list    List       // boxes with frames to send; the box that has waited longest comes first
	running int        // how many writers run
	pace    pace
	queued  queued
}

// NewWriters returns the writers of a server.
func NewWriters(limits Limits) *Writers {
	cpus := runtime.GOMAXPROCS(0)
	return &Writers{limits: limits, max: cpus, figures: newFigures(cpus)}
}

// List is a list of boxes that became busy. Its zero value is empty.
type List struct {
	head, tail *Box
	n          int
	queued     depth // frames that were queued with this list, and were not counted yet
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

// count counts what was queued with the list. It comes before the boxes are written.
func (w *Writers) count(list *List) {
	w.queued.add(list.queued)
	list.queued = depth{}
}

// Write makes the writers send the queued frames of the boxes on the list. It
// empties the list.
func (w *Writers) Write(list *List) {
	w.pace.calls.Add(1)
	w.count(list)
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
		go w.runFirst() // ends when the list is empty
	}
}

// WriteHere is Write, but it writes in the caller's goroutine, not in the writers'.
func (w *Writers) WriteHere(list *List) {
	w.count(list)
	if list.n == 0 {
		return
	}
	batch := batches.Get().(*batch)
	defer batches.Put(batch)
	for b := list.pop(); b != nil; b = list.pop() {
		b.flush(batch)
	}
	batch.frames, batch.writes = 0, 0
	w.countWrote(batch)
}

func (w *Writers) write(b *Box) {
	var list List
	list.add(b)
	w.Write(&list)
}

var batches = sync.Pool{New: func() any { return laned(newBatch(batchBytes)) }}

// runFirst is run for the writer that begins a busy time.
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
		w.countWrote(batch)
	}
}

// portion is how many boxes a writer takes at a time. With so many boxes it seldom needs the lock,
// and other writers still find boxes.
const portion = 16

// take moves boxes from the list to the batch. If boxes are left on the list, it starts another
// writer. If the list was empty it returns false, and the caller must end.
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

// flush sends the queued frames, as many as fit in the batch, in one write that does not wait. If
// the socket does not take all bytes, a goroutine sends the rest. A connection that is not a plain
// socket gets a goroutine too.
func (b *Box) flush(batch *batch) {
	if b.raw == nil {
		go b.drain() // ends when the queue is empty or writing has failed
		return
	}
	bytes := b.fill(batch)
	if bytes == nil {
		return
	}
	batch.writes++
	batch.frames += b.flying.frames
	n, err := batch.writeNow(b.raw, bytes)
	batch.wrote.bytes += uint64(n)
	switch {
	case err != nil:
		b.fail(err)
	case n < len(bytes):
		b.keep(bytes[n:], n)
		go b.drain() // ends when the queue is empty or writing has failed
	default:
		b.finishWrite(n, &batch.wrote)
	}
}

// finishWrite counts a write that the socket has taken. If more frames were queued meanwhile, it puts
// the box at the end of the list, so that one busy session does not hold up the others.
func (b *Box) finishWrite(n int, wrote *wrote) {
	b.mu.Lock()
	b.wrote += uint64(n)
	b.landed(wrote)
	more := b.queue != nil || b.ping || len(b.pongs) > 0
	if !more {
		b.flushed()
	}
	b.mu.Unlock()
	if more {
		b.writers.write(b)
	}
}

// keep keeps the bytes that the socket did not take. It copies them, because they may lie in the
// buffer of a batch, which is used again.
func (b *Box) keep(rest []byte, wrote int) {
	b.mu.Lock()
	b.wrote += uint64(wrote)
	if !b.dead {
		b.rest = append([]byte(nil), rest...)
	}
	b.mu.Unlock()
}

var slowBatches = sync.Pool{New: func() any { return laned(newBatch(slowBatchBytes)) }}

// drain writes until the queue is empty. It waits for the socket, but gives up the connection when
// the peer has taken no byte for WriteTimeout.
func (b *Box) drain() {
	if !b.slow {
		b.slow = true
		limitUnsent(b.tcp)
		_, _, b.acks = acknowledged(b.tcp)
	}
	batch := slowBatches.Get().(*batch)
	defer slowBatches.Put(batch)
	for {
		bytes := b.fill(batch)
		b.writers.countWrote(batch)
		if bytes == nil {
			return
		}
		if err := b.writeWaiting(bytes); err != nil {
			b.fail(err)
			return
		}
		batch.wrote.bytes += uint64(len(bytes))
	}
}

// writeWaiting writes all of p. It returns an error if the peer takes no byte for WriteTimeout.
func (b *Box) writeWaiting(p []byte) error {
	defer b.conn.SetWriteDeadline(time.Time{}) // the next write would fail with an expired deadline
	switch {
	case b.raw != nil:
		return b.writeInSteps(p)
	case b.acks:
		return b.writeWatched(p)
	}
	for len(p) > 0 {
		step := p[:min(len(p), blindStep)]
		if err := b.writeWatched(step); err != nil {
			return err
		}
		p = p[len(step):]
	}
	return nil
}

// blindStep is how many bytes are written at a time if the server cannot see how much the peer takes.
// A client that takes 1 KB/s takes so many within WriteTimeout.
const blindStep = 4 << 10

// writeChecks is how often a write is checked within WriteTimeout.
const writeChecks = 4

// checkEvery is the time between two checks of a write.
func (b *Box) checkEvery() time.Duration { return b.writers.limits.WriteTimeout / writeChecks }

// writeInSteps writes to a plain socket. Such a socket can be used after a deadline has passed.
func (b *Box) writeInSteps(p []byte) error {
	stall := b.watchStall()
	for {
		b.conn.SetWriteDeadline(time.Now().Add(b.checkEvery()))
		n, err := b.conn.Write(p)
		b.count(n)
		p = p[n:]
		if !errors.Is(err, os.ErrDeadlineExceeded) || stall.lasts(n) {
			return err
		}
	}
}

// writeWatched writes to a connection that cannot be used after a deadline has passed, such as TLS.
// Only the check that finds that the peer takes no bytes sets a deadline. A deadline that was set before
// would pass while this process is stopped, and the peer would be cut for that.
func (b *Box) writeWatched(p []byte) error {
	w := b.writers.watch()
	w.begin(b)
	n, err := b.conn.Write(p)
	w.end()
	b.writers.watches.Put(w)
	b.count(n)
	return err
}

// writeWatch watches one write at a time. Watches are reused, because nearly all writes end before
// the first check.
type writeWatch struct {
	timer *time.Timer // calls check

	mu    sync.Mutex // guards the fields below; taken before Box.mu
	box   *Box       // whose write is watched; nil: there is no write
	stall *stall     // made by the first check of a write; nil: there was no check yet
}

// watch returns a watch that is not in use.
func (w *Writers) watch() *writeWatch {
	if used, ok := w.watches.Get().(*writeWatch); ok {
		return used
	}
	fresh := new(writeWatch)
	fresh.timer = time.AfterFunc(time.Hour, fresh.check)
	return fresh
}

func (w *writeWatch) begin(b *Box) {
	w.mu.Lock()
	w.box = b
	w.mu.Unlock()
	w.timer.Reset(b.checkEvery())
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
	if w.stall.lasts(0) {
		w.box.conn.SetWriteDeadline(time.Now())
		return
	}
	w.timer.Reset(w.box.checkEvery())
}

// stall finds out for how long the peer of a box has taken no byte.
type stall struct {
	box     *Box
	taken   uint64    // Box.taken at the last check
	since   time.Time // the last time at which the peer was seen to take bytes
	checked time.Time // the last check
}

func (b *Box) watchStall() *stall {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	return &stall{box: b, taken: b.taken(), since: now, checked: now}
}

// lasts reports whether the peer has taken no byte for WriteTimeout. n is how many bytes the kernel
// has taken since the last call. It is called once in checkEvery. A call that comes late means that this
// process was stopped, or had no CPU. That is not the peer's fault, so the pause counts as one checkEvery.
func (s *stall) lasts(n int) bool {
	s.box.mu.Lock()
	taken := s.box.taken()
	s.box.mu.Unlock()
	now, every := time.Now(), s.box.checkEvery()
	if pause := now.Sub(s.checked); pause > 2*every {
		s.since = s.since.Add(pause - every)
	}
	s.checked = now
	if n > 0 || taken > s.taken {
		s.since = now
	}
	s.taken = taken // also if it is less, because the window got smaller: the window opens again from there
	return now.Sub(s.since) >= s.box.writers.limits.WriteTimeout
}

// count counts bytes that the socket has taken.
func (b *Box) count(n int) {
	b.mu.Lock()
	b.wrote += uint64(n)
	b.mu.Unlock()
}
