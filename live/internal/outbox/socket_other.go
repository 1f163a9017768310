//go:build !unix

package outbox

import (
	"errors"
	"net"
	"syscall"
)

// rawConn returns nil: a non-blocking write is not to be had here without
// leaving the runtime's poller, so every connection takes the plain path.
func rawConn(net.Conn) syscall.RawConn { return nil }

type batch struct {
	buf []byte
	portionOfWork
}

func newBatch(size int) *batch { return &batch{buf: make([]byte, 0, size)} }

func (*batch) writeNow(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }
