package outbox

import (
	"testing"
	"testing/synctest"
	"time"
)

// A timer of a bubble must not be used outside of it, so servers do not share the watches of writes.
func TestWatchesOfABubbleStayInIt(t *testing.T) {
	watch := func() {
		b := &Box{writers: NewWriters(Limits{WriteTimeout: time.Hour})}
		w := b.writers.watch()
		w.begin(b)
		w.end()
		b.writers.watches.Put(w)
	}
	for range 3 {
		synctest.Test(t, func(*testing.T) { watch() })
		watch()
	}
}
