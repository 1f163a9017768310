package program

import "sync"

// rooms tracks which rooms a session is in.
type rooms struct {
	mu sync.Mutex
	of map[string][]string
}

func newRooms() *rooms { return &rooms{of: make(map[string][]string)} }

func (r *rooms) add(sessionID, room string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[sessionID] = append(r.of[sessionID], room)
}

func (r *rooms) take(sessionID string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.of[sessionID]
	delete(r.of, sessionID)
	return all
}
