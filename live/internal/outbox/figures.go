package outbox

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
	"github.com/livetopic/livetopic/live/internal/durations"
)

// This file counts the frames that the boxes of a server hold and write. Counting must cost next to
// nothing, because a delivery in a burst takes only 150 ns. So queued frames are counted on the List of
// the caller, and the count is added to Writers.queued once for each List. Written frames are counted in
// the batch of the goroutine that writes. That count is added once for each portion of boxes, to one of
// several sets of figures. So two CPUs seldom write to the same line of the cache.

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

// depth is how many frames and bytes wait or are being written.
type depth struct{ frames, bytes int }

func (d depth) minus(other depth) depth { return depth{d.frames - other.frames, d.bytes - other.bytes} }

// depth returns how much waits or is being written, with the frames in aside; mu is held.
func (b *Box) depth() depth { return depth{b.frames + len(b.aside), b.bytes + b.asideBytes} }

// figures are counted by the goroutines that write. Each goroutine uses the figures of its batch.
type figures struct {
	landedFrames, landedBytes atomic.Uint64 // of all writes that have ended
	bytes                     atomic.Uint64
	writes                    [WriteSizes]atomic.Uint64
	delivery                  durations.Counter
	_                         [64]byte // keeps neighbours on different cache lines
}

// newFigures returns one set of figures for each CPU, rounded up to a power of two.
func newFigures(cpus int) []figures { return make([]figures, 1<<bits.Len(uint(cpus-1))) }

// wrote counts what a goroutine has written since it last called countWrote. Only that goroutine uses it.
type wrote struct {
	landed   depth
	bytes    uint64
	writes   [WriteSizes]uint32
	measured []time.Duration // from Frame.Queued to the end of the write; it has space for a portion of boxes
}

// queued counts the frames that were queued since the Writers were made, less those that were dropped.
// Goroutines that publish use it. It lies beside other fields that they use in the same call.
type queued struct{ frames, bytes atomic.Int64 }

// add counts queued frames. Negative numbers stand for dropped frames.
func (q *queued) add(d depth) {
	if d == (depth{}) {
		return
	}
	q.frames.Add(int64(d.frames))
	q.bytes.Add(int64(d.bytes))
}

// land counts a write that has ended.
func (w *wrote) land(f *flight) {
	w.landed.frames += f.frames
	w.landed.bytes += f.bytes
	w.writes[min(bits.Len(uint(f.frames-1)), WriteSizes-1)]++
	if f.since != 0 {
		w.measured = append(w.measured, time.Duration(clock.Now()-f.since))
	}
}

// countWrote counts what a goroutine has written. It is called after each portion of boxes, and before
// a write that may wait.
func (w *Writers) countWrote(b *batch) {
	done := &b.wrote
	if done.bytes == 0 && done.landed == (depth{}) {
		return
	}
	f := w.figuresOf(b)
	f.bytes.Add(done.bytes)
	f.landedFrames.Add(uint64(done.landed.frames))
	f.landedBytes.Add(uint64(done.landed.bytes))
	for size, n := range done.writes {
		if n > 0 {
			f.writes[size].Add(uint64(n))
		}
	}
	for _, d := range done.measured {
		f.delivery.Add(d)
	}
	*done = wrote{measured: done.measured[:0]}
}

// lanes numbers the batches.
var lanes atomic.Uint32

// laned gives a new batch its number. The pools of batches keep one for each CPU, so two CPUs seldom
// use the same figures.
func laned(b *batch) *batch {
	b.lane = lanes.Add(1)
	b.wrote.measured = make([]time.Duration, 0, portion)
	return b
}

// figuresOf returns the figures in which a batch counts.
func (w *Writers) figuresOf(b *batch) *figures { return &w.figures[b.lane&uint32(len(w.figures)-1)] }

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
	// A frame may be written before it is counted as queued. So queued is read last, and may still be
	// too small.
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
