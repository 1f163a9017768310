package live

import (
	"sync/atomic"
	"time"
)

// workers are the goroutines that run the application's code for sessions. There is one for each
// callback that runs. A new goroutine starts with a small stack, and decoding and callbacks make
// it grow by copying. So up to maxResting goroutines wait a moment for the next session. That
// saves a tenth of the cost of a chat message, and of a handshake.
type workers struct {
	next chan *Session // unbuffered: taken by a goroutine that waits
	idle atomic.Int32  // goroutines that wait
	over chan struct{} // closed by Shutdown: none waits any more
}

const (
	// workerRest is how long a goroutine waits for another session, and maxResting bounds
	// how many wait. A busy server seldom has more than 64 sessions with a message at the
	// same moment. All 64 stacks together take half a megabyte.
	workerRest = time.Second
	maxResting = 64
)

func newWorkers() workers {
	return workers{next: make(chan *Session), over: make(chan struct{})}
}

// run has a session's messages dealt with.
func (w *workers) run(s *Session) {
	s.server.running.Add(1) // safe: the session's reader is still counted, so Shutdown is still waiting
	select {
	case w.next <- s:
	default:
		go w.work(s) // ends when there is nothing to do for workerRest
	}
}

func (w *workers) work(s *Session) {
	var rest *time.Timer
	for s != nil {
		s.work()
		if rest == nil {
			rest = time.NewTimer(workerRest)
			defer rest.Stop()
		}
		s = w.await(rest)
	}
}

// await returns the next session, or nil if there are enough that wait, or none comes.
func (w *workers) await(rest *time.Timer) *Session {
	defer w.idle.Add(-1)
	if w.idle.Add(1) > maxResting {
		return nil
	}
	rest.Reset(workerRest)
	select {
	case s := <-w.next:
		return s
	case <-rest.C:
	case <-w.over:
	}
	return nil
}
