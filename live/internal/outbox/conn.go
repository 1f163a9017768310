package outbox

import (
	"bufio"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// Conn is the connection that coder/websocket gets. It reads from the socket;
// what coder/websocket writes, always a whole control frame in one Write
// because it is given no data to send, goes through the Box like all else, so
// that frames never mix and the reader never waits for a full socket.
type Conn struct {
	Box
	net.Conn

	in       inbox         // the reader's
	reader   *bufio.Reader // coder/websocket's, on this Conn
	lastRead atomic.Int64  // nanoseconds of the server's clock; any byte proves life
}

// plainBuffer is what a session has to read with when its connection is no
// plain socket. A frame of a chat fits; the payload of a longer one is read
// past the buffer.
const plainBuffer = 512

// start is the zero of lastRead: a monotonic clock in eight bytes.
var start = time.Now()

func now() int64 { return int64(time.Since(start)) }

// NewConn returns the connection for a hijacked one. early is what was read
// from it already; failed is as for Box.Init.
func NewConn(w *Writers, conn net.Conn, early []byte, failed func(error)) *Conn {
	c := &Conn{Conn: conn}
	c.Box.Init(w, conn, failed)
	c.in.init(c, early)
	size := plainBuffer
	if c.raw != nil {
		size = 0 // the inbox has one when there is something to read
	}
	c.reader = bufio.NewReaderSize(c, size)
	c.lastRead.Store(now())
	return c
}

// Reader returns the buffer through which coder/websocket is to read.
func (c *Conn) Reader() *bufio.Reader { return c.reader }

// Read reads from the socket and notes that the peer lives.
func (c *Conn) Read(p []byte) (int, error) {
	if n := c.in.read(p); n > 0 {
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.lastRead.Store(now())
	}
	return n, err
}

// Idle returns how long the peer has sent nothing.
func (c *Conn) Idle() time.Duration {
	return time.Duration(now() - c.lastRead.Load())
}

// Age makes the peer look as if it had last sent something that long ago.
func (c *Conn) Age(d time.Duration) {
	c.lastRead.Add(-int64(d))
}

// Opcodes of control frames (RFC 6455, section 5.5); all have bit 3 set.
const (
	controlBit = 0x08
	opClose    = 0x08
	opPing     = 0x09
	opPong     = 0x0a
)

var errNotControl = errors.New("outbox: not one whole control frame")

// Write takes one control frame from coder/websocket: a pong, or the close
// frame with which it answers the peer's or reports an error.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) < 2 || p[0]&controlBit == 0 || len(p) != 2+int(p[1]) {
		return 0, errNotControl
	}
	switch p[0] & 0x0f {
	case opPong:
		c.Box.Pong(p)
	case opClose:
		c.Box.Close(frame.Raw(p), false)
	}
	return len(p), nil
}

// Close is called by coder/websocket when it is done. What is queued, its
// close frame among it, still has to go out, so the socket stays open; only a
// pending Read ends. The session closes the socket.
func (c *Conn) Close() error {
	return c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// Discard shuts the write side when the queue is empty and reads until the
// peer has closed too. Closing a socket with unread bytes would reset it, and
// the peer might lose what was sent last, the close code among it. The
// box's timer bounds the wait.
func (c *Conn) Discard() {
	ended := c.Box.Shut()
	c.Conn.SetReadDeadline(time.Time{})
	var junk [512]byte
	for {
		if _, err := c.Conn.Read(junk[:]); err != nil {
			break
		}
	}
	<-ended // a peer that has said all it had to may still listen
}
