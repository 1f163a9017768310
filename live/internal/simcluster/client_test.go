package simcluster_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// client is a client of live.v1 as docs/protocol.md describes it, on connections in memory. It
// records all that the server tells it.
type client struct {
	id    int
	lines int // that it has had

	keyed     bool // views are tables
	afterGaps bool // it asks for the newest publications together with those that it missed

	mu     sync.Mutex // guards what follows
	events []event
	since  map[string]string // the newest position of each topic
	views  map[string]*view  // what it makes of each topic; nil: it keeps the events only
}

// event is a call of the client, or a frame of the server.
type event struct {
	time  time.Time
	line  int
	node  int
	kind  string // "dial", "end", "subscribe", "resume", "unsubscribe" and these with a d, "publication", "gap", "error"
	topic string
	since string // of subscribe and subscribed
	last  int    // the same
	frame frame
}

// frame is a frame of the server.
type frame struct {
	Op        string
	ID        uint64
	Topic     string
	Data      json.RawMessage
	At        string
	Key       string
	Removed   bool
	Keyed     bool
	State     json.RawMessage
	Recovered *bool
	Messages  []struct {
		Data    json.RawMessage
		At      string
		Key     string
		Removed bool
	}
	Code string
}

func (e event) String() string {
	text := fmt.Sprintf("line %d, node %d: %s %s", e.line, e.node, e.kind, e.topic)
	if e.since != "" {
		text += " since " + e.since
	}
	if e.last > 0 {
		text += fmt.Sprint(" last ", e.last)
	}
	if e.frame.Key != "" {
		text += " key " + e.frame.Key
	}
	if len(e.frame.Data) > 0 {
		text += " #" + brief(e.frame.Data)
	}
	if len(e.frame.State) > 0 {
		text += " state " + string(e.frame.State)
	}
	if e.frame.At != "" {
		text += " at " + e.frame.At
	}
	if e.frame.Recovered != nil {
		text += fmt.Sprint(" recovered ", *e.frame.Recovered)
	}
	for _, m := range e.frame.Messages {
		text += fmt.Sprintf(" [%s #%s at %s]", m.Key, brief(m.Data), m.At)
	}
	return text + e.frame.Code
}

// brief returns the number in a publication. The publication may be large.
func brief[T string | []byte | json.RawMessage](data T) string {
	return strings.TrimPrefix(strings.SplitN(string(data), ",", 2)[0], "[")
}

// line is one connection of a client.
type line struct {
	*client
	number, node int
	conn         net.Conn
	ended        chan struct{} // closed when nothing more comes

	// Guarded by client.mu.
	asked      map[uint64]event // what waits for its answer
	answered   chan struct{}    // closed with each answer, and replaced
	subscribed map[string]bool
	lost       map[string]bool // topics whose newest answer says that not everything was recovered
	deafUntil  time.Time
	nextID     uint64
}

// dial connects to the handler of a node.
func (c *client) dial(node int, h http.Handler) (*line, error) {
	near, far := net.Pipe()
	c.lines++
	l := &line{
		client: c, number: c.lines, node: node, conn: near, ended: make(chan struct{}),
		asked: make(map[uint64]event), answered: make(chan struct{}), subscribed: make(map[string]bool), lost: make(map[string]bool),
	}
	go h.ServeHTTP(&answer{conn: far}, &http.Request{
		Method: "GET", URL: &url.URL{Path: "/"}, Host: "sim", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
			"Sec-Websocket-Protocol": {"live.v1"},
		},
	})
	br := bufio.NewReader(near)
	status, err := br.ReadString('\n')
	if err != nil || !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		return nil, fmt.Errorf("handshake: %q, %v", status, err)
	}
	for header := status; header != "\r\n"; {
		if header, err = br.ReadString('\n'); err != nil {
			return nil, err
		}
	}
	l.note(event{kind: "dial"})
	go l.read(br) // ends with the connection
	return l, nil
}

// answer is the http.ResponseWriter of a handshake in memory.
type answer struct {
	conn   net.Conn
	header http.Header
}

func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = make(http.Header)
	}
	return a.header
}

func (a *answer) WriteHeader(status int) {
	fmt.Fprintf(a.conn, "HTTP/1.1 %d \r\n\r\n", status)
	a.conn.Close()
}

func (a *answer) Write(b []byte) (int, error) { return len(b), nil }

func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return a.conn, bufio.NewReadWriter(bufio.NewReaderSize(a.conn, 16), bufio.NewWriterSize(a.conn, 16)), nil
}

// note records an event.
func (l *line) note(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noteLocked(e)
}

func (l *line) noteLocked(e event) {
	e.time, e.line, e.node = time.Now(), l.number, l.node
	l.events = append(l.events, e)
}

func (l *line) read(br *bufio.Reader) {
	defer close(l.ended)
	for {
		payload, err := readFrame(br)
		if err == nil {
			err = l.take(payload)
		}
		if err != nil {
			l.note(event{kind: "end", frame: frame{Code: ": " + err.Error()}})
			l.conn.Close()
			return
		}
		l.mu.Lock()
		wait := time.Until(l.deafUntil)
		l.mu.Unlock()
		time.Sleep(wait)
	}
}

// take handles one frame of the server.
func (l *line) take(payload []byte) error {
	var f frame
	if err := json.Unmarshal(payload, &f); err != nil {
		return fmt.Errorf("%q: %w", payload, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f.Op {
	case "":
		if v := l.views[f.Topic]; v != nil {
			v.publication(f.Key, f.Data, f.Removed)
		} else if f.Recovered != nil && l.lost[f.Topic] {
			return fmt.Errorf("%q is marked as recovered after an answer that says it is not", payload)
		}
		l.keep(f.Topic, f.At)
		l.noteLocked(event{kind: "publication", topic: f.Topic, frame: f})
	case "gap":
		if v := l.views[f.Topic]; v != nil {
			l.foldGap(v, f.Topic)
		}
		l.keep(f.Topic, f.At)
		l.noteLocked(event{kind: "gap", topic: f.Topic, frame: f})
	case "reply", "error":
		asked, ok := l.asked[f.ID]
		if !ok {
			return fmt.Errorf("%q answers nothing", payload)
		}
		delete(l.asked, f.ID)
		kind := "error"
		if f.Op == "reply" {
			kind = asked.kind + "d"
			l.subscribed[asked.topic] = asked.kind != "unsubscribe"
			if v := l.views[asked.topic]; v != nil && kind == "subscribed" {
				l.foldReply(v, asked.topic, f)
			}
			if kind == "subscribed" {
				l.keep(asked.topic, f.At)
				l.lost[asked.topic] = f.Recovered != nil && !*f.Recovered && asked.last == 0
			}
		}
		if kind == "error" && l.views != nil && asked.kind == "subscribe" {
			l.subscribed[asked.topic] = false
			l.conn.Close() // it comes back, and asks again
		}
		l.noteLocked(event{kind: kind, topic: asked.topic, since: asked.since, last: asked.last, frame: f})
		close(l.answered)
		l.answered = make(chan struct{})
	case "hello", "drain":
	default:
		return fmt.Errorf("%q is unknown", payload)
	}
	return nil
}

func (l *line) keep(topic, at string) {
	if at != "" {
		l.since[topic] = at
	}
}

// subscribe sends the operations for several topics in one frame. A client that has a position
// resumes from it. It asks for the newest publications if it has none, or if afterGaps is true.
func (l *line) subscribe(last int, topics ...string) {
	var ops []map[string]any
	for _, topic := range topics {
		l.mu.Lock()
		op := map[string]any{"op": "subscribe", "topic": topic}
		e := event{kind: "subscribe", topic: topic, since: l.since[topic]}
		if v := l.views[topic]; v != nil && v.stale {
			e.since = ""
		}
		if e.since != "" {
			op["since"] = e.since
		}
		if last > 0 && (e.since == "" || l.afterGaps) {
			e.last, op["last"] = last, last
		}
		op["id"] = l.ask(e)
		l.mu.Unlock()
		ops = append(ops, op)
	}
	l.send(ops)
}

func (l *line) unsubscribe(topic string) {
	l.mu.Lock()
	id := l.ask(event{kind: "unsubscribe", topic: topic})
	l.mu.Unlock()
	l.send(map[string]any{"op": "unsubscribe", "id": id, "topic": topic})
}

// resume makes the application subscribe the session, from the client's position. The publications
// that the client missed then come as such, after a gap if they are not all. A client without a
// position subscribes by itself. If afterGaps is true, the newest publications come after a gap.
func (l *line) resume(last int, topic string) {
	l.mu.Lock()
	e := event{kind: "resume", topic: topic, since: l.since[topic]}
	if e.since == "" {
		l.mu.Unlock()
		l.subscribe(0, topic)
		return
	}
	if l.afterGaps {
		e.last = last
	}
	l.lost[topic] = false
	id := l.ask(e)
	l.mu.Unlock()
	l.send(map[string]any{"op": "request", "id": id, "topic": topic, "data": map[string]any{"since": e.since, "last": e.last}})
}

// ask records an operation that is about to be sent; mu is held.
func (l *line) ask(e event) uint64 {
	l.nextID++
	l.asked[l.nextID] = e
	l.noteLocked(e)
	return l.nextID
}

// settled waits until all operations are answered, or the connection has ended, but no longer than
// a given time.
func (l *line) settled(patience time.Duration) bool {
	timeout := time.After(patience)
	for {
		l.mu.Lock()
		waiting, answered := len(l.asked), l.answered
		l.mu.Unlock()
		if waiting == 0 {
			return true
		}
		select {
		case <-answered:
		case <-l.ended:
			return false
		case <-timeout:
			return false
		}
	}
}

// has reports whether the connection is subscribed to all topics.
func (l *line) has(topics []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, topic := range topics {
		if !l.subscribed[topic] {
			return false
		}
	}
	return true
}

// stall makes the client read no bytes for a while.
func (l *line) stall(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deafUntil = time.Now().Add(d)
}

// cut ends the connection and waits until all its frames were handled.
func (l *line) cut() {
	l.conn.Close()
	<-l.ended
}

// send writes a text frame with a mask of zeros.
func (l *line) send(v any) {
	payload, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	b := []byte{0x81, 0x80 | 126, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(len(payload)))
	if len(payload) < 126 {
		b = []byte{0x81, 0x80 | byte(len(payload))}
	}
	b = append(b, 0, 0, 0, 0)
	l.conn.Write(append(b, payload...)) // the reader sees an error
}

var errClose = errors.New("close frame")

// readFrame returns the payload of a text frame.
func readFrame(br *bufio.Reader) ([]byte, error) {
	var head [10]byte
	if _, err := io.ReadFull(br, head[:2]); err != nil {
		return nil, err
	}
	opcode, size := head[0]&0x0f, uint64(head[1])
	switch size {
	case 126:
		if _, err := io.ReadFull(br, head[:2]); err != nil {
			return nil, err
		}
		size = uint64(binary.BigEndian.Uint16(head[:]))
	case 127:
		if _, err := io.ReadFull(br, head[:8]); err != nil {
			return nil, err
		}
		size = binary.BigEndian.Uint64(head[:])
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(br, payload); err != nil {
		return nil, err
	}
	if opcode == 8 {
		return nil, fmt.Errorf("%w %d %q", errClose, binary.BigEndian.Uint16(payload), payload[2:])
	}
	return payload, nil
}
