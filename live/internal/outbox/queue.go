package outbox

import (
	"sync"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// queue is a first-in, first-out list of frames. A box has a queue only while
// frames wait, so an idle session takes no memory for it.
type queue struct {
	frames []*frame.Frame
	head   int // the index of the oldest frame; the frames before it were taken
}

// maxPooledQueue is how many frames a queue in the pool has memory for at most. A larger queue goes
// to the garbage collector. Otherwise the memory of one slow session would stay in use by others.
const maxPooledQueue = 1024

var queues = sync.Pool{New: func() any { return &queue{frames: make([]*frame.Frame, 0, 8)} }}

func newQueue() *queue { return queues.Get().(*queue) }

// release empties the queue and gives it back to the pool.
func (q *queue) release() {
	if cap(q.frames) > maxPooledQueue {
		return
	}
	clear(q.frames)
	q.frames, q.head = q.frames[:0], 0
	queues.Put(q)
}

func (q *queue) len() int { return len(q.frames) - q.head }

func (q *queue) push(f *frame.Frame) {
	if len(q.frames) == cap(q.frames) && q.head > 0 {
		n := copy(q.frames, q.frames[q.head:])
		clear(q.frames[n:])
		q.frames, q.head = q.frames[:n], 0
	}
	q.frames = append(q.frames, f)
}

func (q *queue) peek() *frame.Frame { return q.frames[q.head] }

func (q *queue) pop() {
	q.frames[q.head] = nil
	q.head++
}

// waiting returns the frames in the queue, oldest first.
func (q *queue) waiting() []*frame.Frame { return q.frames[q.head:] }

// keep drops the frames after the first n.
func (q *queue) keep(n int) {
	clear(q.frames[q.head+n:])
	q.frames = q.frames[:q.head+n]
}
