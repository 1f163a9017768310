package outbox

// What a peer has taken. On Linux the kernel tells how much a peer has acknowledged,
// below TLS too. Elsewhere what the kernel has taken must do.

// Progress returns how many bytes the peer has taken so far, and whether there are more
// that it has not. Only differences of the first mean something.
func (b *Box) Progress() (taken uint64, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken(), b.bytes > 0 || unacknowledged(b.tcp) > 0
}

// HasLeft reports whether the peer has closed or reset the connection, as far as the kernel
// tells: only on Linux.
func (b *Box) HasLeft() bool { return hasLeft(b.tcp) }

// taken returns a number that rises when the peer takes something; mu is held.
//
// A peer's kernel acknowledges what lies in its buffer before the peer reads it. When the
// peer has read, it opens its window, and that counts as well. The next bytes may come much
// later: a kernel does not fill a window that is less than a segment (64 KB on loopback) until its
// timer runs out. That waits twice as long each time that it found the window shut, so
// after a stall of seven seconds the peer may get nothing for six more.
func (b *Box) taken() uint64 {
	if n, window, ok := acknowledged(b.tcp); ok {
		return 2*n + window // what moves from the window to what is acknowledged counts
	}
	return b.wrote
}

// unsentBytes is how much the kernel is asked to hold of what it has not yet sent, for a
// socket that was full once. It would take megabytes, and a ping would wait behind them.
const unsentBytes = 32 << 10
