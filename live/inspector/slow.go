package inspector

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live"
)

const (
	// maxSlow bounds how many slow readers there are at once. Each takes what one session may take:
	// QueueBytes as a rule.
	maxSlow = 5

	// slowLife is how long a slow reader lives. A person sees within a minute what happens to it.
	slowLife = time.Minute

	// slowBytes are read in each slowPause: 2 KB a second, as on the worst of mobile networks.
	slowBytes = 200
	slowPause = 100 * time.Millisecond

	// signOfLife is how often a slow reader sends something, so that it does not count as dead.
	signOfLife = 5 * time.Second

	// greetTimeout is how long the handshake may take, with the application's OnAuth.
	greetTimeout = 15 * time.Second
)

// slowReaders counts the slow readers.
type slowReaders struct{ running atomic.Int32 }

// slowReader connects a client that reads slowly to this server, in memory. It subscribes the client to
// the topic of the request.
func (in *inspector) slowReader(r *http.Request) (any, error) {
	request, err := body[struct {
		Topic string `json:"topic"`
	}](r)
	if err != nil {
		return nil, err
	}
	if in.slow.running.Add(1) > maxSlow {
		in.slow.running.Add(-1)
		return nil, problemf(http.StatusTooManyRequests, "%d slow readers run already, and each lives for a minute", maxSlow)
	}
	c, id, err := in.connect(r)
	var s *live.Session
	if err == nil {
		s, err = in.subscribe(id, request.Topic)
	}
	if err != nil {
		in.slow.running.Add(-1)
		if c != nil {
			c.conn.Close()
		}
		return nil, err
	}
	in.logAction(r, "live inspector: slow reader begins", "session", id, "topic", request.Topic)
	go func() { // ends after slowLife, or with the session
		defer in.slow.running.Add(-1)
		c.readSlowly(s)
	}()
	return done{"The slow reader is session " + id + ". It lives for a minute."}, nil
}

// subscribe subscribes a session, and returns it.
func (in *inspector) subscribe(id, topic string) (*live.Session, error) {
	s, err := in.find(id)
	if err != nil {
		return nil, err
	}
	if err := in.server.Subscribe(s, topic); err != nil {
		return nil, problemf(http.StatusBadRequest, "%v", err)
	}
	return s, nil
}

// pipeClient is a client in memory.
type pipeClient struct {
	conn net.Conn
	in   *bufio.Reader
}

// connect makes the handshake as the person who asks: with the cookies and the Authorization header of
// the request, and with the values of its context. id is the ID of the session.
func (in *inspector) connect(r *http.Request) (c *pipeClient, id string, err error) {
	far, near := net.Pipe()
	near.SetDeadline(time.Now().Add(greetTimeout))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), greetTimeout)
	w := &pipeWriter{conn: far, header: make(http.Header)}
	served := make(chan struct{})
	go func() { // ends when the handshake has ended: OnAuth and the pipe have timeouts
		defer cancel()
		defer close(served)
		defer func() {
			if !w.hijacked {
				far.Close()
			}
		}()
		in.server.Handler().ServeHTTP(w, handshake(ctx, r))
	}()
	c = &pipeClient{near, bufio.NewReaderSize(near, slowBytes)}
	if err := c.switched(); err != nil {
		near.Close()
		<-ctx.Done() // the handshake has ended, or OnAuth ignores its context
		select {
		case <-served:
		default:
			return nil, "", problemf(http.StatusGatewayTimeout, "the application did not answer the slow reader within %v", greetTimeout)
		}
		if w.status != 0 {
			return nil, "", problemf(http.StatusBadRequest, "the application refused the slow reader with %d: it connects as you do, so OnAuth must let you in", w.status)
		}
		return nil, "", fmt.Errorf("slow reader: %w", err)
	}
	if id, err = c.greeted(); err != nil {
		near.Close()
		return nil, "", problemf(http.StatusBadGateway, "the application closed the slow reader at once: %v", err)
	}
	near.SetDeadline(time.Time{})
	return c, id, nil
}

// handshake returns the request of a client of live.v1.
func handshake(ctx context.Context, as *http.Request) *http.Request {
	h := http.Header{
		"Connection":             {"Upgrade"},
		"Upgrade":                {"websocket"},
		"Sec-Websocket-Version":  {"13"},
		"Sec-Websocket-Key":      {"AAAAAAAAAAAAAAAAAAAAAA=="}, // no proxy is on the way that could have a stored answer
		"Sec-Websocket-Protocol": {"live.v1"},
	}
	for _, name := range []string{"Cookie", "Authorization"} {
		if values := as.Header.Values(name); len(values) > 0 {
			h[name] = values
		}
	}
	r := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/"}, RequestURI: "/",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: http.NoBody, Host: as.Host, RemoteAddr: as.RemoteAddr, TLS: as.TLS,
	}
	return r.WithContext(ctx)
}

// switched reads the answer to the handshake.
func (c *pipeClient) switched() error {
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the answer is %s", answer.Status)
	}
	return nil
}

var errNoHello = errors.New("its first frame is no hello")

// greeted reads the first frame, which is hello, and returns the session's ID. The frames of a server
// are not masked (RFC 6455, section 5.1), and a hello has less than 64 KB.
func (c *pipeClient) greeted() (id string, err error) {
	var head [4]byte
	if _, err := io.ReadFull(c.in, head[:2]); err != nil {
		return "", err
	}
	size := int(head[1])
	if size == 126 {
		if _, err := io.ReadFull(c.in, head[2:]); err != nil {
			return "", err
		}
		size = int(binary.BigEndian.Uint16(head[2:]))
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(c.in, payload); err != nil {
		return "", err
	}
	var hello struct {
		Op      string `json:"op"`
		Session string `json:"session"`
	}
	if json.Unmarshal(payload, &hello) != nil || hello.Op != "hello" {
		return "", errNoHello
	}
	return hello.Session, nil
}

// Frames of the client, with a mask of zeros: a pong of live.v1, and a close frame with code 1000.
var (
	pong = append([]byte{0x81, 0x80 | byte(len(pongText)), 0, 0, 0, 0}, pongText...)
	bye  = []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8}
)

const pongText = `{"op":"pong"}`

// readSlowly reads for slowLife. It ends sooner if the session has ended and nothing is left to read.
func (c *pipeClient) readSlowly(s *live.Session) {
	defer c.conn.Close()
	c.conn.SetDeadline(time.Now().Add(slowLife + greetTimeout)) // also for a server that is stuck
	pause := time.NewTicker(slowPause)
	defer pause.Stop()
	begun := time.Now()
	lastPong := begun
	buf := make([]byte, slowBytes)
	for now := range pause.C {
		if now.Sub(begun) > slowLife {
			c.conn.Write(bye)
			return
		}
		if now.Sub(lastPong) > signOfLife {
			lastPong = now
			if _, err := c.conn.Write(pong); err != nil {
				return
			}
		}
		ended := s.IsClosed() // before the read: what is sent after it is not missed
		c.conn.SetReadDeadline(time.Now().Add(slowPause))
		_, err := c.in.Read(buf)
		if timedOut := errors.Is(err, os.ErrDeadlineExceeded); timedOut && ended || !timedOut && err != nil {
			return
		}
	}
}

// pipeWriter is the http.ResponseWriter of the handshake.
type pipeWriter struct {
	conn     net.Conn
	header   http.Header
	status   int // of a refusal; 0: there was none
	hijacked bool
}

func (w *pipeWriter) Header() http.Header         { return w.header }
func (w *pipeWriter) WriteHeader(status int)      { w.status = status }
func (w *pipeWriter) Write(b []byte) (int, error) { return len(b), nil }

// Hijack implements http.Hijacker.
func (w *pipeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked = true
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

var _ http.Hijacker = (*pipeWriter)(nil)
