package load

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/wire"
)

// conn is one session's socket and what it has yet to receive.
type conn struct {
	fd      int
	index   int
	rest    []byte // the beginning of a frame whose end has not come
	topics  []string
	streams []uint32 // ascending
	next    []uint32 // for each stream, the sequence number that must come
	at      int      // the place in streams of the last delivery
	decoded bool     // its first message was looked at in full
}

// check takes m as the next delivery of its stream.
func (c *conn) check(m wire.Mark) error {
	at, ok := c.find(m.Stream)
	if !ok {
		return fmt.Errorf("a delivery of stream %d, which it did not subscribe to", m.Stream)
	}
	switch want := c.next[at]; {
	case m.Seq > want:
		return fmt.Errorf("lost or out of order: stream %d: %d came where %d was due", m.Stream, m.Seq, want)
	case m.Seq < want:
		return fmt.Errorf("duplicate or out of order: stream %d: %d came again where %d was due", m.Stream, m.Seq, want)
	}
	c.next[at]++
	return nil
}

// find looks first where publications in turn over the streams would have it.
func (c *conn) find(stream uint32) (int, bool) {
	if len(c.streams) == 0 {
		return 0, false
	}
	if c.streams[c.at] == stream {
		return c.at, true
	}
	next := c.at + 1
	if next == len(c.streams) {
		next = 0
	}
	if c.streams[next] == stream {
		c.at = next
		return next, true
	}
	at, ok := slices.BinarySearch(c.streams, stream)
	if ok {
		c.at = at
	}
	return at, ok
}

func (c *conn) subscribed(topic string) bool { return slices.Contains(c.topics, topic) }

func (c *conn) write(p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(c.fd, p)
		switch {
		case err == nil:
			p = p[n:]
		case errors.Is(err, unix.EAGAIN):
			unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}, 1000)
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("session %d: write: %w", c.index, err)
		}
	}
	return nil
}

// close resets the connection, so that tens of thousands of them leave no port
// behind in TIME_WAIT.
func (c *conn) close() {
	unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(c.fd)
}
