package load

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/wire"
)

// dialTurn is how many sessions dial before the generator reads what has come.
const dialTurn = 64

// A session that does not read has a small receive buffer, and segments as on the
// internet, from whose size the kernel derives the server's send buffer: on
// loopback that would otherwise take megabytes before the server noticed.
const (
	stalledBuffer  = 4 << 10
	stalledSegment = 1448
)

// dialTimeout is how long the server may leave all that dial without an answer.
const dialTimeout = 20 * time.Second

// New returns a generator without sessions.
func New(o Options) (*Generator, error) {
	address, err := parseAddress(o.Address)
	if err != nil {
		return nil, err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	return &Generator{
		Stall:   defaultStall,
		options: o,
		address: address,
		request: handshakeRequest(o),
		tail:    wire.Tail(o.Payload),
		epoll:   epoll,
		events:  make([]unix.EpollEvent, 256),
		buf:     make([]byte, readSize),
	}, nil
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

func handshakeRequest(o Options) []byte {
	b := []byte("GET / HTTP/1.1\r\nHost: " + o.Address + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	if o.Subprotocol != "" {
		b = append(b, "Sec-WebSocket-Protocol: "+o.Subprotocol+"\r\n"...)
	}
	return append(b, "\r\n"...)
}

// acceptOfKey is the answer that RFC 6455, section 1.3, gives for the key above.
var acceptOfKey = []byte("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")

// Dial connects more sessions, of which at most underWay dial at a time, and returns when
// the last is connected, or greeted. Subscriptions that sessions ask for are under way
// then; the server knows when they are in force.
func (g *Generator) Dial(sessions []Session, underWay int) error {
	last, since := 0, wire.Now()
	for len(sessions) > 0 || g.pending > 0 {
		for n := 0; n < dialTurn && len(sessions) > 0 && g.pending < underWay; n++ {
			if err := g.connect(sessions[0]); err != nil {
				return err
			}
			sessions = sessions[1:]
		}
		wait := 100
		if len(sessions) > 0 && g.pending < underWay {
			wait = 0
		}
		if err := g.poll(wait); err != nil {
			return err
		}
		if done := len(g.conns) - g.pending; done != last {
			last, since = done, wire.Now()
		} else if wire.Now()-since > int64(dialTimeout) {
			return g.giveUp()
		}
	}
	return nil
}

func (g *Generator) giveUp() error {
	err := fmt.Errorf("%d sessions dial without an answer for %s", g.pending, dialTimeout)
	for _, c := range g.conns {
		if !c.ready {
			if err := g.lose(c, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// connect begins to dial. With TLS it waits for that handshake, which crypto/tls can do in
// no other way.
func (g *Generator) connect(s Session) error {
	kind := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if !g.options.TLS {
		kind |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		return fmt.Errorf("session %d: socket: %w", len(g.conns), err)
	}
	c := &conn{
		fd:      fd,
		stream:  socket{fd: fd},
		index:   len(g.conns),
		dialed:  wire.Now(),
		Session: s,
		next:    make([]uint32, len(s.Streams)),
	}
	g.conns = append(g.conns, c)
	g.pending++
	if s.Stalled {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, stalledBuffer)
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, stalledSegment)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	err = unix.Connect(fd, g.address)
	if err == nil && g.options.TLS {
		err = c.handshakeTLS()
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return g.lose(c, fmt.Errorf("session %d: connect: %w", c.index, err))
	}
	return g.watch(c, unix.EPOLL_CTL_ADD, unix.EPOLLOUT)
}

func (c *conn) handshakeTLS() error {
	timeout := unix.NsecToTimeval(int64(dialTimeout))
	unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	secure := tls.Client(socket{fd: c.fd}, &tls.Config{InsecureSkipVerify: true}) // the server made its certificate itself
	if err := secure.Handshake(); err != nil {
		return err
	}
	c.stream = secure
	return unix.SetNonblock(c.fd, true)
}

func (g *Generator) watch(c *conn, op int, events uint32) error {
	return unix.EpollCtl(g.epoll, op, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.index)})
}

// ask sends the request, when the connection is there.
func (g *Generator) ask(c *conn) error {
	if err := c.write(g.request); err != nil {
		return err
	}
	c.asked = true
	return g.watch(c, unix.EPOLL_CTL_MOD, unix.EPOLLIN)
}

// begin reads the answer to the request, subscribes, and returns what came after.
func (g *Generator) begin(c *conn, p []byte) (rest []byte, err error) {
	head, rest, complete := bytes.Cut(p, []byte("\r\n\r\n"))
	if !complete {
		return nil, wire.ErrShort
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) || !bytes.Contains(head, acceptOfKey) {
		return nil, fmt.Errorf("session %d: the server answered %.200q", c.index, head)
	}
	c.open = true
	if !g.options.Greeted {
		g.setReady(c)
	}
	if !g.options.Later {
		topics := c.Topics
		if g.options.Subscribed {
			topics = nil
		}
		if err := g.subscribe(c, topics); err != nil {
			return nil, err
		}
	}
	if c.Stalled {
		err = g.watch(c, unix.EPOLL_CTL_DEL, 0)
	}
	return rest, err
}
