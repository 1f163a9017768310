package outbox

// IsHalfFree reports whether HalfFree would return nil. It is for frames that are left out, and
// made up for later, while the peer reads slowly.
func (b *Box) IsHalfFree() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.halfFree()
}
