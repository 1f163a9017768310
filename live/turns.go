package live

import "sync"

// turns lets one goroutine at a time run a callback of a session. It is used like a sync.Mutex. A
// goroutine that waits for a sync.Mutex stops the time in a bubble of testing/synctest, and the callback
// may be waiting for that time. A goroutine that waits for turns does not. In the zero value no callback
// runs.
type turns struct {
	mu    sync.Mutex    // guards the fields below; no lock is taken under it
	taken bool          // a callback runs
	free  chan struct{} // closed when the callback has returned; nil: nobody waits
}

// Lock waits until no callback runs.
func (t *turns) Lock() {
	for {
		t.mu.Lock()
		if !t.taken {
			t.taken = true
			t.mu.Unlock()
			return
		}
		if t.free == nil {
			t.free = make(chan struct{})
		}
		free := t.free
		t.mu.Unlock()
		<-free
	}
}

func (t *turns) Unlock() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = false
	if t.free != nil {
		close(t.free)
		t.free = nil
	}
}
