package outbox

// This file finds out how much a peer has taken. On Linux the kernel tells how many bytes a peer has
// acknowledged, below TLS too. On other systems the bytes that the kernel has taken are counted
// instead.

// Progress returns a number that rises when the peer takes bytes, and whether there are bytes that
// the peer has not taken. Only the difference between two such numbers has a meaning.
func (b *Box) Progress() (taken uint64, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken(), b.bytes > 0 || unacknowledged(b.tcp) > 0
}

// HasLeft reports whether the peer has closed or reset the connection. Only the kernel of Linux tells
// that. On other systems HasLeft returns false.
func (b *Box) HasLeft() bool { return hasLeft(b.tcp) }

// InFlight reports whether bytes were sent that the peer's kernel has not acknowledged. A kernel acknowledges them at
// once, also while its program reads nothing. Bytes for which it has no space are not sent. Only the
// kernel of Linux tells that. On other systems InFlight returns false.
func (b *Box) InFlight() bool { return inFlight(b.tcp) }

// taken returns a number that rises when the peer takes bytes; mu is held.
//
// A peer's kernel acknowledges the bytes in its buffer before the peer reads them. When the peer has
// read, its kernel opens the window. That counts as well, because the next bytes may come much later:
// our kernel waits with the next bytes until its timer runs out, if the window is less than a segment
// (64 KB on loopback). Each time that it finds the window shut, the timer waits twice as long. So
// after a stall of seven seconds the peer may get no bytes for six more seconds.
func (b *Box) taken() uint64 {
	if n, window, ok := acknowledged(b.tcp); ok {
		return 2*n + window // n counts twice, because the window shrinks by as much as n grows
	}
	return b.wrote
}

// unsentBytes is how many unsent bytes the kernel is asked to hold at most, for a socket that was
// full once. Without that the kernel would take megabytes, and a ping would wait behind them.
const unsentBytes = 32 << 10
