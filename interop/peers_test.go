package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"

	"github.com/livetopic/livetopic/internal/livetest"
)

// peer is one connection of one of the client libraries.
type peer interface {
	send(text string) error
	sendBinary(data []byte) error
	sendFragments(parts []string) error // one message, some frames
	ping(payload string) error          // waits for the pong; an error if its payload differs
	close(code int) error               // begins the close handshake
	drop()                              // closes the TCP connection
}

// library is a client library.
type library struct {
	name string
	dial func(e livetest.Endpoint, header http.Header, in *inbox) (peer, *http.Response, error)
}

var libraries = []library{
	{"gorilla", dialGorilla},
	{"gws", dialGWS},
	{"coder", dialCoder},
}

// inbox is what a peer tells its client.
type inbox struct {
	*livetest.Client
	pongs chan string
}

func (in *inbox) message(text string) { in.Put(text) }

func (in *inbox) pong(payload string) {
	select {
	case in.pongs <- payload:
	default:
	}
}

// ended says why nothing more comes; code is that of the close frame, 0 without one.
func (in *inbox) ended(code int, err error) {
	if code != 0 {
		err = &livetest.CloseError{Code: code, Reason: err.Error()}
	}
	in.End(err)
}

func (in *inbox) awaitPong(payload string) error {
	select {
	case got := <-in.pongs:
		if got != payload {
			return fmt.Errorf("pong %q, want %q", got, payload)
		}
		return nil
	case <-time.After(livetest.Patience):
		return errors.New("no pong")
	}
}

// client is a client that a library connects.
type client struct {
	*livetest.Client
	peer
}

func (l library) connect(t testing.TB, e livetest.Endpoint, header http.Header) *client {
	t.Helper()
	var p peer
	in := &inbox{pongs: make(chan string, 64)}
	in.Client = livetest.NewClient(t, func(text string) error { return p.send(text) }, func() { p.drop() })
	p, response, err := l.dial(e, header, in)
	if err != nil {
		t.Fatalf("%s cannot connect: %v", l.name, err)
	}
	in.Response = response
	t.Cleanup(in.Drop)
	return &client{in.Client, p}
}

// github.com/gorilla/websocket

// between is the payload of pings amid fragments. Nobody waits for their pongs.
const between = "between"

type gorillaPeer struct {
	*gorilla.Conn
	in *inbox
}

// The write buffer is what a frame of gorilla's holds at most.
var (
	dialGorilla     = gorillaDialer(2<<20, new(sync.Pool)) // every message is one frame
	gorillaInPieces = library{"gorilla", gorillaDialer(32, nil)}
)

func gorillaDialer(buffer int, pool gorilla.BufferPool) func(livetest.Endpoint, http.Header, *inbox) (peer, *http.Response, error) {
	return func(e livetest.Endpoint, header http.Header, in *inbox) (peer, *http.Response, error) {
		return dialGorillaWith(&gorilla.Dialer{
			TLSClientConfig:  e.TLS,
			HandshakeTimeout: livetest.Patience,
			WriteBufferSize:  buffer,
			WriteBufferPool:  pool,
		}, e, header, in)
	}
}

func dialGorillaWith(d *gorilla.Dialer, e livetest.Endpoint, header http.Header, in *inbox) (peer, *http.Response, error) {
	conn, response, err := d.Dial(e.URL, header)
	if err != nil {
		return nil, response, err
	}
	conn.SetPongHandler(func(payload string) error {
		if payload != between {
			in.pong(payload)
		}
		return nil
	})
	go func() { // ends with the connection
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil {
				var closed *gorilla.CloseError
				if errors.As(err, &closed) && closed.Code != gorilla.CloseAbnormalClosure {
					in.ended(closed.Code, err)
				} else {
					in.ended(0, err)
				}
				conn.Close()
				return
			}
			if kind != gorilla.TextMessage {
				data = fmt.Appendf(nil, "frame of type %d", kind)
			}
			in.message(string(data))
		}
	}()
	return gorillaPeer{conn, in}, response, nil
}

func (p gorillaPeer) send(text string) error {
	return p.WriteMessage(gorilla.TextMessage, []byte(text))
}

func (p gorillaPeer) sendBinary(data []byte) error {
	return p.WriteMessage(gorilla.BinaryMessage, data)
}

func (p gorillaPeer) sendFragments(parts []string) error {
	w, err := p.NextWriter(gorilla.TextMessage)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if _, err := io.WriteString(w, part); err != nil {
			return err
		}
		// A control frame may come between two fragments.
		if err := p.WriteControl(gorilla.PingMessage, []byte(between), time.Now().Add(livetest.Patience)); err != nil {
			return err
		}
	}
	return w.Close()
}

func (p gorillaPeer) ping(payload string) error {
	if err := p.WriteControl(gorilla.PingMessage, []byte(payload), time.Now().Add(livetest.Patience)); err != nil {
		return err
	}
	return p.in.awaitPong(payload)
}

func (p gorillaPeer) close(code int) error {
	return p.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(code, ""), time.Now().Add(livetest.Patience))
}

func (p gorillaPeer) drop() { p.Conn.Close() }

// github.com/lxzan/gws

type gwsPeer struct {
	*gws.Conn
	in *inbox
}

type gwsHandler struct {
	gws.BuiltinEventHandler
	in *inbox
}

func dialGWS(e livetest.Endpoint, header http.Header, in *inbox) (peer, *http.Response, error) {
	option := &gws.ClientOption{Addr: e.URL, RequestHeader: header.Clone(), HandshakeTimeout: livetest.Patience}
	if e.TLS != nil {
		option.TlsConfig = e.TLS.Clone()
	}
	conn, response, err := gws.NewClient(&gwsHandler{in: in}, option)
	if err != nil {
		return nil, response, err
	}
	go conn.ReadLoop() // ends with the connection
	return gwsPeer{conn, in}, response, nil
}

func (h *gwsHandler) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	text := m.Data.String()
	if m.Opcode != gws.OpcodeText {
		text = fmt.Sprintf("frame of type %d", m.Opcode)
	}
	h.in.message(text)
}

func (h *gwsHandler) OnPing(conn *gws.Conn, payload []byte) { conn.WritePong(payload) }

func (h *gwsHandler) OnPong(_ *gws.Conn, payload []byte) { h.in.pong(string(payload)) }

func (h *gwsHandler) OnClose(_ *gws.Conn, err error) {
	var closed *gws.CloseError
	if errors.As(err, &closed) {
		h.in.ended(int(closed.Code), err)
		return
	}
	h.in.ended(0, err)
}

func (p gwsPeer) send(text string) error { return p.WriteString(text) }

func (p gwsPeer) sendBinary(data []byte) error { return p.WriteMessage(gws.OpcodeBinary, data) }

func (p gwsPeer) sendFragments(parts []string) error {
	readers := make([]io.Reader, len(parts))
	for i, part := range parts {
		readers[i] = strings.NewReader(part)
	}
	return p.WriteFile(gws.OpcodeText, io.MultiReader(readers...)) // a frame for each Read
}

func (p gwsPeer) ping(payload string) error {
	if err := p.WritePing([]byte(payload)); err != nil {
		return err
	}
	return p.in.awaitPong(payload)
}

// close closes the TCP connection too: gws does not wait for an answer.
func (p gwsPeer) close(code int) error { return p.WriteClose(uint16(code), nil) }

func (p gwsPeer) drop() { p.NetConn().Close() }

// github.com/coder/websocket

type coderPeer struct {
	*websocket.Conn
	in        *inbox
	transport *http.Transport
}

func dialCoder(e livetest.Endpoint, header http.Header, in *inbox) (peer, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: e.TLS}
	conn, response, err := websocket.Dial(ctx, e.URL, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport},
		HTTPHeader: header,
	})
	if err != nil {
		transport.CloseIdleConnections()
		return nil, response, err
	}
	conn.SetReadLimit(-1)
	go func() { // ends with the connection
		for {
			kind, data, err := conn.Read(context.Background())
			if err != nil {
				in.ended(max(int(websocket.CloseStatus(err)), 0), err)
				return
			}
			if kind != websocket.MessageText {
				data = fmt.Appendf(nil, "frame of type %d", kind)
			}
			in.message(string(data))
		}
	}()
	return coderPeer{conn, in, transport}, response, nil
}

func (p coderPeer) write(kind websocket.MessageType, data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	return p.Write(ctx, kind, data)
}

func (p coderPeer) send(text string) error { return p.write(websocket.MessageText, []byte(text)) }

func (p coderPeer) sendBinary(data []byte) error { return p.write(websocket.MessageBinary, data) }

func (p coderPeer) sendFragments(parts []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	w, err := p.Writer(ctx, websocket.MessageText)
	if err != nil {
		return err
	}
	for _, part := range parts { // a frame for each Write
		if _, err := w.Write([]byte(part)); err != nil {
			return err
		}
	}
	return w.Close()
}

// ping sends a payload of coder's own, and coder waits for its return.
func (p coderPeer) ping(string) error {
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	return p.Ping(ctx)
}

func (p coderPeer) close(code int) error { return p.Close(websocket.StatusCode(code), "") }

func (p coderPeer) drop() {
	p.CloseNow()
	p.transport.CloseIdleConnections()
}
