//go:build unix

package inbox

import (
	"syscall"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// readNow reads what the socket has, or reports that it has to be waited for.
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
		default: // The end shows again in the next Read of the connection. An error does not.
			readBufs.Put(buf)
			r.failed = err
			return true
		}
	}
}
