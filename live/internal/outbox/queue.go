package outbox

import (
	"sync"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// queue is a first-in, first-out list of frames. A box has one only while
// something waits in it, so that an idle session holds none.
type queue struct {
	frames []*frame.Frame
	head   int
}

// A queue that grew past this goes to the garbage collector rather than back
// to the pool, so that one slow session does not leave its memory to others.
const maxPooledQueue = 1024

var queues = sync.Pool{New: func() any { return &queue{frames: make([]*frame.Frame, 0, 8)} }}

func newQueue() *queue { return queues.Get().(*queue) }

// release empties the queue and gives it back.
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
