package live

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

func numbered(from, to, step uint64) []*broker.Publication {
	var all []*broker.Publication
	for i := from; i <= to; i += step {
		all = append(all, &broker.Publication{Position: Position{Epoch: "e", Offset: i}, Data: []byte("0")})
	}
	return all
}

// Clients that have missed a little more or less are soon sent the same parts.
func TestPartsOfDifferentClientsSoonBeginAtTheSamePlace(t *testing.T) {
	const last, most = 4000, 64
	for _, step := range []uint64{1, 3, 7} {
		begins := make(map[uint64]int) // how many clients had a part that began there
		const clients = 20
		for range clients {
			rest := numbered(1+step*rand.Uint64N(100), last, step)
			for len(rest) > most {
				part := alignPart(rest[:most])
				if len(part) == 0 || len(part) > most || part[0] != rest[0] {
					t.Fatalf("a part of %d publications", len(part))
				}
				rest = rest[len(part):]
				begins[rest[0].Offset]++
			}
		}
		shared := 0
		for at, n := range begins {
			if n == clients && at > last/4 {
				shared++
			}
		}
		if shared < last/int(step)/most/2 {
			t.Errorf("of offsets by %d only %d parts began at the same place for all", step, shared)
		}
	}
}

func TestSharedPartsAreBounded(t *testing.T) {
	var behind atomic.Int64
	x := sharedParts{catchingUp: &behind}
	top := &topic{name: "t"}
	c := &cursor{upto: 1 << 40}
	part := func(size int) *sharedPart {
		return &sharedPart{upto: Position{Epoch: "e", Offset: 1}, messages: []byte(strings.Repeat("x", size))}
	}
	one := numbered(1, 1, 1)
	x.add(partKey{topic: "t", answer: true}, c, one, part(100))
	if len(x.parts) > 0 {
		t.Error("a part is kept though nobody catches up")
	}
	behind.Store(1)
	held := func() (n int) {
		for _, p := range x.parts {
			n += p.len()
		}
		return n
	}
	for i := range 2000 {
		key := partKey{topic: fmt.Sprint(i % 700), answer: true}
		x.add(key, c, one, part(rand.IntN(2*partBytes)))
		if n := held(); n > maxSharedBytes || n != x.bytes || len(x.order) != len(x.parts) {
			t.Fatalf("%d bytes, %d counted, %d parts, %d in order", n, x.bytes, len(x.parts), len(x.order))
		}
		if x.find(key, top, c) == nil {
			t.Fatal("the newest part is not there")
		}
	}
	x.add(partKey{topic: "large", answer: true}, c, one, part(maxSharedBytes/2))
	if x.find(partKey{topic: "large", answer: true}, top, c) != nil {
		t.Error("a part that would take the place of all others is kept")
	}
	x.clear()
	if x.parts != nil || x.order != nil || x.bytes != 0 {
		t.Error("something is left")
	}
}

// A part is used only where it is what the session would have made itself.
func TestSharedPartIsTheSameForAll(t *testing.T) {
	var behind atomic.Int64
	behind.Store(1)
	top := &topic{name: "t", opts: TopicOptions{HistoryAge: time.Hour}}
	answer, late := partKey{topic: "t", answer: true}, partKey{topic: "t"}
	upto := func(n uint64) *cursor { return &cursor{upto: n} }
	tests := []struct {
		name         string
		key          partKey
		publications []*broker.Publication
		maker, taker *cursor
		age          time.Duration
		want         bool
	}{
		{"an answer", answer, numbered(1, 3, 1), upto(3), upto(3), 0, true},
		{"for one whose answer goes further", answer, numbered(1, 3, 1), upto(3), upto(9), 0, true},
		{"for one whose answer ends before", answer, numbered(1, 3, 1), upto(3), upto(2), 0, false},
		{"one that goes beyond the answer", answer, numbered(1, 3, 1), upto(2), upto(2), 0, false},
		{"what came late", late, numbered(1, 3, 1), upto(0), upto(0), 0, true},
		{"what came late, and not for everybody", late, []*broker.Publication{{Except: "x", Position: Position{Epoch: "e", Offset: 3}}}, upto(0), upto(0), 0, false},
		{"an answer, to everybody", answer, []*broker.Publication{{Except: "x", Position: Position{Epoch: "e", Offset: 3}}}, upto(3), upto(3), 0, true},
		{"nothing", answer, nil, upto(3), upto(3), 0, false},
		{"what has expired", answer, numbered(1, 3, 1), upto(3), upto(3), 2 * time.Hour, false},
		{"what is old by the clock of another node", answer, []*broker.Publication{{Time: time.Now().Add(-2 * time.Hour)}}, upto(3), upto(3), time.Minute, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := sharedParts{catchingUp: &behind}
			x.add(tt.key, tt.maker, tt.publications, &sharedPart{upto: Position{Epoch: "e", Offset: 3}, messages: []byte("x"), since: clock.Now() - int64(tt.age)})
			if got := x.find(tt.key, top, tt.taker) != nil; got != tt.want {
				t.Errorf("shared: %v", got)
			}
		})
	}
}

// A client that asks without end makes a part for which it needs two questions. Each of them has the turn of
// the client that waits for the part.
func TestEachQuestionForAPartTakesTheEarliestTurn(t *testing.T) {
	later := func(d time.Duration) *Session { return &Session{readUntil: clock.Now() + int64(d)} }
	g, x := newTestGate(1), sharedParts{}
	asks := later(100 * time.Second)
	claim, isMine := x.claim(partKey{topic: "t"}, asks)
	if !isMine {
		t.Fatal("the first session must ask")
	}
	if _, isMine := x.claim(partKey{topic: "t"}, &Session{}); isMine {
		t.Fatal("the second session must wait")
	}
	for question := range 2 {
		busy := g.apply(&Session{})
		passes := []*pass{g.apply(asks), g.apply(later(10 * time.Second))}
		x.hasten(claim, passes[0])
		busy.leave()
		wantGranted(t, fmt.Sprint("question ", question), passes, true, false)
		passes[0].leave()
		wantGranted(t, fmt.Sprint("question ", question, " is answered"), passes, true, true)
		passes[1].leave()
	}
	x.release(claim)
}
