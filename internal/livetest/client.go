package livetest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Client is a WebSocket client. If one of its methods fails, the test ends, except where the
// method says otherwise.
type Client struct {
	Response *http.Response // to the handshake
	Hello    Frame          // of a client of live.v1 that was greeted

	// These fields belong to a client of this package. A client of NewClient does not use them.
	Line *Line         // its TCP connection
	Conn net.Conn      // frames are written to it: the line, or TLS over it
	In   *bufio.Reader // of Conn

	t    testing.TB
	v1   bool
	send func(text string) error
	drop func()

	turn chan struct{} // holds one element while bytes are written. A mutex would not let the time of a synctest bubble pass

	attends bool                        // Attend was called
	kept    mailbox                     // frames that have come and were not taken
	end     error                       // why nothing more comes; valid when kept has ended
	pings   atomic.Int64                // that were answered
	pongs   atomic.Pointer[chan string] // where Ping waits; nil: pongs are frames like others
	mute    atomic.Bool
	closing atomic.Bool // the client has sent a close frame first
}

// newClient returns a client over a connection.
func newClient(t testing.TB, conn net.Conn) *Client {
	c := NewClient(t, nil, nil)
	c.send = func(text string) error { return c.Write(Masked(TextFrame, text)) }
	c.drop = func() { c.Line.Close() }
	c.Line = &Line{Conn: conn}
	c.Conn = c.Line
	return c
}

// NewClient returns a client that another library connects. The client calls send to send a text,
// and drop to close the connection. The caller must call Put and End.
func NewClient(t testing.TB, send func(text string) error, drop func()) *Client {
	c := &Client{t: t, send: send, drop: drop, turn: make(chan struct{}, 1)}
	c.kept.change = make(chan struct{}, 1)
	return c
}

// Put adds a text that has come.
func (c *Client) Put(text string) { c.kept.put(parsed(text)) }

// End says that no more texts come, and why.
func (c *Client) End(err error) {
	c.end = err
	c.kept.close()
}

// mailbox is a queue without a bound.
type mailbox struct {
	mu     sync.Mutex // guards the fields below
	frames []Frame
	ended  bool
	change chan struct{} // holds one when there is something new
}

func (m *mailbox) put(f Frame) { m.set(func() { m.frames = append(m.frames, f) }) }

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

// take returns the next frame. ok is false if there is none now. ended says that no more will
// come.
func (m *mailbox) take() (f Frame, ok, ended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.frames) == 0 {
		return Frame{}, false, m.ended
	}
	f, m.frames = m.frames[0], m.frames[1:]
	return f, true, false
}

// Write sends bytes as they are. If that fails, the client notices when it reads.
func (c *Client) Write(b []byte) error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	_, err := c.Conn.Write(b)
	return err
}

// Say sends texts, each as a frame, in one write. If that fails, the client notices when it reads.
func (c *Client) Say(texts ...string) error {
	if len(texts) == 1 || c.Conn == nil {
		for _, text := range texts {
			if err := c.send(text); err != nil {
				return err
			}
		}
		return nil
	}
	var b []byte
	for _, text := range texts {
		b = append(b, Masked(TextFrame, text)...)
	}
	return c.Write(b)
}

// Send sends a text.
func (c *Client) Send(text string) {
	c.t.Helper()
	if err := c.send(text); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// SendBinary sends a binary frame.
func (c *Client) SendBinary(payload string) {
	c.t.Helper()
	if err := c.Write(Masked(BinaryFrame, payload)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// SendMessage sends a plain message.
func (c *Client) SendMessage(topic string, data any) {
	c.t.Helper()
	raw, err := json.Marshal(map[string]any{"topic": topic, "data": data})
	if err != nil {
		c.t.Fatal(err)
	}
	c.Send(string(raw))
}

// Close sends a close frame. If that fails, the client notices when it reads.
func (c *Client) Close(code int, reason string) {
	c.closing.Store(true)
	c.Write(Closing(code, reason))
}

// Ping sends a ping and waits for its pong.
func (c *Client) Ping(payload string) error {
	pongs := make(chan string, 100)
	c.pongs.Store(&pongs)
	if err := c.Write(Masked(PingFrame, payload)); err != nil {
		return err
	}
	select {
	case got := <-pongs:
		if got != payload {
			return fmt.Errorf("pong %q, want %q", got, payload)
		}
		return nil
	case <-time.After(Patience):
		return errors.New("no pong")
	}
}

// Leave closes the connection as a browser does when its user leaves the page.
func (c *Client) Leave() {
	c.t.Helper()
	c.Close(1001, "")
	c.Rest()
}

// Drop closes the connection without a close frame.
func (c *Client) Drop() { c.drop() }

// Reset ends the connection with a RST.
func (c *Client) Reset() {
	c.Line.Conn.(*net.TCPConn).SetLinger(0)
	c.Line.Close()
}

// ReadFrame reads the next frame of any kind. It is for a client that does not attend.
func (c *Client) ReadFrame() (Frame, error) {
	first, payload, err := ReadRaw(c.In)
	if err != nil {
		return Frame{}, err
	}
	if first != TextFrame {
		return Frame{First: first, Raw: string(payload)}, nil
	}
	f := parsed(string(payload))
	return f, f.err
}

// parsed is ParseFrame, but the error is reported when the frame is used.
func parsed(text string) Frame {
	f, err := ParseFrame(text)
	if err != nil {
		f.err = fmt.Errorf("frame %.300q: %w", text, err)
	}
	return f
}

// CloseError says that the server has sent a close frame.
type CloseError struct {
	Code   int // 1005 if the frame had none
	Reason string
}

func (e *CloseError) Error() string { return fmt.Sprintf("close frame %d %q", e.Code, e.Reason) }

// TrailingError says that bytes came after the close frame. The library sends none. It is no
// CloseError, so Rest and Closed report such an end as one without a close frame.
type TrailingError struct {
	Close *CloseError // what a browser reports, since it ignores the bytes
	Bytes int64
}

func (e *TrailingError) Error() string {
	return fmt.Sprintf("%d bytes after the %v", e.Bytes, e.Close)
}

// Attend makes the client read in a goroutine, until the connection ends. The client then answers
// pings and the server's close frame, waits for the server to close the connection, and keeps all
// other frames for Next. Without Attend it does that only while a test waits for a frame.
func (c *Client) Attend() *Client {
	c.attends = true
	go func() { // ends with the connection
		for c.step() {
		}
	}()
	return c
}

// step reads a frame and reacts to it. It reports whether more may come.
func (c *Client) step() bool {
	f, err := c.ReadFrame()
	if err == nil || f.err != nil {
		err = c.react(f)
	}
	if err != nil {
		c.Line.Close()
		c.End(err)
	}
	return err == nil
}

func (c *Client) react(f Frame) error {
	switch {
	case f.First == PingFrame:
		c.answer(Masked(PongFrame, f.Raw))
	case f.Op == "ping" && c.v1 && !c.mute.Load():
		c.answer(Masked(TextFrame, `{"op":"pong"}`))
	case f.First == PongFrame && c.pongs.Load() != nil:
		*c.pongs.Load() <- f.Raw
	case f.First == CloseFrame:
		if !c.closing.Load() {
			c.Write(Masked(CloseFrame, f.Raw))
		}
		end := &CloseError{f.CloseCode(), f.Raw[min(len(f.Raw), 2):]}
		if n, _ := io.Copy(io.Discard, c.In); n > 0 {
			return &TrailingError{end, n}
		}
		return end
	default:
		c.kept.put(f)
	}
	return nil
}

func (c *Client) answer(pong []byte) {
	c.pings.Add(1)
	go c.Write(pong) // a client reads on while its own line is full; ends with the connection
}

// Mute makes the client leave pings of live.v1 unanswered. Next returns them.
func (c *Client) Mute() { c.mute.Store(true) }

// PingsAnswered returns how many pings the client has answered.
func (c *Client) PingsAnswered() int { return int(c.pings.Load()) }

// Greeted reads hello.
func (c *Client) Greeted() *Client {
	c.t.Helper()
	if c.Hello = c.Next(); c.Hello.Op != "hello" {
		c.t.Fatalf("the first frame is %s, want hello", c.Hello.Raw)
	}
	return c
}

// Waiting returns how many frames have come that the test has not taken.
func (c *Client) Waiting() int {
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	return len(c.kept.frames)
}

// TryNext waits for the next frame. ok is false if the connection has ended.
func (c *Client) TryNext() (f Frame, ok bool) {
	c.t.Helper()
	f, ok, late := c.await(time.After(Patience))
	if late {
		c.t.Fatal("nothing came")
	}
	return f, ok
}

// await waits for the next frame. ok is false if the connection has ended, or if no frame comes in
// time.
func (c *Client) await(tooLate <-chan time.Time) (f Frame, ok, late bool) {
	for {
		f, ok, ended := c.kept.take()
		if ok || ended {
			return f, ok, false
		}
		if c.Conn != nil && !c.attends {
			c.Conn.SetReadDeadline(time.Now().Add(Patience))
			c.step()
			continue
		}
		select {
		case <-c.kept.change:
		case <-tooLate:
			return Frame{}, false, true
		}
	}
}

// Next waits for the next frame. The test fails if none comes, or if the frame is an answer that
// is too large for one frame.
func (c *Client) Next() Frame {
	c.t.Helper()
	f, ok := c.TryNext()
	if !ok {
		c.t.Fatalf("the connection has ended: %v", c.end)
	}
	if f.err != nil {
		c.t.Fatal(f.err)
	}
	f.checkSize(c.t)
	return f
}

// Read waits for the next text, and returns it as it is.
func (c *Client) Read() string {
	c.t.Helper()
	f, ok := c.TryNext()
	switch {
	case !ok:
		c.t.Fatalf("the connection has ended: %v", c.end)
	case f.First != TextFrame:
		c.t.Fatalf("got the frame %s, want a text", f)
	}
	return f.Raw
}

// ReadN returns the next n texts.
func (c *Client) ReadN(n int) []string {
	c.t.Helper()
	all := make([]string, n)
	for i := range all {
		all[i] = c.Read()
	}
	return all
}

// Ask sends a message and returns the text that comes next.
func (c *Client) Ask(text string) string {
	c.t.Helper()
	c.Send(text)
	return c.Read()
}

// Rest reads to the end. It returns the frames before the server's close frame, and the code of
// that frame. The code is 0 if there was no close frame. Any goroutine may call Rest.
func (c *Client) Rest() (before []Frame, code int) {
	c.t.Helper()
	tooLate := time.After(Patience)
	for {
		f, ok, late := c.await(tooLate)
		if late {
			c.t.Error("the connection does not end")
			return before, 0
		}
		if !ok {
			break
		}
		before = append(before, f)
	}
	var e *CloseError
	if errors.As(c.end, &e) {
		code = e.Code
	}
	return before, code
}

// Closed is Rest, but a close frame must come. It also returns the reason of that frame.
func (c *Client) Closed() (code int, reason string, before []Frame) {
	c.t.Helper()
	before, _ = c.Rest()
	var e *CloseError
	if !errors.As(c.Err(), &e) {
		c.t.Errorf("closed without a close frame: %v", c.Err())
		return 0, "", before
	}
	return e.Code, e.Reason, before
}

// Err returns why the connection has ended. It is a *CloseError if the server has closed it, a
// *TrailingError if the server has sent more after that, and nil if it has not ended.
func (c *Client) Err() error {
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	if !c.kept.ended {
		return nil
	}
	return c.end
}

// Reply reads up to the reply or error with an id. It also returns the frames that came before it.
func (c *Client) Reply(id int) (f Frame, before []Frame) {
	c.t.Helper()
	for {
		f := c.Next()
		if f.ID == id && (f.Op == "reply" || f.Op == "error") {
			return f, before
		}
		before = append(before, f)
	}
}

// Answer returns the next reply or error, and the other frames that came before its end. It joins
// the parts of an answer to one frame.
func (c *Client) Answer() (f Frame, before []Frame) {
	c.t.Helper()
	var parts AnswerParts
	for {
		switch f := c.Next(); {
		case f.Op != "reply" && f.Op != "part" && f.Op != "error":
			before = append(before, f)
		case parts.Add(c.t, &f):
			return f, before
		}
	}
}

// Do sends an operation and returns its answer, which must be the next frame. If the answer comes
// in parts, no other frame may come between them, and Do joins them to one frame.
func (c *Client) Do(text string) Frame {
	c.t.Helper()
	c.Send(text)
	var parts AnswerParts
	for {
		f := c.Next()
		if parts.Add(c.t, &f) {
			return f
		}
	}
}

// Must is Do for an operation that must succeed.
func (c *Client) Must(text string) Frame {
	c.t.Helper()
	f := c.Do(text)
	if f.Op != "reply" {
		c.t.Fatalf("%s was answered by %s", text, f.Raw)
	}
	return f
}

// Settled sends an operation that changes nothing, and waits for its answer. It returns the frames
// that came before the answer. All frames that were due by then are among them.
func (c *Client) Settled() []Frame {
	c.t.Helper()
	const id = 999_999
	c.Send(UnsubscribeFrom(id, "no such topic"))
	f, before := c.Answer()
	if f.ID != id {
		c.t.Fatalf("got %s while nothing was due", f.Raw)
	}
	return before
}

// Hears reads the next frames. They must be new publications of a topic, with this data.
func (c *Client) Hears(topic string, data ...string) []Frame {
	c.t.Helper()
	all := make([]Frame, len(data))
	for i, want := range data {
		f := c.Next()
		if !f.IsPublication() || f.Topic != topic || string(f.Data) != want || f.Recovered != nil {
			c.t.Fatalf("got %.300s, want %s on %s, which is new", f.Raw, want, topic)
		}
		all[i] = f
	}
	return all
}

// ExpectNumbers reads publications of a topic. They must be the numbers from one to another, as
// Padded makes them, with no other frame between them.
func (c *Client) ExpectNumbers(topic string, from, to int) {
	c.t.Helper()
	for want := from; want <= to; want++ {
		f := c.Next()
		if f.Op != "" || f.Topic != topic || NumberOf(f.Data) != want {
			c.t.Fatalf("got %s, want number %d of %s", f, want, topic)
		}
	}
}

// Subscribe subscribes to a topic of NewSubscriberServer.
func (c *Client) Subscribe(topic string) {
	c.t.Helper()
	ack := fmt.Sprintf(`{"topic":%q,"data":"subscribed"}`, topic)
	if got := c.Ask(ack); got != ack {
		c.t.Fatalf("got %s, want %s", got, ack)
	}
}

// Recovers subscribes with since or last while no publication is made. It returns the whole answer
// as if all of it were in the reply: the messages of the reply, and the recovered publications
// that follow. They must come in order and without a hole, up to the newest publication of the
// topic. newest is the number in the position of that publication.
func (c *Client) Recovers(text string, newest int) Frame {
	c.t.Helper()
	return c.Followed(text, c.Must(text), newest)
}

// Followed does what Recovers does after the reply has come.
func (c *Client) Followed(text string, reply Frame, newest int) Frame {
	c.t.Helper()
	var op struct{ Topic string }
	if err := json.Unmarshal([]byte(text), &op); err != nil {
		c.t.Fatal(err)
	}
	all := reply.Messages
	epoch, at := OffsetOf(reply.At)
	for i, m := range all {
		if e, offset := OffsetOf(m.At); e != epoch || offset != at-len(all)+1+i {
			c.t.Fatalf("message %d of %d is at %s, the reply at %s", i, len(all), m.At, reply.At)
		}
	}
	if at == newest {
		return reply
	}
	if at > newest || len(all) == 0 {
		c.t.Fatalf("the newest position is %d: %.200s", newest, reply.Raw)
	}
	reply.CheckMore(c.t)
	for ; at < newest; at++ {
		f := c.Next()
		e, offset := OffsetOf(f.At)
		if !f.IsPublication() || f.Topic != op.Topic || !f.WasRecovered() || e != epoch || offset != at+1 {
			c.t.Fatalf("after %d of %d, recovered in answer to %s, came %.200s", at, newest, text, f.Raw)
		}
		all = append(all, Past{Data: f.Data, At: f.At})
		reply.At = f.At
	}
	reply.Messages = all
	return reply
}

// SubscribeTo returns an operation that subscribes.
func SubscribeTo(id int, topic string) string {
	return fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":%q}`, id, topic)
}

// ResumeFrom returns an operation that subscribes from a position.
func ResumeFrom(id int, topic, since string) string {
	return fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":%q,"since":%q}`, id, topic, since)
}

// UnsubscribeFrom returns an operation that unsubscribes.
func UnsubscribeFrom(id int, topic string) string {
	return fmt.Sprintf(`{"op":"unsubscribe","id":%d,"topic":%q}`, id, topic)
}

// Operation returns an operation with more members, which are pairs of a name and a value.
func Operation(op string, id int, topic string, more ...any) string {
	o := map[string]any{"op": op, "id": id, "topic": topic}
	for i := 0; i < len(more); i += 2 {
		o[more[i].(string)] = more[i+1]
	}
	b, _ := json.Marshal(o)
	return string(b)
}

// InOneFrame returns operations as one JSON array.
func InOneFrame(operations ...string) string { return "[" + strings.Join(operations, ",") + "]" }

// Array returns n operations as one JSON array.
func Array(n int, op func(i int) string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = op(i)
	}
	return InOneFrame(all...)
}
