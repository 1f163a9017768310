package livetest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Endpoint is the address of a server.
type Endpoint struct {
	URL string      // ws://… or wss://…
	TLS *tls.Config // for clients; nil: plain TCP
}

// With returns the endpoint with a query.
func (e Endpoint) With(query string) Endpoint {
	e.URL += "?" + query
	return e
}

// HTTP returns the URL for requests that are not handshakes.
func (e Endpoint) HTTP() string { return "http" + strings.TrimPrefix(e.URL, "ws") }

// Addr returns the host and port.
func (e Endpoint) Addr() string {
	addr, _ := e.split()
	return addr
}

func (e Endpoint) split() (addr, path string) {
	_, addr, _ = strings.Cut(e.URL, "://")
	if i := strings.IndexAny(addr, "/?"); i >= 0 {
		addr, path = addr[:i], addr[i:]
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return addr, path
}

// Subprotocol is the name of the protocol in docs/protocol.md.
const Subprotocol = "live.v1"

// Dialing says how a client connects, and how it behaves.
type Dialing struct {
	V1      bool     // it speaks live.v1
	Offers  []string // more subprotocols that it offers
	Deflate bool     // it offers compression
	Header  http.Header

	Buffer int    // bytes that the kernel may hold for it; 0: the kernel decides
	Pace   int    // bytes that it reads in a second; 0: as many as come
	Early  string // bytes that it sends in one write with the handshake
	Mute   bool   // it answers no ping of live.v1; Next returns them
}

// Dial connects a plain client, and calls Attend.
func Dial(t testing.TB, at Endpoint) *Client {
	t.Helper()
	return Connect(t, at, Dialing{}).Attend()
}

// DialV1 connects a client of live.v1, calls Attend, and reads hello.
func DialV1(t testing.TB, at Endpoint, offers ...string) *Client {
	t.Helper()
	return Connect(t, at, Dialing{V1: true, Offers: offers}).Attend().Greeted()
}

// Connect makes the handshake. Until Attend is called, the client does nothing by itself. Its
// connection is closed when the test ends.
func Connect(t testing.TB, at Endpoint, o Dialing) *Client {
	t.Helper()
	c, err := Try(t, at, o)
	if err != nil {
		t.Fatalf("cannot connect: %v", err)
	}
	t.Cleanup(c.Drop)
	return c
}

// Try is Connect, but it may fail, and the test itself must close the connection. If the server
// has answered, the client has the Response.
func Try(t testing.TB, at Endpoint, o Dialing) (*Client, error) {
	conn, err := DialTCP(at.Addr(), o.Buffer)
	if err != nil {
		return nil, err
	}
	c := newClient(t, conn)
	c.Line.SetPace(o.Pace)
	if at.TLS != nil {
		config := at.TLS.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(at.Addr())
		}
		c.Conn = tls.Client(c.Line, config)
	}
	c.In = bufio.NewReader(c.Conn)
	if err := c.handshake(at, o); err != nil {
		conn.Close()
		return c, err
	}
	return c, nil
}

// Refusal connects and expects that the server refuses. It returns the status of the answer.
func Refusal(t testing.TB, at Endpoint, header http.Header) int {
	t.Helper()
	c, err := Try(t, at, Dialing{Header: header})
	if err == nil {
		t.Fatal("connected, want a refusal")
	}
	if c == nil || c.Response == nil {
		t.Fatalf("no answer: %v", err)
	}
	return c.Response.StatusCode
}

// Over makes the handshake over an open connection, for example of net.Pipe.
func Over(t testing.TB, conn net.Conn, o Dialing) *Client {
	t.Helper()
	c := newClient(t, conn)
	c.Line.SetPace(o.Pace)
	c.In = bufio.NewReader(c.Conn)
	if err := c.handshake(Endpoint{URL: "ws://pipe"}, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Drop)
	return c
}

// DialTCP opens a TCP connection. buffer is how many bytes the kernel is asked to hold for it; 0:
// the kernel decides.
func DialTCP(addr string, buffer int) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if buffer == 0 {
			return nil
		}
		return errors.Join(raw.Control(func(fd uintptr) { err = setReceiveBuffer(fd, buffer) }), err)
	}}
	return d.Dial("tcp", addr)
}

// DialTransport opens a connection, with TLS if the endpoint has it. It makes no handshake of
// WebSocket.
func DialTransport(t testing.TB, at Endpoint) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", at.Addr())
	if at.TLS != nil && err == nil {
		conn.Close()
		conn, err = tls.Dial("tcp", at.Addr(), at.TLS)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(Patience))
	return conn
}

// Request returns the handshake of a client.
func (o Dialing) Request(at Endpoint) string {
	host, path := at.split()
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", path, host)
	offers := o.Offers
	if o.V1 {
		offers = append([]string{Subprotocol}, offers...)
	}
	if len(offers) > 0 {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", strings.Join(offers, ", "))
	}
	if o.Deflate {
		b.WriteString("Sec-WebSocket-Extensions: permessage-deflate\r\n")
	}
	o.Header.Write(&b)
	return b.String() + "\r\n"
}

func (c *Client) handshake(at Endpoint, o Dialing) error {
	c.v1 = o.V1
	c.mute.Store(o.Mute)
	c.Conn.SetDeadline(time.Now().Add(Patience))
	if _, err := c.Conn.Write([]byte(o.Request(at) + o.Early)); err != nil {
		return err
	}
	var err error
	if c.Response, err = http.ReadResponse(c.In, nil); err != nil {
		return err
	}
	if c.Response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("handshake: %s", c.Response.Status)
	}
	if got := c.Response.Header.Get("Sec-WebSocket-Accept"); got != "ICX+Yqv66kxgM0FcWaLWlFLwTAI=" {
		return fmt.Errorf("handshake: Sec-WebSocket-Accept is %q", got)
	}
	want := ""
	if o.V1 {
		want = Subprotocol
	}
	if got := c.Response.Header.Get("Sec-WebSocket-Protocol"); got != want {
		return fmt.Errorf("the server agreed to %q, want %q", got, want)
	}
	c.Conn.SetDeadline(time.Time{})
	return nil
}
