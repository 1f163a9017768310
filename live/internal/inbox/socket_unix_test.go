//go:build unix

package inbox

import (
	"io"
	"net"
	"syscall"
	"testing"
)

const hasHandles = true

// handled is a script with a handle. It is a pipe of the kernel. When the pipe is empty, the next
// piece is written.
type handled struct {
	net.Conn
	near, far int
	pieces    [][]byte
	ended     bool
}

// mostOfPiece is how many bytes the pipe of every kernel takes.
const mostOfPiece = 4096

// withHandle returns a connection with the pieces, and its handle.
func withHandle(t testing.TB, pieces [][]byte) (net.Conn, syscall.RawConn) {
	t.Helper()
	var fds [2]int
	if err := syscall.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	h := &handled{near: fds[0], far: fds[1], pieces: pieces}
	t.Cleanup(func() {
		syscall.Close(h.near)
		h.end()
	})
	if err := syscall.SetNonblock(h.near, true); err != nil {
		t.Fatal(err)
	}
	return h, pipeHandle{h}
}

func (h *handled) end() {
	if !h.ended {
		h.ended = true
		syscall.Close(h.far)
	}
}

func (h *handled) feed() {
	if len(h.pieces) == 0 {
		h.end()
		return
	}
	n := min(len(h.pieces[0]), mostOfPiece)
	syscall.Write(h.far, h.pieces[0][:n])
	if h.pieces[0] = h.pieces[0][n:]; len(h.pieces[0]) == 0 {
		h.pieces = h.pieces[1:]
	}
}

func (h *handled) Read(b []byte) (int, error) {
	for {
		switch n, err := syscall.Read(h.near, b); {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case err != syscall.EAGAIN && err != syscall.EINTR:
			return 0, err
		}
		h.feed()
	}
}

func (h *handled) RemoteAddr() net.Addr { return &net.UnixAddr{} }

// pipeHandle is the handle of a pipe.
type pipeHandle struct{ *handled }

func (h pipeHandle) Read(try func(fd uintptr) bool) error {
	for !try(uintptr(h.near)) {
		h.feed()
	}
	return nil
}

func (h pipeHandle) Write(func(fd uintptr) bool) error { panic("a reader does not write") }
func (h pipeHandle) Control(func(fd uintptr)) error    { panic("a reader only reads") }
