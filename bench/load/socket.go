package load

import (
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// socket is as much of a net.Conn as crypto/tls needs, over a raw socket. A Read that
// finds nothing returns os.ErrDeadlineExceeded, after which crypto/tls may be asked again.
type socket struct {
	net.Conn // nil
	fd       int
}

func (s socket) Read(p []byte) (int, error) {
	n, err := unix.Read(s.fd, p)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write waits while the socket is full.
func (s socket) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n, err := unix.Write(s.fd, rest)
		switch {
		case err == nil:
			rest = rest[n:]
		case errors.Is(err, unix.EAGAIN):
			unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, 1000)
		case !errors.Is(err, unix.EINTR):
			return len(p) - len(rest), err
		}
	}
	return len(p), nil
}
