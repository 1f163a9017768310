package outbox

import (
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// While a box closes, it waits for its peer as long as the peer takes bytes. At some time the kernel
// has all that was queued, with the close frame at the end. From then on a peer that takes no byte
// for CloseTimeout is given up. If the peer still sends, it has perhaps not seen the close frame,
// which may lie in the buffer of a proxy. Then the peer has FlushTimeout.
//
// A peer that takes a byte now and then cannot hold its session for ever. It has FlushTimeout, and
// one second more for every slowestFlush bytes that were queued.

// slowestFlush is in bytes a second: so much takes the slowest of phones.
const slowestFlush = 1 << 10

// closingChecks is how often a closing is checked within CloseTimeout.
const closingChecks = 4

// closingState is the state of a box that closes. Its times are on the clock of package clock. It is
// guarded by Box.mu.
type closingState struct {
	deadline  int64  // when the peer is given up, even if it takes bytes
	flushed   bool   // the kernel has all that was queued
	flushedAt int64  // when flushed became true
	moved     int64  // when the peer was last seen to take or send bytes
	taken     uint64 // Box.taken at the last check
	heard     int64  // Owner.Heard at the last check
}

// startClosing starts the timer that watches the closing; mu is held.
func (b *Box) startClosing() {
	if b.timer != nil {
		return
	}
	l := &b.writers.limits
	b.closing.deadline = clock.Now() + int64(l.FlushTimeout) + int64(b.bytes)*int64(time.Second)/slowestFlush
	b.timer = time.AfterFunc(l.CloseTimeout/closingChecks, b.checkClosing)
}

// checkClosing kills the box if the peer has no more time. The timer calls it.
func (b *Box) checkClosing() {
	b.mu.Lock()
	giveUp := !b.dead && !b.mayGoOn()
	if !giveUp && !b.dead {
		b.timer.Reset(b.writers.limits.CloseTimeout / closingChecks)
	}
	b.mu.Unlock()
	if giveUp {
		b.Kill()
	}
}

// mayGoOn reports whether the peer still has time; mu is held.
func (b *Box) mayGoOn() bool {
	c, now := &b.closing, clock.Now()
	if now >= c.deadline {
		return false
	}
	if !c.flushed {
		return true // the goroutine that writes notices when the peer takes no bytes
	}
	taken, heard := b.taken(), b.owner.Heard()
	if taken > c.taken || heard > c.heard && now-c.flushedAt < int64(b.writers.limits.FlushTimeout) {
		c.moved = now
	}
	c.taken, c.heard = taken, heard
	return now-c.moved < int64(b.writers.limits.CloseTimeout)
}

// closingFlushed is called when the kernel has all that was queued; mu is held.
func (b *Box) closingFlushed() {
	c, now := &b.closing, clock.Now()
	c.flushed, c.flushedAt, c.moved = true, now, now
	c.taken, c.heard = b.taken(), b.owner.Heard()
	b.timer.Reset(b.writers.limits.CloseTimeout / closingChecks)
}
