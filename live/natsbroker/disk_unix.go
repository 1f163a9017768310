//go:build darwin || freebsd || linux

package natsbroker

import "syscall"

// freeBytes returns the free space on the disk of a folder, in bytes; ok is false if it is
// unknown.
func freeBytes(dir string) (free int64, ok bool) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, false
	}
	return int64(uint64(fs.Bavail) * uint64(fs.Bsize)), true
}
