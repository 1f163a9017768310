// Package inbox is the way from a client's socket to its session. It reads frames (RFC
// 6455), reports control frames at once, and hands over complete messages.
//
// One goroutine reads. It waits with a shallow stack and without a buffer. So an idle
// session costs little more than the smallest stack of a goroutine. The goroutine never runs
// code of the application.
package inbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// Handler has the methods of a session that its reader needs. The goroutine that reads calls
// them.
type Handler interface {
	// Ping is called for a ping; payload is valid during the call.
	Ping(payload []byte)

	// Charge counts the frames and the bytes of payload that were read, and the reads that
	// brought them. It may wait. Then it calls Reader.Pause before and Reader.Resume after.
	Charge(reads, frames, bytes int)

	// Admit waits until the session has space for a message that has grown to size
	// bytes so far.
	Admit(size int)
}

// Options are the settings of a Reader.
type Options struct {
	ReadLimit  int  // how many bytes a message may have
	Compressed bool // the client may send compressed messages (RFC 7692)
}

// Reader reads the frames of one connection. It is made with Init. One goroutine calls Next, Pause,
// Resume and Drain. Any goroutine may call the other methods.
type Reader struct {
	conn    net.Conn
	raw     syscall.RawConn       // nil: conn is no plain socket
	try     func(fd uintptr) bool // the method readNow
	handler Handler
	options Options

	early   []byte   // bytes after the handshake that the HTTP server had read; nil: none are left
	buf     *readBuf // bytes that were read ahead; nil: there are none
	short   [16]byte // the buffer in which a connection that is no plain socket waits
	readErr error    // of a read of raw

	frame dataFrame // the data frame whose payload is being read
	msg   *Message  // the message whose frames are being read; nil: there is none
	began int64     // when the first header of msg was read, plus the pauses since then
	count int       // of frames that were read since that header, also pings
	owed  charge    // for frames, bytes and reads that were not charged yet

	heard  atomic.Int64 // when the peer was last heard, on the clock of package clock
	paused atomic.Int64 // since when the server does not read; 0: it reads
	ended  atomic.Bool  // the session has ended, and only a close frame still matters
	skips  int          // how many reads were made since ended is true
}

// charge has the arguments of Handler.Charge.
type charge struct{ reads, frames, bytes int }

// dataFrame is a text, binary or continuation frame.
type dataFrame struct {
	open   bool // the header was read, but not the whole payload
	fin    bool
	left   uint64 // how many bytes of payload are still to come
	mask   [4]byte
	maskAt int // the index in mask for the next byte of payload
}

// Message is one message of a client.
type Message struct {
	Data       []byte
	Compressed bool     // Inflate must be called before Data is used
	Binary     bool     // the message has a binary frame, not a text frame
	Next       *Message // the next message in the queue of the session
}

// ProtocolError says that the client broke a rule of RFC 6455 or a limit. Code is the close code
// that tells the client.
type ProtocolError struct {
	Code int
	Text string
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("the client broke the protocol: %s (close code %d)", e.Text, e.Code)
}

// CloseError is the close frame of the client. Code is NoCode if the frame had no code.
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string { return fmt.Sprintf("close frame %d %q", e.Code, e.Reason) }

// NoCode stands for a close frame without a code (RFC 6455, section 7.1.5).
const NoCode = 1005

// These are the close codes of protocol errors (RFC 6455, section 7.4.1).
const (
	codeProtocol = 1002
	codeInvalid  = 1007 // not UTF-8, or not deflate
	codePolicy   = 1008
	codeTooBig   = 1009
)

const (
	// A message may take slowGrace, even if it comes slowly. It may take one second more for
	// every slowRate bytes that have come. Otherwise a message that never ends would hold its
	// memory for ever. An old phone sends 8 KB/s.
	slowGrace = 30 * time.Second
	slowRate  = 8 << 10

	// While a message comes, the peer may send freeFrames, and one more for every bytesPerFrame bytes of
	// the message. Pings count too. The time above does not bound a peer that sends small frames faster
	// than its rate allows: the server then mostly waits, and that time does not count. freeFrames is what
	// the default InboundRate allows in slowGrace.
	freeFrames    = 30_000
	bytesPerFrame = 8

	// firstGrowth is the first capacity of a message that does not come in one piece. The
	// capacity doubles as bytes come, whatever length the frame's header says.
	firstGrowth = 8 << 10

	// A message in the session's inbox counts for its bytes. So its memory may be at most
	// maxShort, or maxWaste times its bytes. The memory of a message that grew past
	// maxPooled is not used again for another message.
	maxShort  = 4 << 10
	maxWaste  = 4
	maxPooled = 64 << 10

	// When a session has ended, only the close frame of the client matters. After freeSkips
	// reads the reader sleeps skipPause before each read, so that a client that goes on sending
	// costs no CPU.
	freeSkips = 64
	skipPause = 2 * time.Millisecond
)

// readBuf holds bytes that were read ahead, and were not parsed yet: bytes[from:to].
type readBuf struct {
	from, to int
	bytes    [4096]byte
}

var readBufs = sync.Pool{New: func() any { return new(readBuf) }}

// Messages up to maxShort and longer messages have a pool each. A short message must not get the
// memory of a long one.
var (
	shortMessages = sync.Pool{New: func() any { return new(Message) }}
	longMessages  = sync.Pool{New: func() any { return new(Message) }}
)

// Release gives the message's memory back. The message must not be used afterwards.
func (m *Message) Release() {
	*m = Message{Data: m.Data[:0]}
	switch size := cap(m.Data); {
	case size <= maxShort:
		shortMessages.Put(m)
	case size <= maxPooled:
		longMessages.Put(m)
	}
}

// trimmed returns a complete message with little more memory than it needs. Its memory may have been
// that of a message that was many times as long.
func (m *Message) trimmed() *Message {
	if cap(m.Data) <= max(maxShort, maxWaste*len(m.Data)) {
		return m
	}
	small := &Message{Data: bytes.Clone(m.Data), Compressed: m.Compressed, Binary: m.Binary}
	m.Release()
	return small
}

// Init prepares the reader of conn. raw is the handle of conn if that is a plain socket, else nil.
// early has the bytes that were read from conn already.
func (r *Reader) Init(conn net.Conn, raw syscall.RawConn, early []byte, h Handler, o Options) {
	r.conn, r.raw, r.early, r.handler, r.options = conn, raw, early, h, o
	if raw != nil {
		r.try = r.readNow
	}
	r.heard.Store(clock.Now())
}

// Idle returns how long the peer has been silent. It returns 0 while the server does not read.
func (r *Reader) Idle() time.Duration {
	if r.paused.Load() != 0 {
		return 0
	}
	return time.Duration(clock.Now() - r.heard.Load())
}

// Heard returns when the peer was last heard, on the clock of package clock.
func (r *Reader) Heard() int64 { return r.heard.Load() }

// Age moves the time at which the peer was last heard back by d.
func (r *Reader) Age(d time.Duration) { r.heard.Add(-int64(d)) }

// Pause says that the server does not read for now. That time does not count as silence of the
// client. Only the goroutine that reads calls Pause and Resume.
func (r *Reader) Pause() { r.paused.Store(clock.Now()) }

// Paused reports whether the server does not read for now.
func (r *Reader) Paused() bool { return r.paused.Load() != 0 }

// Resume ends a pause.
func (r *Reader) Resume() {
	now := clock.Now()
	r.began += now - r.paused.Load()
	r.heard.Store(now)
	r.paused.Store(0)
}

// End says that the session has ended. From then on Next returns no message and stores no bytes. It
// waits for the client's close frame.
func (r *Reader) End() { r.ended.Store(true) }

// Next waits for the next message. The message then belongs to the caller. The error is a
// *CloseError, a *ProtocolError, or the connection's. After an error, Next must not be called again.
func (r *Reader) Next() (*Message, error) {
	for {
		var done *Message
		var err error
		if r.frame.open {
			done, err = r.payload()
		} else {
			err = r.header()
		}
		if err != nil {
			r.release()
			return nil, err
		}
		if done != nil && !r.ended.Load() {
			return done, nil
		}
	}
}

// release gives up the memory of a connection that has ended.
func (r *Reader) release() {
	if r.buf != nil {
		r.buf.from, r.buf.to = 0, 0
		readBufs.Put(r.buf)
		r.buf = nil
	}
	r.early, r.msg = nil, nil
}

// These are the parts of the first two bytes of a frame (RFC 6455, section 5.2).
const (
	finBit    = 0x80
	rsv1Bit   = 0x40
	rsvBits   = 0x30
	opcode    = 0x0f
	maskBit   = 0x80
	lengthLow = 0x7f

	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa

	maxControl = 125
)

func broken(text string) error { return &ProtocolError{codeProtocol, text} }

// header reads the header of the next frame. If it is a control frame, header reads all of it.
func (r *Reader) header() error {
	b, err := r.need(2)
	if err != nil {
		return err
	}
	first, second := b[0], b[1]
	op, n := first&opcode, int(second&lengthLow)
	if err := r.checkFirst(first, second); err != nil {
		return err
	}
	size := 2 + 4 // with the mask
	switch {
	case op >= opClose:
		size += n
	case n == 126:
		size += 2
	case n == 127:
		size += 8
	}
	if b, err = r.need(size); err != nil {
		return err
	}
	r.owed.frames++
	if op >= opClose {
		return r.control(op, b[:size])
	}
	length := uint64(n)
	switch n {
	case 126:
		length = uint64(binary.BigEndian.Uint16(b[2:]))
		if length < 126 {
			return broken("a length that is not the shortest")
		}
	case 127:
		length = binary.BigEndian.Uint64(b[2:])
		if length <= 0xffff {
			return broken("a length that is not the shortest")
		}
		if length > 1<<63-1 {
			return broken("a length of more than 63 bits")
		}
	}
	r.frame = dataFrame{open: true, fin: first&finBit != 0, left: length, mask: [4]byte(b[size-4 : size])}
	if op != opContinuation {
		if length <= maxShort {
			r.msg = shortMessages.Get().(*Message)
		} else {
			r.msg = longMessages.Get().(*Message)
		}
		r.msg.Compressed = first&rsv1Bit != 0
		r.msg.Binary = op == opBinary
		r.count = 0
		r.began = r.heard.Load()
		if len(r.early) > 0 {
			r.began = clock.Now() // Age may have moved the time at which the peer was heard
		}
	}
	r.count++
	r.skip(size)
	return r.checkSize()
}

// checkFirst checks the first two bytes of a frame.
func (r *Reader) checkFirst(first, second byte) error {
	op := first & opcode
	switch {
	case first&rsvBits != 0:
		return broken("a reserved bit is set")
	case first&rsv1Bit != 0 && (!r.options.Compressed || op != opText && op != opBinary):
		return broken("a compressed frame where there may be none")
	case second&maskBit == 0:
		return broken("a frame that is not masked")
	}
	switch op {
	case opText, opBinary:
		if r.msg != nil {
			return broken("a message begins within another")
		}
	case opContinuation:
		if r.msg == nil {
			return broken("a continuation of nothing")
		}
	case opClose, opPing, opPong:
		if first&finBit == 0 || second&lengthLow > maxControl {
			return broken("a control frame that is fragmented or too long")
		}
	default:
		return broken("an opcode that does not exist")
	}
	return nil
}

// checkSize ends a message that is larger than ReadLimit.
func (r *Reader) checkSize() error {
	if r.frame.left > uint64(r.options.ReadLimit-len(r.msg.Data)) {
		return &ProtocolError{codeTooBig, "a message that is larger than ReadLimit"}
	}
	return nil
}

// control handles a ping, a pong or a close frame. b is the whole frame.
func (r *Reader) control(op byte, b []byte) error {
	payload := b[6:]
	for i := range payload {
		payload[i] ^= b[2+i%4]
	}
	var err error
	switch op {
	case opPing:
		if !r.ended.Load() {
			r.handler.Ping(payload)
		}
	case opClose:
		err = closeError(payload)
	}
	r.count++
	r.skip(len(b))
	r.chargeOwed()
	if err == nil && r.msg != nil {
		err = r.checkPace() // a message whose next fragment never comes
	}
	return err
}

// closeError reads a close frame's payload (RFC 6455, section 7.4).
func closeError(payload []byte) error {
	if len(payload) == 0 {
		return &CloseError{Code: NoCode}
	}
	if len(payload) == 1 {
		return broken("a close frame with half a code")
	}
	code := int(binary.BigEndian.Uint16(payload))
	if !mayClose(code) {
		return broken(fmt.Sprintf("a close frame with the code %d", code))
	}
	if !utf8.Valid(payload[2:]) {
		return &ProtocolError{codeInvalid, "a close reason that is not UTF-8"}
	}
	return &CloseError{Code: code, Reason: string(payload[2:])}
}

// mayClose reports whether a close frame may carry a code. It may carry the codes of the RFC and of
// its registry (sections 7.4.2 and 11.7), except those for local use. It may also carry the codes of
// applications.
func mayClose(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	}
	return code >= 3000 && code <= 4999
}

// payload reads some of the payload of the open data frame. If that completes a message, it returns
// the message.
func (r *Reader) payload() (*Message, error) {
	f := &r.frame
	if f.left > 0 {
		n, err := r.readPayload()
		if err != nil {
			return nil, err
		}
		f.left -= uint64(n)
		r.owed.bytes += n
	}
	if f.left > 0 {
		return nil, r.checkPace()
	}
	f.open = false
	r.chargeOwed()
	if !f.fin {
		return nil, r.checkPace()
	}
	m := r.msg
	r.msg = nil
	return m.trimmed(), nil
}

// readPayload appends to the message, unmasked, the bytes of the open frame that are there. If there
// are none it waits. It returns how many bytes it has taken.
func (r *Reader) readPayload() (int, error) {
	f, m := &r.frame, r.msg
	if len(m.Data) >= firstGrowth && !r.ended.Load() {
		r.chargeOwed()
		r.handler.Admit(len(m.Data))
	}
	have := r.ahead()
	if len(have) == 0 {
		if f.left >= firstGrowth/2 && !r.ended.Load() {
			return r.readDirect()
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
		have = r.ahead()
	}
	n := int(min(uint64(len(have)), f.left))
	if r.ended.Load() {
		m.Data = nil
	} else {
		from := len(m.Data)
		m.Data = append(m.Data, have[:n]...)
		f.unmask(m.Data[from:])
	}
	r.skip(n)
	return n, nil
}

// readDirect reads the payload of a long frame into the message, without the buffer.
func (r *Reader) readDirect() (int, error) {
	r.chargeOwed()
	f, m := &r.frame, r.msg
	from := len(m.Data)
	if cap(m.Data)-from < firstGrowth/2 {
		most := uint64(r.options.ReadLimit)
		if f.fin { // if another fragment follows there is more space, or that would copy all that came before
			most = uint64(from) + f.left
		}
		size := min(uint64(max(2*from, firstGrowth)), most)
		m.Data = append(make([]byte, 0, size), m.Data...)
	}
	space := m.Data[from:cap(m.Data)]
	if uint64(len(space)) > f.left {
		space = space[:f.left]
	}
	n, err := r.readConn(space)
	if err != nil {
		return 0, err
	}
	r.owed.reads++
	m.Data = m.Data[:from+n]
	f.unmask(m.Data[from:])
	return n, nil
}

// unmask unmasks the next bytes of the frame, in place (RFC 6455, section 5.3).
func (f *dataFrame) unmask(b []byte) {
	i := f.maskAt
	f.maskAt = (i + len(b)) & 3
	key := uint64(f.mask[i&3]) | uint64(f.mask[(i+1)&3])<<8 | uint64(f.mask[(i+2)&3])<<16 | uint64(f.mask[(i+3)&3])<<24
	key |= key << 32
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^key)
		b = b[8:]
	}
	for j := range b {
		b[j] ^= byte(key >> (8 * (j & 3)))
	}
}

// checkPace returns an error if the message comes too slowly, or in too many frames.
func (r *Reader) checkPace() error {
	if r.count > freeFrames+len(r.msg.Data)/bytesPerFrame {
		return &ProtocolError{codePolicy, "a message in too many frames"}
	}
	took := r.heard.Load() - r.began
	if took > int64(slowGrace)+int64(len(r.msg.Data))*int64(time.Second)/slowRate {
		return &ProtocolError{codePolicy, "a message that comes too slowly"}
	}
	return nil
}

// chargeOwed charges for the frames, bytes and reads that were not charged yet.
func (r *Reader) chargeOwed() {
	owed := r.owed
	if owed == (charge{}) || r.ended.Load() {
		return
	}
	r.owed = charge{}
	r.handler.Charge(owed.reads, owed.frames, owed.bytes)
}

// ahead returns the bytes that were read ahead, and were not parsed yet.
func (r *Reader) ahead() []byte {
	if len(r.early) > 0 {
		return r.early
	}
	if r.buf == nil {
		return nil
	}
	return r.buf.bytes[r.buf.from:r.buf.to]
}

// skip drops n bytes of ahead, and gives the buffer back when it is empty.
func (r *Reader) skip(n int) {
	if len(r.early) > 0 {
		if r.early = r.early[n:]; len(r.early) == 0 {
			r.early = nil // an empty slice would keep its memory
		}
		return
	}
	r.buf.from += n
	if r.buf.from == r.buf.to {
		r.buf.from, r.buf.to = 0, 0
		readBufs.Put(r.buf)
		r.buf = nil
	}
}

// need returns at least n bytes of ahead. It waits until they are there. n is at most the size of a
// buffer.
func (r *Reader) need(n int) ([]byte, error) {
	for {
		if have := r.ahead(); len(have) >= n {
			return have, nil
		}
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
}

// fill waits for more bytes.
func (r *Reader) fill() error {
	r.chargeOwed()
	if r.ended.Load() {
		if r.skips++; r.skips > freeSkips {
			time.Sleep(skipPause)
		}
	}
	if len(r.early) > 0 { // need has called: early has a part of a header or of a control frame
		r.buf = readBufs.Get().(*readBuf)
		r.buf.to = copy(r.buf.bytes[:], r.early)
		r.early = nil
	}
	return r.read()
}

// read waits for bytes and reads them into the buffer. An idle connection should hold no buffer. So
// read waits for a plain socket with RawConn, and for any other connection with a read of 16 bytes.
// Within a payload, and after End, it reads from such a connection into the buffer directly, because
// otherwise there would be too many reads of 16 bytes.
func (r *Reader) read() error {
	if r.buf == nil && r.raw != nil {
		r.raw.Read(r.try) // if the connection was closed, readConn below returns that error
		if r.buf != nil {
			r.owed.reads++
			return nil
		}
		if r.readErr != nil {
			return &net.OpError{Op: "read", Net: r.conn.RemoteAddr().Network(), Addr: r.conn.RemoteAddr(), Err: r.readErr}
		}
	}
	if r.buf == nil && r.raw == nil && !r.frame.open && !r.ended.Load() {
		n, err := r.readConn(r.short[:]) // not charged, because it begins a frame, which is charged
		if err != nil {
			return err
		}
		r.buf = readBufs.Get().(*readBuf)
		r.buf.to = copy(r.buf.bytes[:], r.short[:n])
		return nil
	}
	b := r.buf
	if b == nil {
		b = readBufs.Get().(*readBuf)
		r.buf = b
	}
	if b.from > 0 {
		b.to = copy(b.bytes[:], b.bytes[b.from:b.to])
		b.from = 0
	}
	r.owed.reads++
	n, err := r.readConn(b.bytes[b.to:])
	b.to += n
	return err
}

// maxEmptyReads is how often in a row a Read may return neither a byte nor an error. An io.Reader may
// do that, and it has no meaning.
const maxEmptyReads = 100

// readConn reads at least one byte, or returns an error.
func (r *Reader) readConn(p []byte) (int, error) {
	for range maxEmptyReads {
		n, err := r.conn.Read(p)
		if n > 0 {
			r.heard.Store(clock.Now())
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// Drain reads and drops bytes until the connection ends.
func (r *Reader) Drain() {
	b := readBufs.Get().(*readBuf)
	defer readBufs.Put(b)
	for reads := 0; ; reads++ {
		if reads > freeSkips {
			time.Sleep(skipPause)
		}
		if _, err := r.conn.Read(b.bytes[:]); err != nil {
			return
		}
		r.heard.Store(clock.Now())
	}
}
