package livetest

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// lineBuffer is how many bytes a line holds in each direction that were written and not yet read.
// It is small, so that few messages are needed to fill the line of a client that does not read.
const lineBuffer = 4 << 10

// listener is where the lines of the clients arrive. It is in memory: nothing listens on a port, and in
// a bubble of testing/synctest a goroutine that waits for a line is durably blocked.
type listener struct {
	lines  chan *line
	closed chan struct{}
	once   sync.Once // closes closed

	mu   sync.Mutex // guards port
	port int        // of the newest client
}

func newListener() *listener {
	return &listener{lines: make(chan *line), closed: make(chan struct{}), port: firstPort - 1}
}

// firstPort is the port of the first client's address. Clients have different addresses, because
// applications may count connections by address.
const firstPort = 40_000

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.lines:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return loopback(80) }

func loopback(port int) net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port} }

// dial returns the client's end of a new line. v is what the server's end knows of the client; nil:
// nothing.
func (l *listener) dial(ctx context.Context, v *visit) (*line, error) {
	l.mu.Lock()
	l.port++
	client := loopback(l.port)
	l.mu.Unlock()
	up, down := newPipe(), newPipe()
	near := &line{in: down, out: up, local: client, remote: l.Addr()}
	far := &line{in: up, out: down, local: l.Addr(), remote: client, visit: v}
	select {
	case l.lines <- far:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// line is one end of a connection in memory.
type line struct {
	in, out       *pipe
	local, remote net.Addr
	visit         *visit // of the server's end
}

func (l *line) Read(b []byte) (int, error)  { return l.in.read(b) }
func (l *line) Write(b []byte) (int, error) { return l.out.write(b) }
func (l *line) LocalAddr() net.Addr         { return l.local }
func (l *line) RemoteAddr() net.Addr        { return l.remote }

// Close closes the line in both directions. The other end can still read what was written.
func (l *line) Close() error {
	l.in.set(func(p *pipe) { p.readerGone, p.data = true, nil })
	l.out.set(func(p *pipe) { p.writerGone = true })
	return nil
}

func (l *line) SetReadDeadline(t time.Time) error {
	l.in.setDeadline(&l.in.readBy, t)
	return nil
}

func (l *line) SetWriteDeadline(t time.Time) error {
	l.out.setDeadline(&l.out.writeBy, t)
	return nil
}

func (l *line) SetDeadline(t time.Time) error {
	l.SetReadDeadline(t)
	return l.SetWriteDeadline(t)
}

// clientLine is the client's end of a line that carries a WebSocket connection. The WebSocket library takes io.EOF in the middle of a
// message for the end of that message. So the end of the line has another error here.
type clientLine struct{ *line }

func (l clientLine) Read(b []byte) (int, error) {
	n, err := l.line.Read(b)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// pipe is one direction of a line.
type pipe struct {
	mu     sync.Mutex // guards the fields below
	change sync.Cond  // of mu; all who wait check again

	data       []byte // written, and not yet read
	readerGone bool
	writerGone bool
	readBy     deadline
	writeBy    deadline

	stopped   bool      // nothing is read
	perSecond int       // how many bytes are read in a second; 0: as many as come
	dueAt     time.Time // when a paced reader may read again
}

// deadline is a time at which waiting ends.
type deadline struct {
	at    time.Time // zero: never
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newPipe() *pipe {
	p := &pipe{}
	p.change.L = &p.mu
	return p
}

// set changes the pipe, and wakes all who wait.
func (p *pipe) set(change func(p *pipe)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
	p.change.Broadcast()
}

func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.set(func(p *pipe) {
		if d.timer != nil {
			d.timer.Stop()
		}
		*d = deadline{at: t}
		if wait := time.Until(t); !t.IsZero() && wait > 0 {
			d.timer = time.AfterFunc(wait, func() { p.set(func(*pipe) {}) })
		}
	})
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.readerGone:
			return 0, net.ErrClosed
		case p.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case p.stopped:
		case len(p.data) > 0 && p.isDue():
			return p.take(b), nil
		case len(p.data) == 0 && p.writerGone:
			return 0, io.EOF
		}
		p.change.Wait()
	}
}

// isDue reports whether the reader may read now. If not, it is woken when it may.
func (p *pipe) isDue() bool {
	wait := time.Until(p.dueAt)
	if p.perSecond == 0 || wait <= 0 {
		return true
	}
	time.AfterFunc(wait, func() { p.set(func(*pipe) {}) })
	return false
}

// readsPerSecond is how many reads a paced reader makes in a second, at most. It reads a portion in
// each, so that bytes come evenly.
const readsPerSecond = 50

// take reads data, or a portion of it if the reader has a pace.
func (p *pipe) take(b []byte) int {
	if p.perSecond > 0 {
		b = b[:min(len(b), max(p.perSecond/readsPerSecond, 1))]
	}
	n := copy(b, p.data)
	p.data = p.data[n:]
	if p.perSecond > 0 {
		p.dueAt = time.Now().Add(time.Duration(n) * time.Second / time.Duration(p.perSecond))
	}
	p.change.Broadcast()
	return n
}

func (p *pipe) write(b []byte) (written int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.writerGone:
			return written, net.ErrClosed
		case p.readerGone: // as with TCP, the writer learns of that by reading
			return len(b), nil
		case p.writeBy.passed():
			return written, os.ErrDeadlineExceeded
		case len(p.data) < lineBuffer:
			n := min(lineBuffer-len(p.data), len(b)-written)
			p.data = append(p.data, b[written:written+n]...)
			written += n
			p.change.Broadcast()
		}
		if written == len(b) {
			return written, nil
		}
		p.change.Wait()
	}
}
