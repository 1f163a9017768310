package live

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// Sessions that were present cost nothing when they have gone. Package presence measures the rest of
// what they cost.
func TestPresenceThatIsOverCostsNothing(t *testing.T) {
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	const n, rooms = 100_000, 10_000
	s := New(Options{PresenceGrace: -1})
	sessions := make([]*Session, n)
	for i := range sessions {
		sessions[i] = &Session{server: s, id: fmt.Sprint(i), user: fmt.Sprint("user ", i)}
	}
	room := func(i int) string { return fmt.Sprint("room ", i%rooms) }
	before := heap()
	for i, session := range sessions {
		if err := s.presence.set(session, room(i), nil, true); err != nil {
			t.Fatal(err)
		}
	}
	full := heap() - before
	if got := s.PresenceCount(room(0)); got != n/rooms {
		t.Fatalf("%d are present", got)
	}
	for i, session := range sessions {
		s.presence.leave(session, room(i))
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s.presence.mu.Lock()
		running := s.presence.running
		s.presence.mu.Unlock()
		if !running {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("something is still to be done")
		}
	}
	left := heap() - before
	t.Logf("%d bytes each, and %d KB when all have gone", full/n, left>>10)
	if left > 128<<10 {
		t.Errorf("%d bytes are left", left)
	}
	runtime.KeepAlive(sessions)
	runtime.KeepAlive(s)
}
