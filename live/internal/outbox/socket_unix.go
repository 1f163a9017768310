//go:build unix

package outbox

import (
	"net"
	"syscall"
)

// rawConn returns the descriptor's handle of a plain socket, or nil for any
// other connection. Only the very types of package net count: a type that
// embeds one may have a Write of its own that must not be passed by.
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

// batch is what a writer has: a buffer, and its one write at a time. The
// function value is made once, so that a write allocates nothing.
type batch struct {
	buf []byte
	portionOfWork

	p   []byte
	n   int
	err error
	try func(fd uintptr) bool
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

// write always reports that it is done: RawConn would otherwise wait for the
// socket, which is the slow path's work.
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
