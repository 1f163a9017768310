package livetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Expect waits for the next message of a topic, and compares its data with a value, both as JSON.
// Any stands for any value, at any place in it. Messages of other topics may come before: the server
// promises an order only within a topic.
func (c *Client) Expect(topic string, want any) {
	c.t.Helper()
	m := c.next(topic, func() string { return "want " + wanted(marshal(c.t, want)) })
	c.compare(m, want)
}

// ExpectAll is Expect for each of these values in turn.
func (c *Client) ExpectAll(topic string, want ...any) {
	c.t.Helper()
	for _, v := range want {
		c.Expect(topic, v)
	}
}

// ExpectKey is Expect for a publication with this key.
func (c *Client) ExpectKey(topic, key string, want any) {
	c.t.Helper()
	m := c.next(topic, func() string { return fmt.Sprintf("want key %q: %s", key, wanted(marshal(c.t, want))) })
	if m.Key != key {
		c.fatalf("came %s, want the key %q", m, key)
	}
	c.compare(m, want)
}

// ExpectRemoved waits for the next message of a keyed topic. It must say that this key was removed.
func (c *Client) ExpectRemoved(topic, key string) {
	c.t.Helper()
	want := fmt.Sprintf("want the removal of key %q", key)
	if m := c.next(topic, func() string { return want }); !m.Removed || m.Key != key {
		c.fatalf("came %s, %s", m, want)
	}
}

// ExpectGap waits for the next message of a topic. It must say that there is a gap: a gap frame, or
// the answer to Subscribe or Reconnect that not everything can be had. A topic with a Snapshot has a new
// state instead.
func (c *Client) ExpectGap(topic string) {
	c.t.Helper()
	if m := c.next(topic, func() string { return "want a gap" }); !m.Gap {
		c.fatalf("came %s, want a gap", m)
	}
}

// Next waits for the next message of a topic, and returns it.
func (c *Client) Next(topic string) Message {
	c.t.Helper()
	return c.next(topic, func() string { return "want a message" })
}

// Await takes the next messages of a topic up to one for whose data ok returns true. It returns
// that data. Await as a whole waits no longer than Server.Patience.
func Await[T any](c *Client, topic string, ok func(data T) bool) T {
	c.t.Helper()
	newest := "no message has come"
	tooLate := time.Now().Add(c.srv.Patience)
	for {
		if time.Now().After(tooLate) {
			c.fatalf("no message of %q of which ok is true has come within %v; the newest: %s", topic, c.srv.Patience, newest)
		}
		m := c.next(topic, func() string { return "want a message of which ok is true; the newest: " + newest })
		newest = m.String()
		if m.Data == nil {
			continue
		}
		var v T
		if err := json.Unmarshal(m.Data, &v); err != nil {
			c.fatalf("came %s: %v", m, err)
		}
		if ok(v) {
			return v
		}
	}
}

// next waits for the next message of a topic. want tells a person what the test waits for.
func (c *Client) next(topic string, want func() string) (m Message) {
	c.t.Helper()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	found := false
	inTime := c.await(func() bool {
		i := slices.IndexFunc(c.unread, func(m Message) bool { return m.Topic == topic })
		if i < 0 {
			return conn.end != nil
		}
		m, found = c.unread[i], true
		c.unread = slices.Delete(c.unread, i, i+1)
		return true
	})
	switch {
	case !inTime:
		c.fatalf("no message of %q has come within %v, %s%s", topic, c.srv.Patience, want(), c.insteadOf(topic))
	case !found:
		c.fatalf("no message of %q has come, %s: %s%s", topic, want(), conn.describe(), c.insteadOf(topic))
	}
	return m
}

// insteadOf tells a person what may explain that nothing of a topic has come.
func (c *Client) insteadOf(topic string) string {
	c.mu.Lock()
	subscribed := c.topic(topic).subscribed != nil
	c.mu.Unlock()
	var text string
	if !subscribed {
		text = fmt.Sprintf("\n%s has not subscribed to %q by itself", c.as.name, topic)
	}
	if list := c.unreadList(); list != "" {
		text += "\nother messages have come:" + list
	}
	return text
}

// compare compares a message with a value.
func (c *Client) compare(m Message, want any) {
	c.t.Helper()
	asJSON := marshal(c.t, want)
	if m.Gap || m.Removed || m.Data == nil {
		c.fatalf("came %s, want %s", m, wanted(asJSON))
	}
	if diff := differences(m.Data, asJSON); len(diff) > 0 {
		c.fatalf("the next message of %q is another one:%s%s", m.Topic, report(diff, m.Data, asJSON), c.alsoUnread())
	}
}

func (c *Client) alsoUnread() string {
	if list := c.unreadList(); list != "" {
		return "\nafter it have come:" + list
	}
	return ""
}

// report tells a person how two JSON values differ.
func report(diff []string, got, want json.RawMessage) string {
	const most = 20 // lines that a person reads
	if len(diff) > most {
		diff = append(slices.Clone(diff[:most]), fmt.Sprintf("… and %d more", len(diff)-most))
	}
	return fmt.Sprintf("\n\t%s\ngot  %s\nwant %s", strings.Join(diff, "\n\t"), shorten(string(got)), wanted(want))
}

// ExpectNothing checks that no message of these topics has come that the test has not looked at;
// without topics, no message at all. It does not sleep: first it waits until the server has handled
// what all clients have sent, as Server.Sync does, and has sent this client everything that was due.
// So it proves that nothing follows from what the test and its clients have done before. Sync says
// what it does not prove. If the connection has ended, nothing can come any more.
func (c *Client) ExpectNothing(topics ...string) {
	c.t.Helper()
	c.srv.syncAll(c)
	c.mu.Lock()
	open := c.conn.end == nil
	c.mu.Unlock()
	if open {
		c.Sync()
	}
	var rest strings.Builder
	for _, m := range c.Unread() {
		if len(topics) == 0 || slices.Contains(topics, m.Topic) {
			fmt.Fprintf(&rest, "\n\t%s", m)
		}
	}
	if rest.Len() > 0 {
		c.fatalf("want nothing, but there have come:%s", rest.String())
	}
}

// ExpectState compares the state that the newest Subscribe or Reconnect was answered with, on a topic
// with a Snapshot, with a value.
func (c *Client) ExpectState(topic string, want any) {
	c.t.Helper()
	c.mu.Lock()
	state := c.topic(topic).state
	c.mu.Unlock()
	asJSON := marshal(c.t, want)
	if state == nil {
		c.fatalf("%q has no state, want %s", topic, wanted(asJSON))
	}
	if diff := differences(state, asJSON); len(diff) > 0 {
		c.fatalf("the state of %q is another one:%s", topic, report(diff, state, asJSON))
	}
}

// ExpectMembers waits until the members of a topic, as the client was told, are these IDs, in any
// order.
func (c *Client) ExpectMembers(topic string, ids ...string) {
	c.t.Helper()
	want := slices.Sorted(slices.Values(ids))
	var got []string
	ok := c.awaitOpen(func() bool {
		t := c.topic(topic)
		got = slices.Sorted(maps.Keys(t.members))
		return t.members != nil && slices.Equal(got, want)
	})
	if !ok {
		c.fatalf("the members of %q are %q, want %q", topic, got, want)
	}
}

// ExpectCount waits until the number of members of a topic, as the client was told, is this one.
func (c *Client) ExpectCount(topic string, want int) {
	c.t.Helper()
	got := 0
	ok := c.awaitOpen(func() bool {
		got = c.topic(topic).count
		return got == want
	})
	switch {
	case ok:
	case got < 0:
		c.fatalf("the client was not told how many members %q has, want %d", topic, want)
	default:
		c.fatalf("%q has %d members, want %d", topic, got, want)
	}
}

// awaitOpen is await that ends when the connection does.
func (c *Client) awaitOpen(holds func() bool) bool {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	ok := false
	c.await(func() bool {
		ok = holds()
		return ok || conn.end != nil
	})
	return ok
}

// ExpectClosed waits until the server has closed the connection. The code of its close frame must
// be this one, for example live.CloseRevoked. ExpectClosed returns the reason. Messages that have come
// before can still be expected. A connection that the client itself has ended, with Close or Cut, was not closed by the server: see
// ExpectEnd.
func (c *Client) ExpectClosed(code int) (reason string) {
	c.t.Helper()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if !c.await(func() bool { return conn.end != nil }) {
		c.fatalf("the connection is open after %v, want the close code %d", c.srv.Patience, code)
	}
	got, reason := conn.closed()
	if int(got) != code || conn.wasLeft() {
		c.fatalf("%s, want the close code %d", conn.describe(), code)
	}
	return reason
}

// ExpectEnd waits until OnClose has returned for the client's session. Its error must be this one, or
// wrap it. It is nil if either side has closed the session on purpose, and io.EOF after Cut. ExpectEnd
// needs New.
func (c *Client) ExpectEnd(want error) {
	c.t.Helper()
	c.needsNew("ExpectEnd")
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	c.awaitEnd(conn)
	if got := conn.visit.err; !errors.Is(got, want) {
		c.fatalf("the session has ended with the error %v, want %v", got, want)
	}
}
