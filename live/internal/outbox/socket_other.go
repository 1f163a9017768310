//go:build !unix

package outbox

import (
	"errors"
	"net"
	"syscall"
)

// rawConn returns nil. On this system a write that does not block is not possible with the runtime's
// poller. So a goroutine writes to every connection.
func rawConn(net.Conn) syscall.RawConn { return nil }

type batch struct {
	buf []byte
	portionOfWork
}

func newBatch(size int) *batch { return &batch{buf: make([]byte, 0, size)} }

func (*batch) writeNow(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }
