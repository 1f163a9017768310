//go:build unix

package inbox

import (
	"syscall"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// readNow reads the bytes that the socket has. It returns false if there are none. Then the caller
// waits for the socket.
func (r *Reader) readNow(fd uintptr) bool {
	buf := readBufs.Get().(*readBuf)
	for {
		n, err := syscall.Read(int(fd), buf.bytes[:])
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			buf.to = n
			r.buf = buf
			r.heard.Store(clock.Now())
			return true
		case err == syscall.EAGAIN:
			readBufs.Put(buf)
			return false
		default: // the next Read of the connection returns the end again, but not an error
			readBufs.Put(buf)
			r.readErr = err
			return true
		}
	}
}
