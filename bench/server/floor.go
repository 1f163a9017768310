package server

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/wire"
)

var floorKind = Kind{
	Name:    "floor",
	About:   "write(2) of ready bytes to non-blocking sockets: one a session for a whole burst, else one a session and publication; an epoll loop reads",
	Role:    Floor,
	Dialect: wire.Plain,
	New:     newFloor,
}

// floor makes only the system calls that every server needs. Do not imitate it: it has no
// queues, and it ends a session that cannot take a publication at once.
type floor struct {
	options Options
	epoll   int
	count   atomic.Int64

	mu     sync.Mutex // guards what follows, and every write to a session
	conns  map[int]*floorConn
	topics map[string][]*floorConn
	frame  []byte       // the memory of the last publication
	dirty  []*floorConn // have something to be written at the end of the loop's turn
}

type floorConn struct {
	fd     int
	open   bool // the handshake is done
	cut    bool
	topics []string
	in     []byte // received, not handled yet
	out    []byte // ready for the next burst
	own    []byte // the memory of out, when it is not shared
}

func newFloor(o Options) (Server, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("floor: epoll_create: %w", err)
	}
	return &floor{options: o, epoll: epoll, conns: map[int]*floorConn{}, topics: map[string][]*floorConn{}}, nil
}

// Subscriptions implements Server.
func (f *floor) Subscriptions() int { return int(f.count.Load()) }

// Publish implements Server: one write a session.
func (f *floor) Publish(topic string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frame = appendFloorFrame(f.frame[:0], topic, data)
	for _, c := range f.topics[topic] {
		if c.cut {
			continue
		}
		if n, err := unix.Write(c.fd, f.frame); err != nil || n < len(f.frame) {
			c.end()
		}
	}
	return nil
}

// end has the loop close the session. The session keeps its fd until then.
func (c *floorConn) end() {
	c.cut = true
	unix.Shutdown(c.fd, unix.SHUT_RDWR)
}

func appendFloorFrame(dst []byte, topic string, data []byte) []byte {
	return wire.AppendServerFrame(dst, wire.OpText, wire.Plain.AppendPublish(nil, topic, data))
}

// Prepare implements Preparer. It builds all frames, and puts those of one session
// together.
func (f *floor) Prepare(publications []wire.Publication) (publish func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	shared := map[string][]byte{}
	for _, p := range publications {
		shared[p.Topic] = appendFloorFrame(shared[p.Topic], p.Topic, p.Data)
	}
	var ready []*floorConn
	for topic, frames := range shared {
		for _, c := range f.topics[topic] {
			if len(c.topics) == 1 {
				c.out = frames
				ready = append(ready, c)
			}
		}
	}
	for _, p := range publications {
		f.frame = appendFloorFrame(f.frame[:0], p.Topic, p.Data)
		for _, c := range f.topics[p.Topic] {
			if len(c.topics) > 1 && c.add(f.frame) {
				ready = append(ready, c)
			}
		}
	}
	return func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		flush(ready)
		return nil
	}
}

// add puts a frame behind what is ready for the session, and reports whether it is
// the first.
func (c *floorConn) add(frame []byte) (first bool) {
	if first = len(c.out) == 0; first {
		c.own = c.own[:0]
	}
	c.own = append(c.own, frame...)
	c.out = c.own
	return first
}

// flush writes to each session once, and again to those whose socket was full.
func flush(ready []*floorConn) {
	for len(ready) > 0 {
		rest := ready[:0]
		for _, c := range ready {
			if len(c.out) == 0 {
				continue // it was dropped in the meantime
			}
			n, err := unix.Write(c.fd, c.out)
			if err != nil && !errors.Is(err, unix.EAGAIN) {
				c.end()
				c.out = nil
			}
			if c.out = c.out[max(n, 0):]; len(c.out) > 0 {
				rest = append(rest, c)
			}
		}
		if ready = rest; len(ready) > 0 {
			waitWritable(ready)
		}
	}
}

func waitWritable(conns []*floorConn) {
	fds := make([]unix.PollFd, len(conns))
	for i, c := range conns {
		fds[i] = unix.PollFd{Fd: int32(c.fd), Events: unix.POLLOUT}
	}
	unix.Poll(fds, -1)
}

// Serve implements Server: one loop accepts, shakes hands and reads.
func (f *floor) Serve(l net.Listener) error {
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer file.Close()
	listener := int(file.Fd())
	if err := unix.SetNonblock(listener, true); err != nil {
		return err
	}
	if err := f.watch(listener); err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 256)
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.EpollWait(f.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("floor: epoll_wait: %w", err)
		}
		for _, event := range events[:max(n, 0)] {
			if fd := int(event.Fd); fd == listener {
				f.accept(fd)
			} else {
				f.read(fd, buf)
			}
		}
		f.endTurn()
	}
}

// endTurn writes what the messages of one turn have led to. It writes to each session once,
// which is the best that a server could do.
func (f *floor) endTurn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	flush(f.dirty)
	f.dirty = f.dirty[:0]
}

func (f *floor) watch(fd int) error {
	return unix.EpollCtl(f.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (f *floor) accept(listener int) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // as net does for all the others
		f.mu.Lock()
		f.conns[fd] = &floorConn{fd: fd}
		f.mu.Unlock()
		f.watch(fd)
	}
}

func (f *floor) read(fd int, buf []byte) {
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.conns[fd]
	if n <= 0 || !f.handle(c, buf[:n]) {
		f.drop(c)
	}
}

// handle takes what came in; false ends the session.
func (f *floor) handle(c *floorConn, p []byte) bool {
	c.in = append(c.in, p...)
	rest := c.in
	if !c.open {
		head, tail, whole := bytes.Cut(c.in, []byte("\r\n\r\n"))
		if !whole {
			return true
		}
		answer := handshake(head)
		if n, err := unix.Write(c.fd, answer); err != nil || n < len(answer) {
			return false
		}
		c.open, rest = true, tail
		if f.options.Topic != "" {
			f.subscribe(c, f.options.Topic)
		}
	}
	for {
		frame, after, err := wire.ParseClientFrame(rest)
		if errors.Is(err, wire.ErrShort) {
			break
		}
		if err != nil || frame.Opcode == wire.OpClose {
			return false
		}
		f.message(c, frame.Payload)
		rest = after
	}
	if c.in = append(c.in[:0], rest...); len(c.in) == 0 {
		c.in = nil
	}
	return true
}

// message handles one envelope. It decodes no JSON, because the generator writes envelopes in
// one form only.
func (f *floor) message(c *floorConn, message []byte) {
	const head, middle, end = `{"topic":"`, `","data":`, `}`
	message, ok := bytes.CutPrefix(message, []byte(head))
	if !ok {
		return
	}
	topic, data, ok := bytes.Cut(message, []byte(middle))
	if !ok {
		return
	}
	data = bytes.TrimSuffix(data, []byte(end))
	if string(data) != wire.SubscribeData {
		f.frame = appendFloorFrame(f.frame[:0], string(topic), data)
		for _, member := range f.topics[string(topic)] {
			if member.add(f.frame) {
				f.dirty = append(f.dirty, member)
			}
		}
		return
	}
	f.subscribe(c, string(topic))
}

func (f *floor) subscribe(c *floorConn, topic string) {
	f.topics[topic] = append(f.topics[topic], c)
	c.topics = append(c.topics, topic)
	f.count.Add(1)
}

func (f *floor) drop(c *floorConn) {
	for _, topic := range c.topics {
		members := f.topics[topic]
		if i := slices.Index(members, c); i >= 0 {
			f.topics[topic] = slices.Delete(members, i, i+1)
		}
		f.count.Add(-1)
	}
	c.out = nil
	delete(f.conns, c.fd)
	unix.Close(c.fd)
}

// handshake answers the upgrade request (RFC 6455, section 4.2.2).
func handshake(request []byte) []byte {
	const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	_, after, _ := bytes.Cut(request, []byte("Sec-WebSocket-Key: "))
	key, _, _ := bytes.Cut(after, []byte("\r\n"))
	sum := sha1.Sum(append(bytes.Clone(key), acceptGUID...))
	return []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n")
}
