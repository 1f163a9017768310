package presence

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

var exampleMessages = []message{
	{kind: kindHello, from: Incarnation{1}},
	{kind: kindBeat, from: Incarnation{1}, seq: 300, count: 7, linger: 4 * time.Second},
	{kind: kindWant, from: Incarnation{1}, to: Incarnation{2}, since: 300},
	{kind: kindWant, from: Incarnation{1}, to: Incarnation{2}, after: 1 << 40},
	{kind: kindDelta, from: Incarnation{1}, seq: 1, ops: []op{
		{opEnter, 1, "t", "anna", []byte(`{"a":1}`)}, {opEnter, 2, "t", "bert", nil}, {opChange, 1, "", "", []byte(`null`)}, {opChange, 1, "", "", nil}, {opLeave, 1, "", "", nil},
	}},
	{kind: kindChunk, from: Incarnation{1}, seq: 9, after: 3, upto: 900, last: true, ops: []op{{opEnter, 4, "t", "anna", nil}, {opEnter, 900, "t\"ä", "ä", []byte(`1`)}}},
	{kind: kindChunk, from: Incarnation{1}, seq: 9, after: 3, upto: 3, pause: true},
}

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	for _, m := range exampleMessages {
		got, err := decode(m.encode())
		if err != nil || !reflect.DeepEqual(*got, m) {
			t.Errorf("%+v has become %+v, %v", m, got, err)
		}
	}
}

func TestJunkIsIgnoredAndCounted(t *testing.T) {
	enter := func(o op) []byte {
		return (&message{kind: kindDelta, seq: 1, ops: []op{o}}).encode()
	}
	head := (&message{kind: kindHello}).encode()
	junk := map[string][]byte{
		"nothing":           {},
		"another version":   append([]byte{version + 1}, head[1:]...),
		"unknown kind":      append([]byte{version, 'x'}, head[2:]...),
		"too short":         head[:10],
		"too long":          append(bytes.Clone(head), 0),
		"no number":         (&message{kind: kindDelta}).encode(),
		"no topic":          enter(op{opEnter, 1, "", "anna", nil}),
		"no member":         enter(op{opEnter, 1, "t", "", nil}),
		"no ref":            enter(op{opEnter, 0, "t", "anna", nil}),
		"info is not JSON":  enter(op{opEnter, 1, "t", "anna", []byte(`{`)}),
		"topic is no UTF-8": enter(op{opEnter, 1, "\xff", "anna", nil}),
		"too large":         enter(op{opEnter, 1, "t", strings.Repeat("x", MaxEntry), nil}),
		"unknown change":    enter(op{9, 1, "t", "anna", nil}),
		"a huge length":     append(enter(op{opLeave, 1, "", "", nil}), byte(opEnter), 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
		"chunk beyond its end": (&message{kind: kindChunk, seq: 1, upto: 1, ops: []op{
			{opEnter, 2, "t", "anna", nil}}}).encode(),
		"chunk in disorder": (&message{kind: kindChunk, seq: 1, upto: 9, ops: []op{
			{opEnter, 2, "t", "anna", nil}, {opEnter, 2, "t", "bert", nil}}}).encode(),
	}
	table := New(Config{Self: Incarnation{1}})
	for name, b := range junk {
		before := table.Junk()
		if table.Hear(b, 1); table.Junk() != before+1 {
			t.Errorf("%s is not counted", name)
		}
	}
	if len(table.peers)+len(table.rooms) != 0 {
		t.Error("something was believed")
	}
}

// The number of owners that are known has a bound.
func TestOwnersBeyondTheBoundAreJunk(t *testing.T) {
	table := New(Config{Self: Incarnation{1}})
	for i := range maxPeers + 10 {
		m := message{kind: kindBeat, from: Incarnation{2, byte(i), byte(i >> 8)}, count: 1}
		table.Hear(m.encode(), 1)
	}
	if table.Peers() != maxPeers || table.Junk() != 10 {
		t.Errorf("%d peers, %d junk", table.Peers(), table.Junk())
	}
}

// Whatever comes: it is read as what encode makes, or refused, and the table goes on.
func FuzzHear(f *testing.F) {
	for _, m := range exampleMessages {
		f.Add(m.encode(), m.encode())
	}
	f.Fuzz(func(t *testing.T, one, other []byte) {
		table := New(Config{Self: Incarnation{2}, Grace: time.Second})
		table.Watch("t")
		for i, b := range [][]byte{one, other, one} {
			if m, err := decode(b); err == nil {
				again, err := decode(m.encode())
				if err != nil || !reflect.DeepEqual(m, again) {
					t.Fatalf("%+v was read as %+v, %v", m, again, err)
				}
			}
			table.Hear(b, int64(i+1))
			table.Tick(int64(i + 1))
			table.Flush("t")
		}
		table.Tick(int64(time.Hour))
		table.Tick(2 * int64(time.Hour))
		table.Flush("t")
		if table.Peers() != 0 || table.Count("t") != 0 || len(table.rooms) != 1 {
			t.Fatalf("%d peers, %d rooms are left", table.Peers(), len(table.rooms))
		}
	})
}
