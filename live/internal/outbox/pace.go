package outbox

import (
	"sync/atomic"
	"time"
)

// pace keeps the writers from starting too early. Suppose that a burst of publications comes while
// the writers are idle. If they started at once, they would write the first message to every session
// alone, and the other messages later. That is twice as many writes, and writes are nearly all of
// the cost.
//
// A busy time lasts from the start of the first writer to the end of the last. If the writes of a
// busy time carried several frames each, the writers wait at the start of the next one, while
// publications keep coming. They wait at most as long as the last busy time was. A message then waits
// no longer than it would have waited for the extra writes.
//
// Publications that come one at a time do not wait, because their writes carry one frame each.
type pace struct {
	calls atomic.Int64 // how many times Writers.Write was called: about once for each publication

	// Guarded by Writers.mu. Without the lock, the first writer reads began, busy and deep: they
	// do not change while it waits.
	began  time.Time     // when the busy time began
	frames int           // written since then
	writes int           // the writes that carried these frames
	busy   time.Duration // how long the last busy time was
	deep   bool          // its writes carried several frames each
}

const (
	// deepWrite is a number of frames. If writes carry more on average, it pays to wait before
	// the next busy time.
	deepWrite = 3

	// maxHold bounds the wait. A screen shows a new picture every 16 ms; this is half of that.
	maxHold = 8 * time.Millisecond

	// grain is the pause between two checks for new publications. The kernel makes it up to a
	// millisecond when nothing else runs.
	grain = 100 * time.Microsecond
)

// portionOfWork holds the boxes that a writer has taken. It also counts the frames and writes since
// the writer last took boxes.
type portionOfWork struct {
	boxes          List
	frames, writes int
	lane           uint32 // tells which figures the writes count in; see figuresOf
}

// begin is called when the first writer starts.
func (p *pace) begin() { p.began = time.Now() }

// hold waits while publications keep coming, if the last busy time says that this pays.
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

// count adds the frames and writes of a writer.
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
