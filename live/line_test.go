package live_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

// A client whose every frame and every byte a test decides, over a line as slow as it
// says.

// host is a server under test with its address.
type host struct {
	*live.Server
	addr string
	tls  *tls.Config // for clients; nil: plain TCP
}

// hosting says how a host is started.
type hosting struct {
	secure bool // over TLS
	buffer int  // bytes that the kernel may hold for a client; 0: what it likes
}

// start starts a server of opts on loopback, until the test ends.
func (o hosting) start(t testing.TB, opts live.Options) *host {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	srv := live.New(opts)
	hs := httptest.NewUnstartedServer(srv.Handler())
	hs.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	if o.buffer > 0 {
		hs.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			if secure, ok := c.(*tls.Conn); ok {
				c = secure.NetConn()
			}
			c.(*net.TCPConn).SetWriteBuffer(o.buffer)
			return ctx
		}
	}
	h := &host{Server: srv, addr: hs.Listener.Addr().String()}
	if o.secure {
		hs.StartTLS()
		h.tls = hs.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		h.tls.NextProtos, h.tls.ServerName = nil, "127.0.0.1"
	} else {
		hs.Start()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		srv.Shutdown(ctx)
		hs.Close()
	})
	return h
}

// together runs subtests at the same time, however few CPUs there are: they mostly wait,
// and t.Parallel would let only one for each CPU do so.
type together struct {
	t  *testing.T
	wg sync.WaitGroup
}

// atOnce begins such a group, which ends when its function has returned and all subtests have.
func atOnce(t *testing.T, group func(g *together)) {
	t.Helper()
	g := &together{t: t}
	defer g.wg.Wait()
	group(g)
}

func (g *together) run(name string, test func(t *testing.T)) {
	g.wg.Go(func() { g.t.Run(name, test) })
}

// overBoth runs a test over TCP and over TLS at the same time.
func overBoth(t *testing.T, test func(t *testing.T, secure bool)) {
	t.Helper()
	atOnce(t, func(g *together) {
		g.run("TCP", func(t *testing.T) { test(t, false) })
		g.run("TLS", func(t *testing.T) { test(t, true) })
	})
}

// dialling says how a peer connects.
type dialling struct {
	v1      bool
	deflate bool
	buffer  int    // bytes that the kernel may hold for the peer; 0: what it likes
	pace    int    // bytes a second that the peer reads; 0: as many as come
	early   string // sent with the handshake
}

// peer is a WebSocket client that does nothing by itself.
type peer struct {
	t    testing.TB
	conn net.Conn
	line *slowLine
	in   *bufio.Reader

	mu sync.Mutex // held while frames are written

	kept  mailbox      // what attend has read
	end   error        // why attend has ended; valid when kept has ended
	pings atomic.Int64 // that attend has answered
	mute  atomic.Bool  // attend answers no ping
}

// mailbox is a queue without a bound.
type mailbox struct {
	mu     sync.Mutex // guards what follows
	frames []received
	ended  bool
	change chan struct{} // holds one when there is something new
}

func (m *mailbox) put(f *received) { m.set(func() { m.frames = append(m.frames, *f) }) }

func (m *mailbox) close() { m.set(func() { m.ended = true }) }

func (m *mailbox) set(change func()) {
	m.mu.Lock()
	change()
	m.mu.Unlock()
	select {
	case m.change <- struct{}{}:
	default:
	}
}

// take returns the next frame; ok is false if there is none now, ended says that there
// will be none.
func (m *mailbox) take() (f received, ok, ended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.frames) == 0 {
		return received{}, false, m.ended
	}
	f, m.frames = m.frames[0], m.frames[1:]
	return f, true, false
}

// dial connects a peer and makes the handshake.
func (h *host) dial(t testing.TB, o dialling) *peer {
	t.Helper()
	p, err := h.tryDial(o)
	if err != nil {
		t.Fatal(err)
	}
	p.t = t
	t.Cleanup(func() { p.line.Close() })
	return p
}

func (h *host) tryDial(o dialling) (*peer, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if o.buffer > 0 {
			raw.Control(func(fd uintptr) {
				err = setReceiveBuffer(fd, o.buffer)
			})
		}
		return err
	}}
	conn, err := d.Dial("tcp", h.addr)
	if err != nil {
		return nil, err
	}
	p := &peer{line: &slowLine{Conn: conn}}
	p.line.perSecond.Store(int64(o.pace))
	p.conn = p.line
	if h.tls != nil {
		p.conn = tls.Client(p.line, h.tls)
	}
	p.in = bufio.NewReader(p.conn)
	if err := p.handshake(h.addr, o); err != nil {
		conn.Close()
		return nil, err
	}
	return p, nil
}

func (p *peer) handshake(host string, o dialling) error {
	more := ""
	if o.v1 {
		more += "Sec-WebSocket-Protocol: live.v1\r\n"
	}
	if o.deflate {
		more += "Sec-WebSocket-Extensions: permessage-deflate\r\n"
	}
	p.conn.SetReadDeadline(time.Now().Add(patience))
	_, err := fmt.Fprintf(p.conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s\r\n%s", host, more, o.early)
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(p.in, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("handshake: %s", resp.Status)
	}
	p.conn.SetReadDeadline(time.Time{})
	return nil
}

// Opcodes, with FIN.
const (
	fText  = 0x81
	fClose = 0x88
	fPing  = 0x89
	fPong  = 0x8a
)

// masked returns a client's frame.
func masked[T string | []byte](first byte, payload T) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	key := [4]byte{0x5a, 0xc3, 0x96, 0x0f}
	b = append(b, key[:]...)
	from := len(b)
	b = append(b, payload...)
	for i := range b[from:] {
		b[from+i] ^= key[i%4]
	}
	return b
}

// write sends bytes as they are. An error shows when the peer reads.
func (p *peer) write(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.conn.Write(b)
	return err
}

// say sends texts, each as a frame, in one write.
func (p *peer) say(texts ...string) error {
	var b []byte
	for _, text := range texts {
		b = append(b, masked(fText, text)...)
	}
	return p.write(b)
}

// received is a frame from the server. Of a text frame the members are read.
type received struct {
	first   byte
	payload []byte

	Op        string
	ID        int
	Topic     string
	Data      json.RawMessage
	Text      string
	At        string
	Recovered *bool
	More      bool
	Messages  []struct {
		Data json.RawMessage
		At   string
	}
	Code string
}

func (f *received) String() string { return fmt.Sprintf("%#x %.200q", f.first, f.payload) }

// readFrame reads the next frame, of whatever kind.
func (p *peer) readFrame() (*received, error) {
	var head [2]byte
	if _, err := io.ReadFull(p.in, head[:]); err != nil {
		return nil, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		var b [2]byte
		if _, err := io.ReadFull(p.in, b[:]); err != nil {
			return nil, err
		}
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		if _, err := io.ReadFull(p.in, b[:]); err != nil {
			return nil, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	f := &received{first: head[0], payload: make([]byte, n)}
	if _, err := io.ReadFull(p.in, f.payload); err != nil {
		return nil, err
	}
	if f.first == fText {
		if err := json.Unmarshal(f.payload, f); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
	}
	return f, nil
}

// ended is the server's close frame.
type ended struct {
	code   int
	reason string
}

func (e *ended) Error() string { return fmt.Sprintf("close frame %d %q", e.code, e.reason) }

// attend reads in a goroutine, until the end: it answers pings and the server's close
// frame, waits for the server to hang up, as clients do, and keeps the rest for next.
func (p *peer) attend() *peer {
	p.kept.change = make(chan struct{}, 1)
	go func() { // ends with the connection
		defer p.kept.close()
		defer p.line.Close()
		for p.end == nil {
			var f *received
			if f, p.end = p.readFrame(); p.end != nil {
				return
			}
			p.end = p.react(f)
		}
	}()
	return p
}

func (p *peer) react(f *received) error {
	switch {
	case f.first == fPing:
		p.answer(masked(fPong, f.payload))
	case f.Op == "ping":
		p.answer(masked(fText, `{"op":"pong"}`))
	case f.first == fClose:
		p.write(masked(fClose, f.payload))
		io.Copy(io.Discard, p.in)
		if len(f.payload) < 2 {
			return &ended{code: 1005}
		}
		return &ended{int(binary.BigEndian.Uint16(f.payload)), string(f.payload[2:])}
	default:
		p.kept.put(f)
	}
	return nil
}

func (p *peer) answer(pong []byte) {
	if !p.mute.Load() {
		p.pings.Add(1)
		go p.write(pong) // a client reads on while its own line is full; ends with the connection
	}
}

// next returns the next frame that attend has kept; ok is false at the end.
func (p *peer) next() (f received, ok bool) {
	p.t.Helper()
	tooLong := time.After(patience)
	for {
		f, ok, ended := p.kept.take()
		if ok || ended {
			return f, ok
		}
		select {
		case <-p.kept.change:
		case <-tooLong:
			p.t.Fatal("nothing came")
		}
	}
}

// must is next for what must come.
func (p *peer) must() received {
	p.t.Helper()
	f, ok := p.next()
	if !ok {
		p.t.Fatalf("the connection has ended: %v", p.end)
	}
	return f
}

// reply reads to the reply or error with an id, and returns what came before it.
func (p *peer) reply(id int) (f received, before []received) {
	p.t.Helper()
	for {
		f := p.must()
		if f.ID == id && (f.Op == "reply" || f.Op == "error") {
			return f, before
		}
		before = append(before, f)
	}
}

// rest reads to the end, and returns the code of the server's close frame, 0 if there was
// none, and what came before it.
func (p *peer) rest() (code int, before []received) {
	p.t.Helper()
	for {
		f, ok := p.next()
		if !ok {
			break
		}
		before = append(before, f)
	}
	var e *ended
	if errors.As(p.end, &e) {
		code = e.code
	}
	return code, before
}

// reset hangs up with a RST.
func (p *peer) reset() {
	p.line.Conn.(*net.TCPConn).SetLinger(0)
	p.line.Close()
}

// slowLine is a connection that is read at a pace, or not at all.
type slowLine struct {
	net.Conn
	perSecond atomic.Int64 // 0: as fast as it goes
	stalled   atomic.Bool  // nothing is read
	read      atomic.Int64 // bytes so far
	free      time.Time    // when the next byte may be read
}

// ticks is how many reads a slow line makes in a second.
const ticks = 50

func (l *slowLine) Read(b []byte) (int, error) {
	for l.stalled.Load() {
		time.Sleep(time.Millisecond)
	}
	pace := l.perSecond.Load()
	if pace > 0 {
		b = b[:min(len(b), max(int(pace/ticks), 1))]
	}
	n, err := l.Conn.Read(b)
	l.read.Add(int64(n))
	if pace > 0 {
		if now := time.Now(); l.free.Before(now) {
			l.free = now
		}
		l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(pace))
		time.Sleep(time.Until(l.free))
	}
	return n, err
}

// Close ends a stall too.
func (l *slowLine) Close() error {
	l.stalled.Store(false)
	return l.Conn.Close()
}

// operation returns a live.v1 client's operation.
func operation(op string, id int, topic string, more ...any) string {
	o := map[string]any{"op": op, "id": id, "topic": topic}
	for i := 0; i < len(more); i += 2 {
		o[more[i].(string)] = more[i+1]
	}
	b, _ := json.Marshal(o)
	return string(b)
}

// inOneFrame returns operations as an array.
func inOneFrame(operations ...string) string { return "[" + strings.Join(operations, ",") + "]" }

// open lets live.v1 clients do everything.
func open(opts live.Options) live.Options {
	opts.OnSubscribe = func(context.Context, *live.Session, string) error { return nil }
	opts.OnPublish = func(context.Context, *live.Session, string, []byte) error { return nil }
	return opts
}

// padded returns a JSON string that begins with a number and has about so many bytes.
func padded(i, size int) string {
	return fmt.Sprintf(`"%d %s"`, i, strings.Repeat("x", max(size-10, 0)))
}

// numberOf is the inverse of padded.
func numberOf(data []byte) int {
	n := -1
	fmt.Sscanf(string(data), `"%d `, &n)
	return n
}
