package livetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/live"
)

// Client is a client of the server. Server.Dial connects it. It reads in the background, and answers
// pings as a page does.
//
// If one of its methods fails, the test ends. So only the goroutine of the test may call them, as it
// is with t.Fatal.
type Client struct {
	srv *Server
	t   testing.TB
	as  *dialing

	// Only the goroutine of the test uses these fields.
	order    []string          // the topics that it has subscribed to
	refusing bool              // within ExpectError
	refused  *live.ClientError // the answer to the newest operation within ExpectError; nil: a reply

	mu      sync.Mutex    // guards the fields below
	changed chan struct{} // closed, and replaced, when one of them changes
	conn    *connection   // the newest
	slow    bool          // it reads at a pace, or not at all
	unread  []Message     // that have come, and that the test has not looked at
	lastID  int
	calls   map[int]*call // operations that wait for their answer
	topics  map[string]*topicState
	unsure  bool // the server may not have handled all that was sent
	synced  int  // the number in the newest answer to a plain Sync
}

// connection is one connection of a client. A client that reconnects gets another one. The fields that
// the reader sets are guarded by Client.mu.
type connection struct {
	ws    *websocket.Conn
	line  *line
	visit *visit
	over  chan struct{} // closed when the reader has ended

	greeted bool   // hello has come
	end     error  // why it has ended; nil: it is open
	left    string // how the client itself has ended it; "": it has not
}

// topicState is what a client knows of a topic.
type topicState struct {
	subscribed *subscribing // with which it has subscribed; nil: it has not
	at         string       // the newest position that has come; "": none
	keyed      bool
	state      json.RawMessage // of a Snapshot
	members    map[string][]json.RawMessage
	count      int // of the members; -1: the client was not told
}

func newClient(s *Server, d *dialing) *Client {
	return &Client{
		srv: s, t: s.t, as: d,
		changed: make(chan struct{}),
		calls:   make(map[int]*call),
		topics:  make(map[string]*topicState),
	}
}

// topic returns the state of a topic; mu is held.
func (c *Client) topic(name string) *topicState {
	t := c.topics[name]
	if t == nil {
		t = &topicState{count: -1}
		c.topics[name] = t
	}
	return t
}

// fatalf ends the test.
func (c *Client) fatalf(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("%s: %s", c.as.name, fmt.Sprintf(format, args...))
}

// set changes the client's fields, and wakes those who wait.
func (c *Client) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// await waits until a condition holds, which is checked with mu held. It reports whether it holds
// in time.
func (c *Client) await(holds func() bool) bool {
	tooLate := time.NewTimer(c.srv.Patience)
	defer tooLate.Stop()
	for {
		c.mu.Lock()
		ok, changed := holds(), c.changed
		c.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-tooLate.C:
			return false
		}
	}
}

// connect makes a connection, starts its reader, and waits for OnConnect.
func (c *Client) connect() {
	c.t.Helper()
	c.srv.checkDialing(c.as)
	conn, err := c.srv.handshake(c.as, newVisit(c.as))
	if err != nil {
		c.fatalf("%v", err)
	}
	c.set(func() { c.conn, c.slow = conn, false })
	go c.read(conn) // ends with the connection
	if !c.as.plain && !c.await(func() bool { return conn.greeted || conn.end != nil }) {
		c.fatalf("the server has not sent hello within %v", c.srv.Patience)
	}
	if c.canSync() {
		c.sync("OnConnect is still running")
	}
}

// read reads frames until the connection ends.
func (c *Client) read(conn *connection) {
	defer close(conn.over)
	for {
		_, text, err := conn.ws.Read(context.Background())
		if err != nil {
			conn.ws.CloseNow()
			conn.line.Close()
			c.set(func() { conn.end = err })
			return
		}
		if c.receive(conn, text) {
			// A client reads on while the server does not.
			go conn.ws.Write(context.Background(), websocket.MessageText, []byte(`{"op":"pong"}`)) // ends with the connection
		}
	}
}

// closed returns how a connection has ended. code is 0 if there was no close frame.
func (conn *connection) closed() (code websocket.StatusCode, reason string) {
	var e websocket.CloseError
	if errors.As(conn.end, &e) {
		return e.Code, e.Reason
	}
	return 0, ""
}

// describe tells a person how a connection has ended.
func (conn *connection) describe() string {
	code, reason := conn.closed()
	switch {
	case conn.wasLeft():
		return conn.left
	case code != 0:
		return fmt.Sprintf("the server has closed the connection with %d %q", code, reason)
	}
	return "the connection has ended without a close frame"
}

// wasLeft reports whether the client itself has ended the connection. The server answers the close frame of Close by the same code. Another
// code is that of the server, which was faster.
func (conn *connection) wasLeft() bool {
	code, _ := conn.closed()
	return conn.left != "" && (code == 0 || code == websocket.StatusGoingAway)
}

// leave notes that the client itself ends a connection, unless that has ended already.
func (c *Client) leave(conn *connection, how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.end == nil && conn.left == "" {
		conn.left = how
	}
}

// write sends a text frame.
func (c *Client) write(v any) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), c.srv.Patience)
	defer cancel()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if err := conn.ws.Write(ctx, websocket.MessageText, marshal(c.t, v)); err == nil {
		return
	}
	if ctx.Err() != nil {
		c.fatalf("cannot send: the server has read nothing for %v", c.srv.Patience)
	}
	conn.ws.CloseNow() // the reader may have read a close frame before
	<-conn.over
	c.fatalf("cannot send: %s", conn.describe())
}

// wireMessage is a message without an operation.
type wireMessage struct {
	Topic string          `json:"topic"`
	Data  json.RawMessage `json:"data"`
}

// Send sends a message, which OnMessage gets. data is marshalled to JSON. Send does not wait for OnMessage;
// see Sync.
func (c *Client) Send(topic string, data any) {
	c.t.Helper()
	raw := marshal(c.t, data)
	c.set(func() { c.unsure = true })
	c.write(wireMessage{topic, raw})
}

// Sync waits until the server has handled all that the client has sent before: OnMessage has
// returned for each message. What the callbacks have published or sent to this client by then has
// come, and what was published before Sync. It needs New for a plain client.
//
// It proves nothing about work that callbacks have left to other goroutines, about presence, which
// the server tells some moments later, nor about a Broker that has other servers.
func (c *Client) Sync() {
	c.t.Helper()
	c.mu.Lock()
	conn, open, slow := c.conn, c.conn.end == nil, c.slow
	c.mu.Unlock()
	switch {
	case !open:
		c.fatalf("cannot sync: %s", conn.describe())
	case slow:
		c.fatalf("cannot sync: the client reads slowly, or not at all: see ReadOn")
	case !c.canSync():
		c.fatalf("cannot sync: a plain client of Serve is answered nothing that tells. Use New, or a client of live.v1")
	}
	c.sync("a callback is still running")
}

func (c *Client) canSync() bool { return !c.as.plain || c.srv.Live != nil }

// syncIfNeeded is Sync where it is possible and tells something new.
func (c *Client) syncIfNeeded() {
	c.t.Helper()
	c.mu.Lock()
	conn, slow, unsure := c.conn, c.slow, c.unsure
	open := conn != nil && conn.end == nil
	c.mu.Unlock()
	switch {
	case conn == nil:
	case !open && c.srv.Live != nil:
		c.awaitEnd(conn)
	case open && unsure && !slow && c.canSync():
		c.sync("a callback is still running")
	}
}

// sync asks for something that the server answers after all that the client has sent before. It
// returns also if the connection ends meanwhile.
func (c *Client) sync(otherwise string) {
	c.t.Helper()
	c.mu.Lock()
	conn := c.conn
	c.lastID++
	id := c.lastID
	c.unsure = false
	answered := func() bool { return c.synced >= id }
	var question any = wireMessage{syncTopic, json.RawMessage(fmt.Sprint(id))}
	if !c.as.plain {
		// Nothing is subscribed to this topic, so that the application is not asked.
		sync := &call{op: operation{Op: "unsubscribe", ID: id, Topic: syncTopic}}
		c.calls[id] = sync
		question, answered = sync.op, func() bool { return sync.done }
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), c.srv.Patience)
	defer cancel()
	err := conn.ws.Write(ctx, websocket.MessageText, marshal(c.t, question))
	if err == nil && c.await(func() bool { return answered() || conn.end != nil }) {
		return
	}
	if err != nil && ctx.Err() == nil {
		return // the connection has ended
	}
	c.fatalf("the server has not handled within %v what the client has sent: %s", c.srv.Patience, otherwise)
}

// awaitEnd waits until OnClose has returned.
func (c *Client) awaitEnd(conn *connection) {
	c.t.Helper()
	select {
	case <-conn.visit.ended:
	case <-time.After(c.srv.Patience):
		c.fatalf("OnClose has not returned after %v: the session is open, or a callback is still running", c.srv.Patience)
	}
}

// Session returns the session of the client's newest connection. It needs New.
func (c *Client) Session() *live.Session {
	c.t.Helper()
	c.needsNew("Session")
	c.mu.Lock()
	v := c.conn.visit
	c.mu.Unlock()
	select {
	case <-v.connected:
	case <-time.After(c.srv.Patience):
		c.fatalf("OnConnect was not called, or is still running")
	}
	return v.session
}

func (c *Client) needsNew(method string) {
	c.t.Helper()
	if c.srv.Live == nil {
		c.fatalf("%s needs New: Serve does not see the callbacks of the application", method)
	}
}

// StopReading makes the client read nothing from now on, not even pings. So it seems dead to the
// server after PingTimeout. The connection itself holds some 4 KB; what is sent after that waits in the
// server's queue.
func (c *Client) StopReading() { c.pace(true, 0) }

// SlowTo makes the client read this many bytes in a second.
func (c *Client) SlowTo(bytesPerSecond int) { c.pace(false, max(bytesPerSecond, 1)) }

// ReadOn ends StopReading and SlowTo.
func (c *Client) ReadOn() { c.pace(false, 0) }

func (c *Client) pace(stopped bool, perSecond int) {
	c.mu.Lock()
	conn := c.conn
	c.slow = stopped || perSecond > 0
	c.mu.Unlock()
	conn.line.in.set(func(p *pipe) { p.stopped, p.perSecond = stopped, perSecond })
}

// Cut ends the connection without a close frame, as when a phone has lost its network and the
// server notices. What has come until then can still be expected. What the client has sent, and the
// server has not handled, may be lost: see Sync.
func (c *Client) Cut() {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return
	}
	c.leave(conn, "the client has cut the connection itself")
	conn.line.Close()
	<-conn.over
}

// Close closes the connection as a page does when its user leaves it, with code 1001.
func (c *Client) Close() {
	c.t.Helper()
	c.ReadOn()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	c.leave(conn, "the client has closed the connection itself")
	conn.ws.Close(websocket.StatusGoingAway, "") // an error means that the connection has ended before
	c.Cut()
}

// Reconnect connects again as live.js does: with the same options, and then it subscribes to its
// topics again from the newest positions. It returns when the server has answered. What the client has
// missed can then be expected, after what has come before and was not looked at. If the old
// connection is still open, it is cut first.
func (c *Client) Reconnect() {
	c.t.Helper()
	c.Cut()
	c.connect()
	c.resubscribe()
}

// Unread returns what has come and was not looked at, in the order in which it came.
func (c *Client) Unread() []Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Message(nil), c.unread...)
}

// unreadList tells a person what has come and was not looked at.
func (c *Client) unreadList() string {
	const most = 10 // lines that a person reads
	var b strings.Builder
	all := c.Unread()
	for i, m := range all {
		if i == most {
			fmt.Fprintf(&b, "\n\t… and %d more", len(all)-most)
			break
		}
		fmt.Fprintf(&b, "\n\t%s", m)
	}
	return b.String()
}
