package outbox

import (
	"sync/atomic"
	"time"
)

// pace keeps the writers from starting too early. A burst of publications that
// finds them idle would have its first message written to every session alone,
// and the rest later: twice the writes, which are nearly all the cost. So after
// a busy time in which writes carried several frames each, they hold back while
// publications keep coming, for as long as that busy time lasted at most: what a
// message is held up is what it would have waited behind the extra writes. A
// single publication is never held up, since writes that carry one frame do not
// make the next time wait.
type pace struct {
	calls atomic.Int64 // publications made

	// Guarded by Writers.mu; busy and deep are read by the first writer, which
	// nobody changes them under.
	began  time.Time
	frames int // written since
	writes int
	busy   time.Duration // how long the last busy time was
	deep   bool          // its writes carried several frames
}

const (
	// deepWrite is how many frames a write has carried on average when waiting
	// would have paid.
	deepWrite = 3

	// maxHold bounds the wait: half a frame of a screen.
	maxHold = 8 * time.Millisecond

	// grain is the pause between two looks. The kernel makes it up to a
	// millisecond when nothing else runs.
	grain = 100 * time.Microsecond
)

// portionOfWork is what a writer has taken and done since it last came by.
type portionOfWork struct {
	boxes          List
	frames, writes int
}

// begin is called when the first writer starts.
func (p *pace) begin() { p.began = time.Now() }

// hold waits while publications keep coming, if that pays.
func (p *pace) hold() {
	if !p.deep {
		return
	}
	limit := min(p.busy, maxHold)
	for last := int64(-1); time.Since(p.began) < limit; time.Sleep(grain) {
		now := p.calls.Load()
		if now == last {
			return
		}
		last = now
	}
}

// count adds what a writer has done.
func (p *pace) count(batch *batch) {
	p.frames += batch.frames
	p.writes += batch.writes
	batch.frames, batch.writes = 0, 0
}

// end is called when the last writer ends.
func (p *pace) end() {
	p.busy = time.Since(p.began)
	p.deep = p.frames > deepWrite*p.writes
	p.frames, p.writes = 0, 0
}
