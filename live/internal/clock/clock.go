// Package clock is a monotonic clock in eight bytes, for figures that many sessions keep.
package clock

import "time"

var start = time.Now()

// zero keeps the clock positive in tests too, whose false time lies before start.
const zero = 1 << 62

// Now returns nanoseconds that only differences mean something of. It is never 0, which
// can stand for never.
func Now() int64 { return int64(time.Since(start)) + zero }
