//go:build linux && !386

// On 386 package syscall has no getsockopt.

package outbox

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

const (
	// tcpi_bytes_acked stands at this offset of struct tcp_info, since Linux 4.1.
	bytesAckedOffset = 120

	// tcpi_snd_wnd does, since Linux 5.4. A kernel that does not know it tells no window.
	sndWndOffset = 228

	tcpClose     = 7 // TCP_CLOSE: the connection was reset
	tcpCloseWait = 8 // TCP_CLOSE_WAIT: the peer has said all it will

	tcpNotsentLowat = 25     // TCP_NOTSENT_LOWAT
	siocOutq        = 0x5411 // SIOCOUTQ: bytes in the send queue that are not acknowledged
)

// acknowledged returns how many bytes the peer's kernel has acknowledged, and how many it
// takes beyond these: its window.
func acknowledged(raw syscall.RawConn) (n, window uint64, ok bool) {
	if raw == nil {
		return 0, 0, false
	}
	raw.Control(func(fd uintptr) {
		var info [sndWndOffset + 4]byte
		size := uint32(len(info))
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 && size >= bytesAckedOffset+8 {
			n, ok = binary.NativeEndian.Uint64(info[bytesAckedOffset:]), true
			window = uint64(binary.NativeEndian.Uint32(info[sndWndOffset:]))
		}
	})
	return n, window, ok
}

// hasLeft reports whether the peer has closed or reset the connection. That is seen also
// while nobody reads.
func hasLeft(raw syscall.RawConn) (left bool) {
	if raw == nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		var state [1]byte // the first of struct tcp_info
		size := uint32(len(state))
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&state)), uintptr(unsafe.Pointer(&size)), 0)
		left = errno == 0 && (state[0] == tcpClose || state[0] == tcpCloseWait)
	})
	return left
}

// unacknowledged returns how many bytes the kernel holds for the peer.
func unacknowledged(raw syscall.RawConn) (n int) {
	if raw == nil {
		return 0
	}
	raw.Control(func(fd uintptr) {
		var queued int32
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, siocOutq, uintptr(unsafe.Pointer(&queued))); errno == 0 {
			n = int(queued)
		}
	})
	return n
}

// limitUnsent bounds what the kernel holds and has not sent. Other than TCP sockets
// refuse, and stay as they are.
func limitUnsent(raw syscall.RawConn) {
	if raw == nil {
		return
	}
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat, unsentBytes)
	})
}
