package websession

// Open returns of how many sessions sockets are known, of how many sockets FromLive knows, of
// all managers, and whether the revalidation runs.
func (m *Manager) Open() (groups, sockets int, running bool) {
	m.sockets.mu.Lock()
	defer m.sockets.mu.Unlock()
	visits.Range(func(_, _ any) bool { sockets++; return true })
	return len(m.sockets.groups), sockets, m.sockets.timer != nil
}
