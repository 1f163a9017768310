//go:build unix

package live_test

import (
	"syscall"
	"time"
)

// processTime is the time of all CPUs that the process has taken.
func processTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
