package load

import (
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/wire"
)

// conn is one session's socket and what it has yet to receive.
type conn struct {
	Session
	fd      int
	stream  io.ReadWriter // the socket, or TLS on it
	index   int
	dialed  int64    // when, by wire.Now
	asked   bool     // for the upgrade
	open    bool     // the server has agreed
	ready   bool     // and has greeted it, where servers do
	gone    bool     // it ended before
	rest    []byte   // the beginning of a frame whose end has not come
	next    []uint32 // for each stream, the sequence number that must come
	at      int      // the place in Streams of the last delivery
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
	if len(c.Streams) == 0 {
		return 0, false
	}
	if c.Streams[c.at] == stream {
		return c.at, true
	}
	next := c.at + 1
	if next == len(c.Streams) {
		next = 0
	}
	if c.Streams[next] == stream {
		c.at = next
		return next, true
	}
	at, ok := slices.BinarySearch(c.Streams, stream)
	if ok {
		c.at = at
	}
	return at, ok
}

func (c *conn) subscribed(topic string) bool { return slices.Contains(c.Topics, topic) }

func (c *conn) write(p []byte) error {
	if _, err := c.stream.Write(p); err != nil {
		return fmt.Errorf("session %d: write: %w", c.index, err)
	}
	return nil
}

// close resets the connection, so that tens of thousands of them leave no port
// behind in TIME_WAIT.
func (c *conn) close() {
	unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(c.fd)
}
