//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package natsbroker

import (
	"os"
	"syscall"
)

// fileNumber is the number that a file keeps as long as it exists, and no copy of it has.
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
