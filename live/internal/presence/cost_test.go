package presence

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// What many members cost a server that has them, and each other server. docs/presence.md has the
// figures.
func TestCostOfManyMembers(t *testing.T) {
	for _, test := range []struct{ members, rooms int }{{100_000, 10_000}, {20_000, 1}, {10_000, 10_000}} {
		t.Run(fmt.Sprintf("%d members in %d rooms", test.members, test.rooms), func(t *testing.T) {
			p := newPair(t)
			before := heap()
			begun := time.Now()
			for i := range test.members {
				p.a.Enter(fmt.Sprintf("room:%d", i%test.rooms), fmt.Sprintf("user-%d", i), nil, p.now)
			}
			p.now += int64(batchEvery)
			out := p.a.Tick(p.now)
			p.a.own.log, p.a.own.logged = nil, 0
			owner := heap() - before
			bytes := 0
			for _, b := range out {
				bytes += len(b)
				p.b.Hear(b, p.now)
			}
			n := len(out)
			out = nil
			other := heap() - before - owner
			took := time.Since(begun)
			if p.b.Count("room:0") != test.members/test.rooms {
				t.Fatalf("%d have arrived", p.b.Count("room:0"))
			}
			begun = time.Now()
			p.b.Hear((&message{kind: kindBeat, from: Incarnation{1}, seq: p.a.own.seq, count: 1}).encode(), p.now) // wrong: all is fetched again
			messages := p.messages
			p.pass(3 * time.Second)
			t.Logf("%d bytes a member at its server, %d at each other; %d messages with %d KB to join, in %v; %d messages to fetch all, in %v",
				owner/test.members, other/test.members, n, bytes>>10, took, p.messages-messages, time.Since(begun))
			if most := 900 * test.members; owner > most || other > most {
				t.Errorf("%d and %d bytes, want %d at most", owner, other, most)
			}
			runtime.KeepAlive(p)
		})
	}
}

// What members have cost is free again when they are gone. The log of changes may stay: it has a
// bound of its own, to which Go adds an eighth.
func TestMembersThatAreGoneCostNothing(t *testing.T) {
	for _, test := range []struct{ members, rooms int }{{100_000, 10_000}, {20_000, 1}} {
		t.Run(fmt.Sprintf("%d members in %d rooms", test.members, test.rooms), func(t *testing.T) {
			p := newPair(t)
			before := heap()
			var refs []uint64
			for i := range test.members {
				refs = append(refs, p.a.Enter(fmt.Sprintf("room:%d", i%test.rooms), fmt.Sprintf("user-%d", i), nil, p.now))
			}
			p.pass(time.Second)
			full := heap()
			if n := p.b.Count("room:0"); n != test.members/test.rooms {
				t.Fatalf("%d have arrived", n)
			}
			for _, ref := range refs {
				p.a.Leave(ref, p.now)
			}
			refs = nil
			p.pass(time.Second + simGrace)
			if n := p.b.Count("room:0"); n != 0 {
				t.Fatalf("%d are left", n)
			}
			left := heap() - before
			t.Logf("%d KB for both servers, and %d KB when all are gone", (full-before)>>10, left>>10)
			if most := maxLogBytes*9/8 + 128<<10; left > most {
				t.Errorf("%d bytes are left, want %d at most", left, most)
			}
			runtime.KeepAlive(p)
		})
	}
}
