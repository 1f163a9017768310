package liveclient

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// subprotocol is what docs/protocol.md describes.
const subprotocol = "live.v1"

// pingSlack is how late a ping of the server may be, before the connection counts as lost. docs/protocol.md names it.
const pingSlack = 10 * time.Second

// parseAddress returns a URL with the scheme ws or wss.
func parseAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err // without the address, which may have a password
		}
		return nil, fmt.Errorf("liveclient: the address is not a URL such as wss://example.com/live: %w", err)
	}
	switch u.Scheme {
	case "ws", "wss":
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	default:
		return nil, fmt.Errorf("liveclient: the address has the scheme %q; want ws, wss, http or https, as in wss://example.com/live", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, errors.New("liveclient: the address has no host")
	}
	u.Fragment = ""
	return u, nil
}

// handshaker returns an HTTP client for one handshake. It puts the TCP connection of the handshake into below. It follows no
// redirect: that would give the token to another server.
func (c *Client) handshaker(below *atomic.Pointer[tcpConn]) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := c.opts.Dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			tcp := &tcpConn{Conn: conn, begun: time.Now()}
			below.Store(tcp)
			return tcp, nil
		},
		TLSClientConfig:   c.opts.TLS.Clone(),
		Proxy:             c.opts.Proxy,
		DisableKeepAlives: true, // the answer to a refused handshake leaves no connection behind
	}
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: transport, Jar: c.opts.Jar, CheckRedirect: noRedirect}
}

// tcpConn is the TCP connection below a WebSocket connection. It notes when bytes arrive, because a large
// frame that comes slowly is a sign of life before it is complete. For the same reason it bounds each of
// its writes, and not that of a whole frame.
type tcpConn struct {
	net.Conn
	begun time.Time
	heard atomic.Int64 // nanoseconds after begun
	ended atomic.Bool  // no more bytes come
}

func (t *tcpConn) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if n > 0 {
		t.heard.Store(int64(time.Since(t.begun)))
	}
	if err == io.EOF {
		t.ended.Store(true)
	}
	return n, err
}

// Write writes some kilobytes of a frame: as many as the WebSocket library buffers, or as a TLS record has.
func (t *tcpConn) Write(b []byte) (int, error) {
	t.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	return t.Conn.Write(b)
}

// silence returns how long no bytes have arrived.
func (t *tcpConn) silence() time.Duration {
	return time.Since(t.begun) - time.Duration(t.heard.Load())
}

// connect makes one attempt to connect. It returns when the server has said hello.
func (c *Client) connect() (*conn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.ConnectTimeout)
	defer cancel()
	var below atomic.Pointer[tcpConn]
	o := &websocket.DialOptions{
		HTTPClient:   c.handshaker(&below),
		HTTPHeader:   c.opts.Header.Clone(),
		Subprotocols: []string{subprotocol},
	}
	if o.HTTPHeader == nil {
		o.HTTPHeader = make(http.Header)
	}
	o.Host = o.HTTPHeader.Get("Host") // net/http ignores it among the headers
	o.HTTPHeader.Del("Host")
	if c.opts.Compression {
		o.CompressionMode = websocket.CompressionNoContextTakeover
	}
	if c.opts.Token != nil {
		token, err := c.token(ctx)
		if err != nil {
			return nil, fmt.Errorf("liveclient: Token has failed: %w", err)
		}
		switch {
		case token == "":
		case c.opts.TokenInSubprotocol:
			o.Subprotocols = append(o.Subprotocols, "live.token."+base64.RawURLEncoding.EncodeToString([]byte(token)))
		default:
			o.HTTPHeader.Set("Authorization", "Bearer "+token)
		}
	}
	if err := checkHeader(o.HTTPHeader); err != nil {
		return nil, err
	}
	ws, answer, err := websocket.Dial(ctx, c.address.String(), o)
	if err != nil {
		return nil, c.dialError(answer, err)
	}
	ws.SetReadLimit(int64(c.opts.ReadLimit))
	cn := newConn(ws, below.Load())
	stop := context.AfterFunc(ctx, func() { cn.kill(errNoHello) })
	defer stop()
	if ws.Subprotocol() != subprotocol { // a server may also pick the one that carries the token
		cn.kill(ErrNotLive)
		return nil, ErrNotLive
	}
	hello, err := cn.readHello()
	if err != nil {
		err = cn.ending(err)
		cn.kill(err)
		return nil, err
	}
	cn.session, cn.largest = hello.session, hello.largest
	if hello.ping > 0 {
		cn.patience = hello.ping + pingSlack
	}
	return cn, nil
}

// errInvalidHeader is wrapped by the error for a header that no request may have.
var errInvalidHeader = errors.New("liveclient: invalid header")

// checkHeader returns an error that names a header which net/http would refuse. The error of net/http does not say
// that each further attempt would fail in the same way. A token from a file often ends with a line break.
func checkHeader(header http.Header) error {
	const others = "!#$%&'*+-.^_`|~" // characters of a name, besides letters and digits (RFC 9110, section 5.6.2)
	badInName := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	}
	badInValue := func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
	for name, values := range header {
		if name == "" || strings.ContainsFunc(name, badInName) {
			return fmt.Errorf("%w: %q is not a name", errInvalidHeader, name)
		}
		for _, value := range values {
			if strings.ContainsFunc(value, badInValue) {
				return fmt.Errorf("%w: the value of %s has a line break or another control character", errInvalidHeader, name)
			}
		}
	}
	return nil
}

// tokenResult is what Options.Token has returned.
type tokenResult struct {
	token string
	err   error
}

// token asks for a token, until ctx ends. The function runs in a goroutine of its own, so that it may call any method of the client. While a
// call of an earlier attempt has not returned, there is no other one: a Token that does not end with its context must not pile up.
func (c *Client) token(ctx context.Context) (string, error) {
	done := c.asking
	c.asking = nil
	select {
	case <-done: // it came too late, and may be an error of a context that has ended
		done = nil
	default:
	}
	if done == nil {
		done = make(chan tokenResult, 1)
		go func() { // ends when Token returns
			token, err := c.opts.Token(ctx)
			done <- tokenResult{token, err}
		}()
	}
	select {
	case r := <-done:
		return r.token, r.err
	case <-ctx.Done():
		c.asking = done
		return "", ctx.Err()
	}
}

var errNoHello = errors.New("liveclient: the server did not say hello in time")

// dialError explains why a handshake has failed.
func (c *Client) dialError(answer *http.Response, err error) error {
	if answer != nil && answer.StatusCode != http.StatusSwitchingProtocols {
		refused := &RefusedError{Status: answer.StatusCode, Text: answer.Header.Get("Location")}
		if answer.Body != nil && refused.Text == "" {
			text, _ := io.ReadAll(io.LimitReader(answer.Body, 500))
			refused.Text = strings.TrimSpace(strings.ToValidUTF8(string(text), "\uFFFD"))
		}
		refused.RetryAfter = retryAfter(answer.Header)
		return refused
	}
	var request *url.Error // its text has the address, with its query
	if errors.As(err, &request) {
		err = request.Err
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Errorf("liveclient: the server at %s has no TLS; use ws instead of wss: %w", c.address.Host, http.ErrSchemeMismatch)
	}
	if answer != nil { // with 101, and a header that RFC 6455 does not allow
		return fmt.Errorf("%w: %s: %w", ErrNotLive, c.address.Host, err)
	}
	return fmt.Errorf("liveclient: cannot connect to %s: %w", c.address.Host, err)
}

// maxRetryAfter bounds what a server may ask for.
const maxRetryAfter = time.Hour

// retryAfter returns how long a server asks the client to wait: in seconds, or until a time (RFC 9110, section 10.2.3). 0: it
// has not said.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil { // out of range
			return maxRetryAfter
		}
		return time.Duration(min(seconds, int64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(header.Get("Date")) // the server's clock may differ from this one
	if err != nil {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// isLasting reports whether a further attempt would most likely fail in the same way.
func isLasting(err error) bool {
	var refused *RefusedError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &refused):
		return refused.isLasting()
	case errors.Is(err, ErrNotLive), errors.Is(err, http.ErrSchemeMismatch), errors.Is(err, errInvalidHeader):
		return true
	}
	return errors.As(err, &certificate)
}
