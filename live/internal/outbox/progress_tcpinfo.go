//go:build linux && !386

// Package syscall has no getsockopt on 386.

package outbox

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

const (
	// unackedOffset is the offset of tcpi_unacked in struct tcp_info: how many segments were sent and are not acknowledged.
	unackedOffset = 24

	// bytesAckedOffset is the offset of tcpi_bytes_acked in struct tcp_info, since Linux 4.1.
	bytesAckedOffset = 120

	// sndWndOffset is the offset of tcpi_snd_wnd, since Linux 5.4. An older kernel tells no window.
	sndWndOffset = 228

	tcpClose     = 7 // TCP_CLOSE: the connection was reset
	tcpCloseWait = 8 // TCP_CLOSE_WAIT: the peer sends no more

	tcpNotsentLowat = 25     // TCP_NOTSENT_LOWAT
	siocOutq        = 0x5411 // SIOCOUTQ: bytes in the send queue that are not acknowledged
)

// acknowledged returns how many bytes the peer's kernel has acknowledged, and its window: how many
// more bytes it takes.
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

// hasLeft reports whether the peer has closed or reset the connection. It also works while no
// goroutine reads.
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

// inFlight reports whether the peer's kernel has not acknowledged some bytes that were sent to it. Bytes for
// which the peer has no space are not sent.
func inFlight(raw syscall.RawConn) (unacked bool) {
	if raw == nil {
		return false
	}
	raw.Control(func(fd uintptr) {
		var info [unackedOffset + 4]byte
		size := uint32(len(info))
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		unacked = errno == 0 && binary.NativeEndian.Uint32(info[unackedOffset:]) > 0
	})
	return unacked
}

// unacknowledged returns how many bytes the kernel holds because the peer has not acknowledged them.
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

// limitUnsent bounds how many unsent bytes the kernel holds. Only TCP sockets know this option.
// Other sockets refuse it, and stay as they are.
func limitUnsent(raw syscall.RawConn) {
	if raw == nil {
		return
	}
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotsentLowat, unsentBytes)
	})
}
