package load

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/wire"
)

// dialBatch is how many handshakes are under way at once: far below any listen
// backlog.
const dialBatch = 128

// A session that does not read has a small receive buffer, and segments as on the
// internet, from whose size the kernel derives the server's send buffer: on
// loopback that would otherwise take megabytes before the server noticed.
const (
	stalledBuffer  = 4 << 10
	stalledSegment = 1448
)

// dialTimeout is how long a server may take for one handshake.
var dialTimeout = unix.Timeval{Sec: 20}

// Dial connects and subscribes all sessions. The subscriptions are under way when
// it returns; the server knows when they are in force.
func Dial(o Options) (*Generator, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	g := &Generator{
		Stall:   defaultStall,
		dialect: o.Dialect,
		tail:    wire.Tail(o.Payload),
		epoll:   epoll,
		events:  make([]unix.EpollEvent, 256),
		buf:     make([]byte, readSize),
	}
	if err := g.dial(o); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Generator) dial(o Options) error {
	address, err := parseAddress(o.Address)
	if err != nil {
		return err
	}
	for len(g.conns) < len(o.Sessions) {
		first := len(g.conns)
		batch := o.Sessions[first:min(first+dialBatch, len(o.Sessions))]
		for _, s := range batch {
			c, err := connect(address, len(g.conns), s)
			if err != nil {
				return err
			}
			g.conns = append(g.conns, c)
			if err := c.write(handshakeRequest(o.Address)); err != nil {
				return err
			}
		}
		for i, s := range batch {
			if err := g.begin(g.conns[first+i], s); err != nil {
				return err
			}
		}
	}
	return nil
}

func parseAddress(address string) (*unix.SockaddrInet4, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if !ap.Addr().Is4() || !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("%s is not on the loopback interface", address)
	}
	return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}, nil
}

func connect(address *unix.SockaddrInet4, index int, s Session) (*conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("session %d: socket: %w", index, err)
	}
	if s.Stalled {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, stalledBuffer)
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, stalledSegment)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &dialTimeout)
	if err := unix.Connect(fd, address); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("session %d: connect: %w", index, err)
	}
	return &conn{
		fd:      fd,
		index:   index,
		topics:  s.Topics,
		streams: s.Streams,
		next:    make([]uint32, len(s.Streams)),
	}, nil
}

func handshakeRequest(host string) []byte {
	return []byte("GET / HTTP/1.1\r\nHost: " + host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
}

// acceptOfKey is the answer that RFC 6455, section 1.3, gives for the key above.
var acceptOfKey = []byte("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")

// begin reads the answer to the handshake, subscribes, and lets epoll watch.
func (g *Generator) begin(c *conn, s Session) error {
	rest, err := readHandshake(c.fd)
	if err != nil {
		return fmt.Errorf("session %d: handshake: %w", c.index, err)
	}
	for _, message := range g.dialect.Subscribe(c.topics) {
		if err := g.send(c, wire.OpText, message); err != nil {
			return err
		}
	}
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return err
	}
	c.rest, err = g.frames(c, rest)
	if err != nil || s.Stalled {
		return err
	}
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.index)})
}

// readHandshake returns what came after the answer.
func readHandshake(fd int) (rest []byte, err error) {
	var answer []byte
	buf := make([]byte, 2048)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, fmt.Errorf("the server closed the connection: %.200q", answer)
		}
		answer = append(answer, buf[:n]...)
		head, rest, whole := bytes.Cut(answer, []byte("\r\n\r\n"))
		if !whole {
			continue
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) || !bytes.Contains(head, acceptOfKey) {
			return nil, fmt.Errorf("the server answered %.200q", head)
		}
		return rest, nil
	}
}
