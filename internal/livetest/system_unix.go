//go:build unix

package livetest

import "syscall"

// setReceiveBuffer is for a socket that is not yet connected.
func setReceiveBuffer(fd uintptr, size int) error {
	return syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, size)
}
