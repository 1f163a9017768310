package natsbroker

import (
	"os"

	"golang.org/x/sys/unix"
)

// fileNumber returns a number that a file keeps as long as it exists, and that no copy of it
// has; 0: unknown. The inode does not suffice: a copy may get the inode of a file that was
// removed before.
func fileNumber(f *os.File) uint64 {
	var s unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &s); err != nil {
		return 0
	}
	number := s.Ino
	if s.Mask&unix.STATX_BTIME != 0 { // the time at which it was made; not every file system has it
		number = number*31 + uint64(s.Btime.Sec)*1e9 + uint64(s.Btime.Nsec)
	}
	return number
}
