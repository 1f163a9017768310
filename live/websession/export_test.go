package websession

import "time"

// Open returns of how many sessions sockets are known, of how many sockets FromLive knows, of
// all managers, and whether the revalidation runs.
func (m *Manager) Open() (groups, sockets int, running bool) {
	m.sockets.mu.Lock()
	defer m.sockets.mu.Unlock()
	visits.Range(func(_, _ any) bool { sockets++; return true })
	return len(m.sockets.groups), sockets, m.sockets.timer != nil
}

// Expiry returns when the sockets of a session are to be closed, by its fingerprint.
func (m *Manager) Expiry(fp string) time.Time {
	m.sockets.mu.Lock()
	defer m.sockets.mu.Unlock()
	if g := m.sockets.groups[fp]; g != nil {
		return g.expiry
	}
	return time.Time{}
}
