package load

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/wire"
)

// Stalled is what became of a session that did not read.
type Stalled struct {
	Received int  // deliveries that it found when it read at last
	Holes    int  // and how often some were missing between them
	Cut      bool // the server had ended the session
}

// silence is how long a stalled session, once it reads, waits for more.
const silence = 500 // milliseconds

// ReadStalled lets a stalled session read what there is.
func (g *Generator) ReadStalled(session int) (Stalled, error) {
	c := g.conns[session]
	var s Stalled
	next := uint32(0)
	data := c.rest
	for {
		for {
			f, rest, err := wire.ParseServerFrame(data)
			if errors.Is(err, wire.ErrShort) {
				break
			}
			if err != nil {
				return s, fmt.Errorf("session %d: %w", session, err)
			}
			data = rest
			if f.Opcode == wire.OpClose {
				s.Cut = true
				return s, nil
			}
			next = s.count(f.Payload, next)
		}
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, silence); n == 0 && err == nil {
			return s, nil
		}
		n, err := unix.Read(c.fd, g.buf)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case err != nil || n == 0:
			s.Cut = true
			return s, nil
		default:
			data = append(data[:len(data):len(data)], g.buf[:n]...)
		}
	}
}

// count counts the deliveries of a message whose first should be next.
func (s *Stalled) count(message []byte, next uint32) uint32 {
	for {
		m, rest, found, err := wire.NextMark(message)
		if err != nil || !found {
			return next
		}
		if m.Seq != next {
			s.Holes++
		}
		s.Received++
		next, message = m.Seq+1, rest
	}
}
