package websession

import "time"

// Open returns how many sessions have sockets, how many sockets of all managers FromLive knows, and
// whether a revalidation is planned.
func (m *Manager) Open() (groups, sockets int, running bool) {
	m.sockets.mu.Lock()
	defer m.sockets.mu.Unlock()
	visits.Range(func(_, _ any) bool { sockets++; return true })
	return len(m.sockets.groups), sockets, m.sockets.timer != nil
}

// Expiry returns when the session with this fingerprint expires, as its sockets know it.
func (m *Manager) Expiry(fp string) time.Time {
	m.sockets.mu.Lock()
	defer m.sockets.mu.Unlock()
	if g := m.sockets.groups[fp]; g != nil {
		return g.expiry
	}
	return time.Time{}
}
