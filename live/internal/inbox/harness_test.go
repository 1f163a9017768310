package inbox

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for an event that must happen. The event may take as long as
// that.
const patience = 20 * time.Second

// listener is a session that records the calls of its reader.
type listener struct {
	pings   []string
	reads   int   // charged
	frames  int   // charged
	bytes   int   // charged
	admits  []int // the sizes
	charged func(frames, bytes int)
	admit   func(size int)
}

func (l *listener) Ping(payload []byte) { l.pings = append(l.pings, string(payload)) }

func (l *listener) Charge(reads, frames, bytes int) {
	l.reads += reads
	l.frames += frames
	l.bytes += bytes
	if l.charged != nil {
		l.charged(frames, bytes)
	}
}

func (l *listener) Admit(size int) {
	l.admits = append(l.admits, size)
	if l.admit != nil {
		l.admit(size)
	}
}

// heard is the result of reading a whole connection.
type heard struct {
	messages []string
	flags    []bool // Compressed of each
	pings    []string
	frames   int // charged
	bytes    int // charged
	end      string
}

// endOf names the end of a reader: "close 1000 reason", "broken 1002", or "lost".
func endOf(err error) string {
	var closed *CloseError
	var broken *ProtocolError
	switch {
	case errors.As(err, &closed):
		return fmt.Sprintf("close %d %s", closed.Code, closed.Reason)
	case errors.As(err, &broken):
		return fmt.Sprintf("broken %d", broken.Code)
	}
	return "lost"
}

// readAll reads to the end of the connection.
func (l *listener) readAll(r *Reader) heard {
	var h heard
	for {
		m, err := r.Next()
		if err != nil {
			h.pings, h.frames, h.bytes, h.end = l.pings, l.frames, l.bytes, endOf(err)
			return h
		}
		h.messages = append(h.messages, string(m.Data))
		h.flags = append(h.flags, m.Compressed)
		m.Release()
	}
}

// script is a connection that is read in the pieces in which it was written. The end comes after
// the last piece.
type script struct {
	net.Conn
	pieces [][]byte
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) RemoteAddr() net.Addr { return &net.UnixAddr{} }

// read makes a reader read pieces from memory.
func read(o Options, early []byte, pieces ...[]byte) heard {
	var l listener
	var r Reader
	r.Init(&script{pieces: pieces}, nil, bytes.Clone(early), &l, o)
	return l.readAll(&r)
}

// frameOf returns a client's frame. first has FIN, the reserved bits and the opcode.
func frameOf(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return appendMasked(b, payload)
}

// maskKey has four different bytes, so that a test notices a mask at the wrong place.
var maskKey = [4]byte{0xa1, 0x5b, 0x3c, 0x77}

func appendMasked(b []byte, payload string) []byte {
	b = append(b, maskKey[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^maskKey[i%4])
	}
	return b
}

// These are first bytes of frames.
const (
	more   = 0x00 // a continuation that is not the last
	last   = 0x80 // a continuation that is
	begin  = 0x01 // a text that goes on
	text   = 0x81
	binar  = 0x82
	closes = 0x88
	ping   = 0x89
	pong   = 0x8a
)

// join joins frames to the bytes of a connection.
func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

func closeFrame(code int, reason string) []byte {
	return frameOf(closes, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// line is a connection for a Reader, with its other end. It calls waits before each wait of the
// reader.
type line struct {
	conn  net.Conn        // the reader's
	raw   syscall.RawConn // its handle, or nil
	far   net.Conn        // the client's
	waits func()
}

// init makes a reader read the line.
func (l *line) init(r *Reader, early []byte, h Handler, o Options) {
	conn := &watchedConn{l.conn, l}
	if l.raw == nil {
		r.Init(conn, nil, early, h, o)
		return
	}
	r.Init(conn, &watchedRaw{l.raw, l}, early, h, o)
}

func (l *line) waiting() {
	if l.waits != nil {
		l.waits()
	}
}

// watchedConn and watchedRaw call waits when the reader waits.
type watchedConn struct {
	net.Conn
	line *line
}

func (c *watchedConn) Read(p []byte) (int, error) {
	c.line.waiting()
	return c.Conn.Read(p)
}

type watchedRaw struct {
	syscall.RawConn
	line *line
}

func (c *watchedRaw) Read(try func(fd uintptr) bool) error {
	return c.RawConn.Read(func(fd uintptr) bool {
		if try(fd) {
			return true
		}
		c.line.waiting()
		return try(fd) // waits may have written
	})
}

// lines are the kinds of connections that a reader has.
var lines = map[string]func(t testing.TB) *line{
	"TCP":                    tcpLine,
	"TCP without its handle": func(t testing.TB) *line { l := tcpLine(t); l.raw = nil; return l },
	"pipe":                   pipeLine,
	"TLS":                    tlsLine,
}

// overAll runs a test over each kind of connection.
func overAll(t *testing.T, test func(t *testing.T, l *line)) {
	t.Helper()
	for name, dial := range lines {
		t.Run(name, func(t *testing.T) { test(t, dial(t)) })
	}
}

func pipeLine(t testing.TB) *line {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return &line{conn: near, far: far}
}

func tcpLine(t testing.TB) *line {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); far.Close() })
	l := &line{conn: conn, far: far}
	if hasHandles {
		if l.raw, err = conn.(*net.TCPConn).SyscallConn(); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func tlsLine(t testing.TB) *line {
	t.Helper()
	l := tcpLine(t)
	near := tls.Server(l.conn, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	far := tls.Client(l.far, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- near.Handshake() }() // ends with the handshake
	if err := errors.Join(far.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return &line{conn: near, far: far}
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// over makes a reader read pieces from a line. Each piece is read before the next is written. The
// last piece must end the reading.
func over(t testing.TB, line *line, o Options, early []byte, pieces ...[]byte) heard {
	t.Helper()
	var l listener
	var r Reader
	var write sync.WaitGroup
	if _, merges := line.conn.(*net.TCPConn); merges {
		line.waits = func() {
			if len(pieces) > 0 {
				line.far.Write(pieces[0])
				pieces = pieces[1:]
			}
		}
	} else {
		write.Go(func() {
			for _, piece := range pieces {
				line.far.Write(piece)
			}
		})
	}
	line.conn.SetReadDeadline(time.Now().Add(patience))
	line.init(&r, bytes.Clone(early), &l, o)
	h := l.readAll(&r)
	line.far.SetWriteDeadline(time.Now()) // for what was not read
	write.Wait()
	line.far.SetWriteDeadline(time.Time{})
	line.waits = nil
	if r.buf != nil || r.early != nil || r.msg != nil {
		t.Errorf("it has ended and holds %v, %v, %v", r.buf, r.early, r.msg)
	}
	return h
}
