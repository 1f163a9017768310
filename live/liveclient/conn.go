package liveclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/live/internal/closecode"
	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// writeTimeout is how long the connection may take for the next few kilobytes of a frame. The server reads on while its
// application is busy, up to its bounds. So a server that takes so little is gone. A whole frame may take longer: it may
// have megabytes.
const writeTimeout = time.Minute

// conn is one connection. One goroutine reads it: Client.run. Another writes.
type conn struct {
	ws       *websocket.Conn
	tcp      *tcpConn
	session  string
	largest  int           // bytes that the server takes in a frame; 0: it has not said
	patience time.Duration // how long the server may be silent; 0: for ever
	openedAt time.Time
	buffer   bytes.Buffer // of the frame that is being read
	garbled  error        // the newest frame was not JSON; nil: it was. Only the goroutine that reads uses it

	dead  chan struct{} // closed by kill
	once  sync.Once     // closes dead
	cause error         // of kill; valid when dead is closed
	wake  chan struct{} // holds one element when the writer has something to do

	// Client.mu guards these fields.
	window time.Duration // within which the server wants the client back; 0: it has not said
	out    []outgoing
	unsent int           // bytes of out, and of the frame that is being written
	space  chan struct{} // closed when some bytes were written; nil: nobody waits for that

	// untold has the topics whose subscription has changed while there was no space; see Client.inform. The value says that the
	// server has to be told of an unsubscribe first. It is empty while there is space.
	untold map[string]bool

	ponging bool // a pong is in out already; it answers all pings
	closing bool // the writer closes the connection when out is empty
	pings   []chan struct{}
}

// outgoing is a frame that waits to be written.
type outgoing struct {
	text []byte
	call *operation // whose frame it is; nil: nobody waits for an answer to it
	pong bool
}

func newConn(ws *websocket.Conn, below *tcpConn) *conn {
	return &conn{ws: ws, tcp: below, dead: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// kill closes the connection at once. cause is why; nil: the error that the reader gets says it.
func (cn *conn) kill(cause error) {
	cn.once.Do(func() {
		cn.cause = cause
		close(cn.dead)
	})
	cn.tcp.Close() // ends a close handshake, for which CloseNow would wait
	cn.ws.CloseNow()
}

// read returns the next frame. It is valid until the next call.
func (cn *conn) read() ([]byte, error) {
	_, r, err := cn.ws.Reader(context.Background()) // ends with kill
	if err != nil {
		return nil, err
	}
	const large = 64 << 10 // what a part of an answer has; a buffer that was needed for more is not kept
	if cn.buffer.Cap() > 2*large {
		cn.buffer = bytes.Buffer{}
	}
	cn.buffer.Reset()
	_, err = cn.buffer.ReadFrom(r)
	if err == nil && cn.tcp.ended.Load() && !jsonscan.Valid(cn.buffer.Bytes()) {
		// The WebSocket library takes the end of the connection for the end of the message, if it comes between two of its reads.
		err = io.ErrUnexpectedEOF
	}
	return cn.buffer.Bytes(), err
}

// readHello reads the first frame.
func (cn *conn) readHello() (*frame, error) {
	raw, err := cn.read()
	if err != nil {
		return nil, err
	}
	hello, err := decodeFrame(raw)
	if err == nil && hello.op != "hello" {
		err = fmt.Errorf("%w: the first is not hello: %.60q", ErrBadFrame, raw)
	}
	return hello, err
}

// ending returns why the connection has ended, after reading has failed with err.
func (cn *conn) ending(err error) error {
	select {
	case <-cn.dead:
		if cn.cause != nil {
			return cn.cause
		}
	default:
	}
	var closed websocket.CloseError
	switch {
	case errors.As(err, &closed):
		return &CloseError{int(closed.Code), closed.Reason}
	case errors.Is(err, websocket.ErrMessageTooBig):
		return fmt.Errorf("%w: the server sent a frame that is larger than Options.ReadLimit", ErrTooBig)
	case errors.Is(err, ErrBadFrame):
		return err
	}
	return fmt.Errorf("liveclient: connection lost: %w", err)
}

// codeOf returns the close code and the reason of an ending.
func codeOf(err error) (code int, reason string) {
	var closed *CloseError
	if errors.As(err, &closed) {
		return closed.Code, closed.Reason
	}
	return closecode.None, ""
}

// put queues a frame; Client.mu is held.
func (cn *conn) put(o outgoing) {
	cn.out = append(cn.out, o)
	cn.unsent += len(o.text)
	cn.wakeWriter()
}

func (cn *conn) wakeWriter() {
	select {
	case cn.wake <- struct{}{}:
	default:
	}
}

// awaitSpace returns a channel that is closed when some bytes were written, or the connection is lost; Client.mu is held.
func (cn *conn) awaitSpace() <-chan struct{} {
	if cn.space == nil {
		cn.space = make(chan struct{})
	}
	return cn.space
}

// pong answers a ping of the server; Client.mu is held.
func (cn *conn) pong() {
	if !cn.ponging {
		cn.ponging = true
		cn.put(outgoing{text: []byte(`{"op":"pong"}`), pong: true})
	}
}

// write writes what is queued, until the connection ends.
func (c *Client) write(cn *conn) {
	for {
		text, closing := c.nextOutgoing(cn)
		switch {
		case text != nil:
			err := cn.ws.Write(context.Background(), websocket.MessageText, text) // ends with writeTimeout
			c.written(cn, len(text))
			if err != nil {
				cn.kill(nil)
				return
			}
		case closing:
			cn.ws.Close(websocket.StatusNormalClosure, "") // the reader sees the server's close frame
			return
		default:
			select {
			case <-cn.wake:
			case <-cn.dead:
				return
			}
		}
	}
}

// nextOutgoing takes a frame to write; nil: there is none.
func (c *Client) nextOutgoing(cn *conn) (text []byte, closing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(cn.out) > 0 {
		o := cn.out[0]
		cn.out[0] = outgoing{}
		cn.out = cn.out[1:]
		switch {
		case o.pong:
			cn.ponging = false
		case o.call != nil && o.call.isTooOld():
			c.settled(o.call)
			o.call.fail(ErrDisconnected)
			c.freed(cn, len(o.text))
			continue
		case o.call != nil && o.call.over: // its context has ended
			c.freed(cn, len(o.text))
			continue
		case o.call != nil:
			o.call.noteSent()
		}
		return o.text, false
	}
	cn.out = nil
	return nil, cn.closing
}

func (c *Client) written(cn *conn, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.freed(cn, bytes)
}

// freed notes that some bytes do not wait any more; mu is held.
func (c *Client) freed(cn *conn, bytes int) {
	cn.unsent -= bytes
	wakeAll(&cn.space)
	c.informRest(cn)
}

// isFull reports whether as many bytes wait as may; mu is held.
func (c *Client) isFull(cn *conn) bool { return cn.unsent > 0 && cn.unsent >= c.opts.MaxUnsent }

// wakeAll closes a channel, if there is one, and so wakes all goroutines that wait for that.
func wakeAll(ch *chan struct{}) {
	if *ch != nil {
		close(*ch)
		*ch = nil
	}
}

// watch kills the connection when the server was silent for longer than patience. The returned function ends the watch.
func (cn *conn) watch() (stop func()) {
	if cn.patience == 0 {
		return func() {}
	}
	var mu sync.Mutex // guards timer and stopped
	var timer *time.Timer
	stopped := false
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		left := cn.patience - cn.tcp.silence()
		switch {
		case stopped:
		case left < 0:
			go cn.kill(ErrSilent) // ends at once; kill may not wait for stop
		default:
			timer.Reset(left + time.Millisecond)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(cn.patience, check)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}
