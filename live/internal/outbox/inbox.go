package outbox

import "sync"

// inbox is where a session waits for its client. An idle session has nothing
// here: a buffer is taken when there is something to read, and given back when
// it was read; and pings and pongs between messages are dealt with at once, so
// that the goroutine that waits is always one with a shallow stack. Both
// together halve the memory of an idle session.
//
// Only the goroutine that reads uses it.
type inbox struct {
	conn  *Conn
	early []byte   // what the HTTP server had read past the handshake
	buf   *readBuf // nil: nothing was read ahead
	try   func(fd uintptr) bool
}

// readBuf holds what was read and not yet handed on: bytes[from:to].
type readBuf struct {
	from, to int
	bytes    [4096]byte
}

var readBufs = sync.Pool{New: func() any { return new(readBuf) }}

func (in *inbox) init(c *Conn, early []byte) {
	in.conn, in.early = c, early
	if c.raw != nil {
		in.try = in.readNow
	}
}

// read hands on what was read ahead.
func (in *inbox) read(p []byte) int {
	if len(in.early) > 0 {
		n := copy(p, in.early)
		in.early = in.early[n:]
		return n
	}
	if in.buf == nil {
		return 0
	}
	n := copy(p, in.buf.bytes[in.buf.from:in.buf.to])
	in.skip(n)
	return n
}

// skip drops what was read ahead, and the buffer when it is empty.
func (in *inbox) skip(n int) {
	in.buf.from += n
	if in.buf.from == in.buf.to {
		in.buf.from, in.buf.to = 0, 0
		readBufs.Put(in.buf)
		in.buf = nil
	}
}

// Await waits until there is something to read, and deals with a ping or pong.
// It returns true when it did, and is to be called again; false when
// coder/websocket is to read, be it a message, a close frame or an error.
//
// It must be called between messages only.
func (c *Conn) Await() bool {
	if c.in.try == nil || len(c.in.early) > 0 || c.reader.Buffered() > 0 {
		return false
	}
	if c.in.buf == nil {
		c.raw.Read(c.in.try) // an error shows again when coder/websocket reads
	}
	return c.in.control()
}

// control takes one whole ping or pong from the front of what was read ahead.
// Anything that is not quite right is left for coder/websocket to judge.
func (in *inbox) control() bool {
	if in.buf == nil {
		return false
	}
	b := in.buf.bytes[in.buf.from:in.buf.to]
	const header = 6 // first byte, length, mask (RFC 6455, section 5.2)
	if len(b) < header || b[1]&0x80 == 0 {
		return false
	}
	n := int(b[1] & 0x7f)
	if n > 125 || len(b) < header+n {
		return false
	}
	switch b[0] {
	case 0x80 | opPing:
		pong := [2 + 125]byte{0x80 | opPong, byte(n)}
		for i := range n {
			pong[2+i] = b[header+i] ^ b[2+i%4]
		}
		in.conn.Pong(pong[:2+n])
	case 0x80 | opPong:
	default:
		return false
	}
	in.skip(header + n)
	return true
}
