package outbox

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
	"github.com/livetopic/livetopic/live/internal/durations"
)

// This file counts what the boxes of a server hold and write. Counting must cost next to nothing: a
// burst takes 150 ns for each delivery. So what is queued is counted on the List of the caller, and
// added once for each List. What is written is counted once for each write, in one of several sets of
// figures, so that two CPUs seldom write to the same line of the cache.

// WriteSizes is how many sizes of writes are told apart: of at most 1, 2, 4, 8, 16, 32, 64 and 128
// frames, and of more.
const WriteSizes = 9

// Figures are the figures of all boxes of a Writers.
type Figures struct {
	WaitingFrames, WaitingBytes int // what waits or is being written now

	Bytes         uint64             // bytes that sockets took
	Frames        uint64             // frames that sockets took, without pings and pongs
	Writes        [WriteSizes]uint64 // writes with such frames, by how many they had
	DroppedOldest uint64             // frames that were dropped for newer ones, see Tag
	DroppedLatest uint64             // the same, of tags with Latest

	// Delivery counts the times from Frame.Queued until a socket has taken the frame. Frames that
	// have no such time do not count.
	DeliveryCounts [durations.Buckets]uint64
	DeliverySum    time.Duration
}

// depth is how much waits or is being written.
type depth struct{ frames, bytes int }

func (d depth) minus(other depth) depth { return depth{d.frames - other.frames, d.bytes - other.bytes} }

// depth returns what Held counts; mu is held.
func (b *Box) depth() depth { return depth{b.frames + len(b.aside), b.bytes + b.asideBytes} }

// figures are counted by the goroutines that write. Each goroutine uses the figures of its batch.
type figures struct {
	landedFrames, landedBytes atomic.Uint64 // they wait no more
	bytes                     atomic.Uint64
	writes                    [WriteSizes]atomic.Uint64
	delivery                  durations.Counter
	_                         [64]byte // keeps neighbours on different cache lines
}

// queued counts what is queued. Goroutines that publish use it.
type queued struct {
	_             [64]byte // keeps neighbours on different cache lines
	frames, bytes atomic.Int64
	_             [64]byte
}

// add counts what was queued, or what was dropped if the numbers are negative.
func (q *queued) add(d depth) {
	if d == (depth{}) {
		return
	}
	q.frames.Add(int64(d.frames))
	q.bytes.Add(int64(d.bytes))
}

// land counts a write that has ended.
func (f *figures) land(w *flight) {
	f.landedFrames.Add(uint64(w.frames))
	f.landedBytes.Add(uint64(w.bytes))
	f.writes[min(bits.Len(uint(w.frames-1)), WriteSizes-1)].Add(1)
	if w.since != 0 {
		f.delivery.Add(time.Duration(clock.Now() - w.since))
	}
}

// lanes numbers the batches.
var lanes atomic.Uint32

// laned gives a new batch its number. The pools of batches keep one for each CPU, so two CPUs seldom
// use the same figures.
func laned(b *batch) *batch {
	b.lane = lanes.Add(1)
	return b
}

// figuresOf returns the figures in which a batch counts.
func (w *Writers) figuresOf(b *batch) *figures { return &w.figures[b.lane%uint32(len(w.figures))] }

// Figures returns the figures. They are read one after another, so they may not fit together exactly.
func (w *Writers) Figures() Figures {
	var all Figures
	var landedFrames, landedBytes uint64
	for i := range w.figures {
		f := &w.figures[i]
		landedFrames += f.landedFrames.Load()
		landedBytes += f.landedBytes.Load()
		all.Bytes += f.bytes.Load()
		for size := range f.writes {
			all.Writes[size] += f.writes[size].Load()
		}
		f.delivery.AddTo(&all.DeliveryCounts, &all.DeliverySum)
	}
	// What is queued is read last, and may not be counted yet when it is written already.
	all.Frames = landedFrames
	all.WaitingFrames = max(int(w.queued.frames.Load()-int64(landedFrames)), 0)
	all.WaitingBytes = max(int(w.queued.bytes.Load()-int64(landedBytes)), 0)
	all.DroppedOldest, all.DroppedLatest = w.droppedOldest.Load(), w.droppedLatest.Load()
	return all
}

// countDropped counts a frame that was dropped to make space for another.
func (w *Writers) countDropped(latest bool) {
	if latest {
		w.droppedLatest.Add(1)
	} else {
		w.droppedOldest.Add(1)
	}
}
