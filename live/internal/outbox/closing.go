package outbox

import (
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// While a box closes, it waits for its peer as long as the peer takes bytes. Once the kernel
// has all that was queued, the close frame last, a peer that takes nothing more for
// CloseTimeout is given up. A peer that still sends has perhaps not seen the close frame,
// which may lie in the buffer of a proxy, so it gets FlushTimeout.
//
// A peer that takes a byte now and then cannot hold its session for ever: after
// FlushTimeout it must take slowestFlush on average.

// slowestFlush is in bytes a second: the slowest of phones.
const slowestFlush = 1 << 10

// closingChecks is how often a closing is checked within CloseTimeout.
const closingChecks = 4

// closingState is what a box knows of its closing. It is guarded by Box.mu.
type closingState struct {
	deadline  int64  // on the clock: whatever the peer takes
	flushed   bool   // the kernel has all
	flushedAt int64  // when it had
	moved     int64  // when the peer last took something, or sent something
	taken     uint64 // what it had taken then
	heard     int64  // when it had last sent something then
}

// startClosing starts the timer that watches the closing; mu is held.
func (b *Box) startClosing() {
	if b.timer != nil {
		return
	}
	l := &b.writers.limits
	b.closing.deadline = clock.Now() + int64(l.FlushTimeout) + int64(b.bytes)*int64(time.Second)/slowestFlush
	b.timer = time.AfterFunc(l.CloseTimeout/closingChecks, b.lookAfter)
}

// lookAfter is the timer's.
func (b *Box) lookAfter() {
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
		return true // the goroutine that writes notices that nothing is taken
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
