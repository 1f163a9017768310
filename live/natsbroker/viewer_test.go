package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// viewer is a client of live.v1 with one topic, as docs/protocol.md describes it. It keeps
// everything that it is told of the topic, over all its connections.
type viewer struct {
	topic string
	name  string

	mu      sync.Mutex // guards the fields below
	told    []told
	at      string // the newest position; "": none yet
	start   uint64 // the offset at which it began
	lines   int    // how many connections it has had
	fault   error  // a server broke the protocol
	reason  error  // why the last connection ended
	ws      *websocket.Conn
	ended   chan struct{}   // closed when the connection has ended
	asked   uint64          // the ID of its last request
	joining uint64          // the ID of the connection's subscription
	answers chan frameOfNow // the answers on this connection
}

// told is one thing that a viewer was told of its topic.
type told struct {
	line, node int
	gap        bool
	data, at   string // a gap has no data; at is the position after it, "" if unknown
}

func (e told) String() string {
	what := e.data
	if e.gap {
		what = "GAP"
	}
	return fmt.Sprintf("%s at %s (line %d, node %d)", what, e.at, e.line, e.node)
}

// frameOfNow is a frame from a server.
type frameOfNow struct {
	Op        string
	ID        uint64
	Topic     string
	Data      json.RawMessage
	At        string
	Recovered *bool
	Messages  []struct {
		Data json.RawMessage
		At   string
	}
	Code string
}

var errRefused = errors.New("the server refused the subscription")

// connect dials a node, and subscribes from the viewer's position. From then on the viewer
// keeps everything it is told, until the connection ends.
func (v *viewer) connect(ctx context.Context, node int, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second) // a subscription may wait for five
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{"live.v1"}})
	if err != nil {
		return err
	}
	ws.SetReadLimit(-1)
	v.mu.Lock()
	v.lines++
	v.ws, v.ended = ws, make(chan struct{})
	v.answers = make(chan frameOfNow, 1)
	line, ended, answers := v.lines, v.ended, v.answers
	v.mu.Unlock()
	go v.read(ws, line, node, ended, answers) // ends with the line
	answer, err := v.ask(ctx, map[string]any{"op": "subscribe", "topic": v.topic, "since": v.position()})
	if err == nil && answer.Op == "error" {
		err = fmt.Errorf("%w: %s", errRefused, answer.Code)
	}
	if err != nil {
		ws.CloseNow()
		<-ended
	}
	return err
}

// ask sends an operation, and returns the answer.
func (v *viewer) ask(ctx context.Context, op map[string]any) (frameOfNow, error) {
	v.mu.Lock()
	v.asked++
	op["id"] = v.asked
	if op["op"] == "subscribe" {
		v.joining = v.asked
	}
	if op["since"] == "" {
		delete(op, "since")
	}
	ws, ended, answers := v.ws, v.ended, v.answers
	v.mu.Unlock()
	raw, err := json.Marshal(op)
	if err != nil {
		return frameOfNow{}, err
	}
	if err := ws.Write(ctx, websocket.MessageText, raw); err != nil {
		return frameOfNow{}, err
	}
	select {
	case answer := <-answers:
		return answer, nil
	case <-ended:
		return frameOfNow{}, errors.New("the line ended before the answer")
	case <-ctx.Done():
		return frameOfNow{}, ctx.Err()
	}
}

func (v *viewer) read(ws *websocket.Conn, line, node int, ended chan struct{}, answers chan frameOfNow) {
	defer close(ended)
	defer ws.CloseNow()
	for {
		_, raw, err := ws.Read(context.Background())
		if err != nil {
			v.mu.Lock()
			v.reason = err
			v.mu.Unlock()
			return
		}
		var f frameOfNow
		if err := json.Unmarshal(raw, &f); err != nil {
			v.complain("%q: %w", raw, err)
			return
		}
		if f.Op == "ping" {
			ws.Write(context.Background(), websocket.MessageText, []byte(`{"op":"pong"}`))
			continue
		}
		v.take(f, line, node)
		if f.Op == "reply" || f.Op == "error" {
			answers <- f
		}
	}
}

// take keeps a frame.
func (v *viewer) take(f frameOfNow, line, node int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	note := func(data json.RawMessage, at string) {
		v.told = append(v.told, told{line, node, false, string(data), at})
		if at != "" {
			v.at = at
		}
	}
	switch f.Op {
	case "":
		if f.Topic != v.topic {
			v.fault = fmt.Errorf("a publication of %q", f.Topic)
			return
		}
		note(f.Data, f.At)
	case "gap":
		v.told = append(v.told, told{line: line, node: node, gap: true, at: f.At})
		if f.At != "" {
			v.at = f.At
		}
	case "reply":
		if f.ID != v.joining || f.At == "" {
			return
		}
		switch {
		case v.at == "":
			v.start = offsetOf(f.At)
		case f.Recovered == nil || !*f.Recovered:
			v.told = append(v.told, told{line: line, node: node, gap: true, at: f.At})
		}
		for _, m := range f.Messages {
			note(m.Data, m.At)
		}
		v.at = f.At
	}
}

func (v *viewer) complain(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fault = fmt.Errorf(format, args...)
}

func (v *viewer) position() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at
}

func (v *viewer) countLines() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lines
}

// hangUp breaks the connection, if there is one, without a farewell.
func (v *viewer) hangUp() {
	v.mu.Lock()
	ws, ended := v.ws, v.ended
	v.mu.Unlock()
	if ws != nil {
		ws.CloseNow()
		<-ended
	}
}

// follow keeps a connection to a node until ctx ends. choose names the node, and names it again
// after each break. "" is no node.
func (v *viewer) follow(ctx context.Context, choose func() (node int, url string)) {
	for ctx.Err() == nil {
		node, url := choose()
		if url != "" && v.connect(ctx, node, url) == nil {
			v.mu.Lock()
			ended := v.ended
			v.mu.Unlock()
			select {
			case <-ended:
			case <-ctx.Done():
			}
		}
		if ctx.Err() == nil {
			sleep(ctx, 50*time.Millisecond)
		}
	}
	v.hangUp()
}

// offsetOf returns the number in a position. Clients must not look into a position. For a topic
// with a stream, this broker uses the sequence of the stream, so a test can compare the two.
func offsetOf(at string) uint64 {
	n, err := strconv.ParseUint(at[strings.LastIndexByte(at, '.')+1:], 10, 64)
	if err != nil {
		panic(fmt.Sprintf("position %q: %v", at, err))
	}
	return n
}

// epochOf returns the other part of a position.
func epochOf(at string) string { return at[:max(strings.LastIndexByte(at, '.'), 0)] }

// view connects a viewer, which must succeed, and disconnects it at the end of the test.
func view(t testing.TB, topic string, in *instance) *viewer {
	t.Helper()
	v := &viewer{topic: topic, name: fmt.Sprint("viewer of ", topic, " at node ", in.node)}
	v.mustConnect(t, in)
	t.Cleanup(v.hangUp)
	return v
}

func (v *viewer) mustConnect(t testing.TB, in *instance) {
	t.Helper()
	if err := v.connect(context.Background(), in.node, in.url()); err != nil {
		t.Fatalf("%s: %v", v.name, err)
	}
}

// gaps counts the gaps that the viewer was told of.
func (v *viewer) gaps() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, e := range v.told {
		if e.gap {
			n++
		}
	}
	return n
}

// data returns what the viewer was told, without the gaps.
func (v *viewer) data() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []string
	for _, e := range v.told {
		if !e.gap {
			all = append(all, e.data)
		}
	}
	return all
}

// awaitLast waits until the viewer has the last stored publication.
func (v *viewer) awaitLast(t testing.TB, all []stored) {
	t.Helper()
	if len(all) == 0 {
		return
	}
	last := all[len(all)-1]
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		v.mu.Lock()
		at, fault, n := v.at, v.fault, len(v.told)
		v.mu.Unlock()
		if fault != nil {
			t.Fatalf("%s: %v", v.name, fault)
		}
		if at != "" && offsetOf(at) >= last.sequence {
			return
		}
		if time.Now().After(deadline) {
			ended := "its line is up"
			select {
			case <-v.ended:
				ended = "its line has ended"
			default:
			}
			t.Fatalf("%s: is at %q after %d things that it was told, and not at %d; %s", v.name, at, n, last.sequence, ended)
		}
	}
}

// verify compares what the viewer was told with the stored publications since it began. Each
// publication must come once and in order, or a gap in its place.
func (v *viewer) verify(t testing.TB, all []stored) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.verdict(all); err != nil {
		t.Errorf("%s: %v", v.name, err)
	}
}

// verifyWhole is verify for a viewer that must have no gap.
func (v *viewer) verifyWhole(t testing.TB, all []stored) {
	t.Helper()
	v.verify(t, all)
	if n := v.gaps(); n > 0 {
		v.mu.Lock()
		defer v.mu.Unlock()
		t.Errorf("%s: was told of %d gaps: %v", v.name, n, v.aroundGaps())
	}
}

// aroundGaps returns each gap, with what came before and after it; v.mu is held.
func (v *viewer) aroundGaps() (around []told) {
	for i, e := range v.told {
		if e.gap {
			around = append(around, v.told[max(i-1, 0):min(i+2, len(v.told))]...)
		}
	}
	return around
}

func (v *viewer) verdict(all []stored) error {
	if v.fault != nil {
		return v.fault
	}
	next := 0 // the index of what must come next
	for next < len(all) && all[next].sequence <= v.start {
		next++
	}
	mayMiss := false
	for i, e := range v.told {
		if e.gap {
			mayMiss = e.at == ""
			for e.at != "" && next < len(all) && all[next].sequence <= offsetOf(e.at) {
				next++
			}
			continue
		}
		here := next
		for mayMiss && here < len(all) && all[here].sequence < offsetOf(e.at) {
			here++
		}
		if here == len(all) || all[here].sequence != offsetOf(e.at) || all[here].data != e.data {
			expected := "nothing more"
			if next < len(all) {
				expected = all[next].String()
			}
			return fmt.Errorf("was told %v after %v; should have been %s", e, v.told[max(i-3, 0):i], expected)
		}
		next, mayMiss = here+1, false
	}
	if next < len(all) && !mayMiss {
		return fmt.Errorf("was not told the last %d of %d, from %v on; at the end %v",
			len(all)-next, len(all), all[next], v.told[max(len(v.told)-3, 0):])
	}
	return nil
}
