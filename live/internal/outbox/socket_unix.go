//go:build unix

package outbox

import (
	"net"
	"syscall"
)

// rawConn returns the handle of a plain socket's descriptor, or nil for any other connection. Only
// the types of package net themselves are plain sockets. A type that embeds one of them may have a
// Write method of its own, which must be called.
func rawConn(conn net.Conn) syscall.RawConn {
	var sc syscall.Conn
	switch c := conn.(type) {
	case *net.TCPConn:
		sc = c
	case *net.UnixConn:
		sc = c
	default:
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// batch belongs to one writer. It has the writer's buffer, its boxes, and the write that it makes
// now. The function value is made once, so that a write allocates no memory.
type batch struct {
	buf []byte
	portionOfWork

	p   []byte // the bytes of the write that is being made
	n   int    // how many of them the socket has taken
	err error
	try func(fd uintptr) bool // the method write
}

func newBatch(size int) *batch {
	b := &batch{buf: make([]byte, 0, size)}
	b.try = b.write
	return b
}

// writeNow writes as much of p as the socket takes without waiting.
func (b *batch) writeNow(raw syscall.RawConn, p []byte) (int, error) {
	b.p, b.n, b.err = p, 0, nil
	err := raw.Write(b.try)
	b.p = nil
	if err == nil {
		err = b.err
	}
	return b.n, err
}

// write writes p once. It always returns true, which says that it is done. Otherwise RawConn would
// wait for the socket. A goroutine of the box does that: see drain.
func (b *batch) write(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), b.p)
		if n > 0 {
			b.n = n
		}
		switch err {
		case nil, syscall.EAGAIN:
		case syscall.EINTR:
			continue
		default:
			b.err = err
		}
		return true
	}
}
