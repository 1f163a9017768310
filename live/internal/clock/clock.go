// Package clock is a monotonic clock in eight bytes, for figures that many sessions keep.
package clock

import "time"

var start = time.Now()

// zero keeps the clock positive in synctest, whose time begins before start.
const zero = 1 << 62

// Now returns nanoseconds since an arbitrary time: only differences between two calls have
// a meaning. It is always positive, so 0 can stand for never.
func Now() int64 { return int64(time.Since(start)) + zero }
