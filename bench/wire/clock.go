package wire

import (
	"time"

	"golang.org/x/sys/unix"
)

// clockBase ties Go's monotonic clock, which is cheap to read, to the machine's,
// which the server and the generator share.
var clockBase, clockOffset = func() (time.Time, int64) {
	base := time.Now()
	return base, monotonic()
}()

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("wire: no monotonic clock: " + err.Error())
	}
	return ts.Nano()
}

// Now is the machine's monotonic clock in nanoseconds: the same in all processes.
func Now() int64 { return clockOffset + int64(time.Since(clockBase)) }

// SleepUntil sleeps until the given Now, with the kernel's precision rather than
// the millisecond of the runtime's timers.
func SleepUntil(t int64) {
	ts := unix.NsecToTimespec(t)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) == unix.EINTR {
	}
}
