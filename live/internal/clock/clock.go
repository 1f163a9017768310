// Package clock is a monotonic clock. Its times take eight bytes, because many sessions keep some.
package clock

import "time"

var start = time.Now()

// zero keeps the clock positive in a synctest bubble. Time there begins before start.
const zero = 1 << 62

// Now returns nanoseconds since an arbitrary time. Only the difference between two calls has
// a meaning. The result is always positive, so 0 can stand for never.
func Now() int64 { return int64(time.Since(start)) + zero }

// At returns what Now has returned at a time that time.Now has returned in this process.
func At(t time.Time) int64 { return int64(t.Sub(start)) + zero }
