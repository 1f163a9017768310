//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package natsbroker

import (
	"os"
	"syscall"
)

// fileNumber returns a number that a file keeps as long as it exists; 0: unknown. A copy has
// another number, unless it gets the inode of a file that was removed before.
func fileNumber(f *os.File) uint64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(s.Ino)
	}
	return 0
}
