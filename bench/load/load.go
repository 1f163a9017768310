// Package load is the load generator: many WebSocket sessions in one goroutine,
// over raw sockets and epoll, so that it takes little of the machine that it
// shares with the server. It counts and checks every single delivery.
package load

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/wire"
)

// Options are the same for all sessions of a generator.
type Options struct {
	Address     string
	Dialect     wire.Dialect
	Subprotocol string // to ask for; empty: none
	Payload     int    // size in bytes, which is checked
	TLS         bool
	Subscribed  bool // the server subscribes a session that connects
	Later       bool // sessions subscribe when Subscribe is called, not when they are connected
	Greeted     bool // and then sends it a first delivery; a session that ends before that is counted in Failed
}

// Session is what one session subscribes to and what it then expects.
type Session struct {
	Topics  []string
	Streams []uint32 // whose sequences it expects, ascending
	Stalled bool     // never reads after its subscriptions
}

// Generator is used by one goroutine.
type Generator struct {
	// OnDelivery, when not nil, is called after each checked delivery.
	OnDelivery func(session int, m wire.Mark) error

	// Stall is how long nothing may come while something is due. A lost delivery is found
	// after this time, or as soon as a later one of its stream comes.
	Stall time.Duration

	// Failed is how many sessions ended before they were greeted.
	Failed int

	options   Options
	address   *unix.SockaddrInet4
	request   []byte // for the upgrade
	tail      []byte
	epoll     int
	conns     []*conn
	pending   int // of these, not ready yet
	events    []unix.EpollEvent
	buf       []byte
	out       []byte
	msg       []byte
	mask      uint32
	delivered uint64
}

// readSize takes a burst of 64 messages for one session in one read(2).
const readSize = 256 << 10

// defaultStall is far longer than any server here is silent while it has something to send,
// even if it collects garbage on a busy machine.
const defaultStall = 5 * time.Second

// Delivered is how many deliveries have come since the beginning.
func (g *Generator) Delivered() uint64 { return g.delivered }

// Since is how long ago a session began to dial, in nanoseconds.
func (g *Generator) Since(session int) int64 { return wire.Now() - g.conns[session].dialed }

// Receive reads until the given number of deliveries has come since the
// beginning. Any delivery that is not the next one of its stream is an error.
func (g *Generator) Receive(total uint64) error {
	last, since := g.delivered, wire.Now()
	for g.delivered < total {
		if err := g.poll(100); err != nil {
			return err
		}
		if g.delivered != last {
			last, since = g.delivered, wire.Now()
		} else if wire.Now()-since > int64(g.Stall) {
			return fmt.Errorf("lost: %d of %d deliveries had come when nothing more came for %s",
				g.delivered, total, g.Stall)
		}
	}
	return nil
}

// Quiet reads for d and returns an error if anything is delivered.
func (g *Generator) Quiet(d time.Duration) error {
	before, until := g.delivered, wire.Now()+int64(d)
	for left := int64(d); left > 0; left = until - wire.Now() {
		if err := g.poll(int(left/1e6) + 1); err != nil {
			return err
		}
		if n := g.delivered - before; n > 0 {
			return fmt.Errorf("%d deliveries too many", n)
		}
	}
	return nil
}

// Subscribe has all sessions subscribe at once; see Options.Later.
func (g *Generator) Subscribe() error {
	for _, c := range g.conns {
		if err := g.subscribe(c, c.Topics); err != nil {
			return err
		}
	}
	return nil
}

func (g *Generator) subscribe(c *conn, topics []string) error {
	for _, message := range g.options.Dialect.Subscribe(topics) {
		if err := g.send(c, wire.OpText, message); err != nil {
			return err
		}
	}
	return nil
}

// Publish sends one message of a session.
func (g *Generator) Publish(session int, topic string, data []byte) error {
	g.msg = g.options.Dialect.AppendPublish(g.msg[:0], topic, data)
	return g.send(g.conns[session], wire.OpText, g.msg)
}

// Close ends all sessions at once, without a closing handshake.
func (g *Generator) Close() {
	for _, c := range g.conns {
		if !c.gone {
			c.close()
		}
	}
	g.conns = nil
	unix.Close(g.epoll)
}

func (g *Generator) poll(milliseconds int) error {
	n, err := unix.EpollWait(g.epoll, g.events, milliseconds)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("epoll_wait: %w", err)
	}
	for _, event := range g.events[:max(n, 0)] {
		c := g.conns[event.Fd]
		turn := g.read
		if !c.asked {
			turn = g.ask
		}
		if err := turn(c); err != nil {
			if err = g.lose(c, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// lose gives up a session that waits for its greeting. For any other session it returns the error.
func (g *Generator) lose(c *conn, err error) error {
	if c.ready || !g.options.Greeted {
		return err
	}
	g.setReady(c)
	g.Failed++
	c.close()
	c.gone = true
	return nil
}

func (g *Generator) setReady(c *conn) {
	c.ready = true
	g.pending--
}

// read reads the socket once: if there is more, epoll reports it again. TLS may hold more that
// epoll does not know, so there it reads until nothing is left.
func (g *Generator) read(c *conn) error {
	for again := true; again; again = g.options.TLS {
		for len(c.rest) >= len(g.buf) {
			g.buf = make([]byte, 2*len(g.buf))
		}
		start := copy(g.buf, c.rest)
		n, err := c.stream.Read(g.buf[start:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("session %d: read: %w", c.index, err)
		}
		rest, err := g.take(c, g.buf[:start+n])
		c.rest = append(c.rest[:0], rest...)
		if err != nil {
			return err
		}
	}
	return nil
}

// take handles what came in and returns what is left.
func (g *Generator) take(c *conn, p []byte) (rest []byte, err error) {
	if !c.open {
		rest, err := g.begin(c, p)
		if errors.Is(err, wire.ErrShort) {
			return p, nil
		}
		if err != nil {
			return nil, err
		}
		p = rest
	}
	return g.frames(c, p)
}

// frames handles all whole frames of p and returns what is left.
func (g *Generator) frames(c *conn, p []byte) ([]byte, error) {
	for len(p) > 0 {
		f, rest, err := wire.ParseServerFrame(p)
		if errors.Is(err, wire.ErrShort) {
			return p, nil
		}
		if err == nil {
			err = g.frame(c, f)
		}
		if err != nil {
			return nil, fmt.Errorf("session %d: %w", c.index, err)
		}
		p = rest
	}
	return nil, nil
}

func (g *Generator) frame(c *conn, f wire.Frame) error {
	switch f.Opcode {
	case wire.OpText:
		return g.message(c, f.Payload)
	case wire.OpPing:
		return g.send(c, wire.OpPong, f.Payload)
	case wire.OpPong:
		return nil
	case wire.OpClose:
		return fmt.Errorf("the server closed the session: %q", f.Payload)
	}
	return fmt.Errorf("frame with opcode %#x", f.Opcode)
}

// message checks each publication in a text message.
func (g *Generator) message(c *conn, p []byte) error {
	message, marks := p, 0
	for {
		m, rest, found, err := wire.NextMark(p)
		if err != nil {
			return err
		}
		if !found {
			break
		}
		if !bytes.HasPrefix(rest, g.tail) {
			return fmt.Errorf("stream %d: the payload of %d is damaged: %.120q", m.Stream, m.Seq, message)
		}
		if err := c.check(m); err != nil {
			return err
		}
		g.delivered++
		if !c.ready {
			g.setReady(c)
		}
		if g.OnDelivery != nil {
			if err := g.OnDelivery(c.index, m); err != nil {
				return err
			}
		}
		p = rest[len(g.tail):]
		marks++
	}
	if marks > 0 && !c.decoded {
		c.decoded = true
		if err := g.decode(c, message, marks); err != nil {
			return err
		}
	}
	if marks == 0 || g.options.Dialect.MayPing() {
		return g.answer(c, message)
	}
	return nil
}

// decode looks at a message in full.
func (g *Generator) decode(c *conn, message []byte, marks int) error {
	publications, err := g.options.Dialect.Decode(message)
	if err != nil {
		return err
	}
	if len(publications) != marks {
		return fmt.Errorf("%d marks in %d publications: %.120q", marks, len(publications), message)
	}
	for _, p := range publications {
		if !c.subscribed(p.Topic) {
			return fmt.Errorf("a publication on %q, which it did not subscribe to", p.Topic)
		}
		m, _, found, err := wire.NextMark(p.Data)
		if err != nil || !found {
			return fmt.Errorf("publication without a mark: %.120q", p.Data)
		}
		if want := wire.AppendPayload(nil, m, len(p.Data)); !bytes.Equal(p.Data, want) {
			return fmt.Errorf("payload was changed on its way: %.120q", p.Data)
		}
	}
	return nil
}

func (g *Generator) answer(c *conn, message []byte) error {
	answer, err := g.options.Dialect.Answer(message)
	if err != nil || answer == nil {
		return err
	}
	return g.send(c, wire.OpText, answer)
}

// send writes one frame, waiting while the socket is full.
func (g *Generator) send(c *conn, opcode byte, payload []byte) error {
	g.mask = g.mask*1664525 + 1013904223 // the mask need not be secret: there is no proxy to protect
	key := [4]byte{byte(g.mask >> 24), byte(g.mask >> 16), byte(g.mask >> 8), byte(g.mask)}
	g.out = wire.AppendClientFrame(g.out[:0], opcode, key, payload)
	return c.write(g.out)
}
