package livetest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"
)

// DialOption says how a client connects.
type DialOption func(*dialing)

// dialing holds the options of one client.
type dialing struct {
	name     string
	value    any
	hasValue bool
	plain    bool
	path     string
	header   http.Header
	jar      http.CookieJar

	protocols []string // that it offers besides live.v1
}

// Value gives the session this Value. OnAuth is not called. It needs New; with Serve a client signs
// in with a Header, a Cookie, a Token or As.
func Value(v any) DialOption {
	return func(d *dialing) { d.value, d.hasValue = v, true }
}

// Plain makes the client one without the subprotocol live.v1. It sends and gets
// {"topic":…,"data":…}, and nothing else: it cannot subscribe by itself.
func Plain() DialOption { return func(d *dialing) { d.plain = true } }

// Path is where the handler is mounted, with a query or without. Without this option it is "/live".
func Path(path string) DialOption { return func(d *dialing) { d.path = path } }

// Header adds a header to the handshake. With "Origin" the client is a page of that origin.
func Header(name, value string) DialOption {
	return func(d *dialing) { d.header.Add(name, value) }
}

// Cookie adds a cookie to the handshake.
func Cookie(name, value string) DialOption {
	return func(d *dialing) { d.header.Add("Cookie", (&http.Cookie{Name: name, Value: value}).String()) }
}

// Token signs in with a bearer token, which live.Token returns to OnAuth.
func Token(token string) DialOption { return Header("Authorization", "Bearer "+token) }

// PageToken signs in with a token as a page does, which cannot set headers: by a subprotocol, from which
// live.Token returns it too.
func PageToken(token string) DialOption {
	return func(d *dialing) {
		d.protocols = append(d.protocols, "live.token."+base64.RawURLEncoding.EncodeToString([]byte(token)))
	}
}

// As adds the cookies that an HTTP client has, for example of Server.Client after it has signed in.
func As(browser *http.Client) DialOption { return func(d *dialing) { d.jar = browser.Jar } }

// Name is what failures call the client. Without this option it is the Value, if that is a string
// or has a method UserID() string, or else a number.
func Name(name string) DialOption { return func(d *dialing) { d.name = name } }

func newDialing(opts []DialOption, number int) *dialing {
	d := &dialing{path: "/live", header: make(http.Header)}
	for _, opt := range opts {
		opt(d)
	}
	if d.name == "" {
		d.name = nameOf(d.value, number)
	}
	return d
}

func nameOf(value any, number int) string {
	name := ""
	switch v := value.(type) {
	case string:
		name = v
	case interface{ UserID() string }:
		name = v.UserID()
	}
	if name == "" {
		name = fmt.Sprint("client ", number)
	}
	return name
}

// Dial connects a client, and waits until OnConnect has returned. The test fails if the server
// refuses the handshake: see ExpectRefused. If OnConnect refuses the client, Dial returns, and ExpectClosed tells the code. A plain client of Serve does not wait for OnConnect.
func (s *Server) Dial(opts ...DialOption) *Client {
	s.t.Helper()
	s.mu.Lock()
	c := newClient(s, newDialing(opts, len(s.clients)+1))
	s.clients = append(s.clients, c)
	s.mu.Unlock()
	c.connect()
	return c
}

// ExpectRefused connects and expects that the server refuses the handshake with an HTTP status. It
// returns the text of the answer.
func (s *Server) ExpectRefused(status int, opts ...DialOption) (text string) {
	s.t.Helper()
	d := newDialing(opts, 0)
	s.checkDialing(d)
	_, err := s.handshake(d, newVisit(d))
	var refused *refusedError
	switch {
	case err == nil:
		s.t.Fatalf("livetest: the server has accepted the client, want a refusal with %d", status)
	case !errors.As(err, &refused):
		s.t.Fatalf("livetest: %v, want a refusal with %d", err, status)
	case refused.status != status:
		s.t.Fatalf("livetest: %v, want %d", refused, status)
	}
	return refused.text
}

func (s *Server) checkDialing(d *dialing) {
	s.t.Helper()
	if d.hasValue && s.Live == nil {
		s.t.Fatalf("livetest: Value needs New: with Serve sign in with Header, Cookie, Token or As")
	}
}

// refusedError says how the server has refused a handshake.
type refusedError struct {
	status int
	text   string
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("the server has refused the client with %d %s: %s", e.status, http.StatusText(e.status), e.text)
}

// handshake opens a line and makes it a WebSocket connection.
func (s *Server) handshake(d *dialing, v *visit) (*connection, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.Patience)
	defer cancel()
	conn := &connection{visit: v, over: make(chan struct{})}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var err error
			conn.line, err = s.listener.dial(ctx, v)
			return clientLine{conn.line}, err
		},
	}
	o := &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: transport, CheckRedirect: noRedirect},
		HTTPHeader:   d.headers(s.URL),
		Subprotocols: d.protocols,
	}
	if !d.plain {
		o.Subprotocols = append([]string{"live.v1"}, d.protocols...)
	}
	ws, resp, err := websocket.Dial(ctx, s.URL+d.path, o)
	switch {
	case err != nil && resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		text, _ := io.ReadAll(resp.Body)
		err = &refusedError{resp.StatusCode, strings.TrimSpace(string(text))}
	case err != nil:
		err = fmt.Errorf("the client cannot connect: %w", err)
	case !d.plain && ws.Subprotocol() == "":
		err = errors.New("the handler does not speak live.v1")
	}
	if err != nil {
		if conn.line != nil {
			conn.line.Close()
		}
		return nil, err
	}
	ws.SetReadLimit(-1)
	conn.ws = ws
	return conn, nil
}

// noRedirect has a redirect be an answer like others, for example to the page for signing in.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// headers returns the headers of the handshake, with the cookies of the jar.
func (d *dialing) headers(root string) http.Header {
	h := d.header.Clone()
	if d.jar == nil {
		return h
	}
	at, err := url.Parse(root + d.path)
	if err != nil {
		return h // Dial reports it
	}
	r := &http.Request{Header: h}
	for _, cookie := range d.jar.Cookies(at) {
		r.AddCookie(cookie)
	}
	return h
}
