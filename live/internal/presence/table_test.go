package presence

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// pair is a server, another one, and the messages of the first that the other has not heard yet.
type pair struct {
	t        *testing.T
	a, b     *Table
	now      int64
	deaf     bool // messages of a do not arrive
	messages int  // of a, of a kind that is not a beat
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, now: int64(time.Hour)}
	p.a = New(Config{Self: Incarnation{1}, Grace: simGrace})
	p.b = New(Config{Self: Incarnation{2}, Grace: simGrace})
	p.b.Watch("t")
	p.pass(time.Second)
	return p
}

// pass lets time go by.
func (p *pair) pass(d time.Duration) {
	for end := p.now + int64(d); p.now < end; p.now += int64(10 * time.Millisecond) {
		for _, m := range p.a.Tick(p.now) {
			if kind(m[1]) != kindBeat {
				p.messages++
			}
			if !p.deaf {
				p.b.Hear(m, p.now)
			}
		}
		for _, m := range p.b.Tick(p.now) {
			p.a.Hear(m, p.now)
		}
	}
}

// has checks who is in topic t at the other server.
func (p *pair) has(want ...string) {
	p.t.Helper()
	if got := textOf(p.b.Members("t")); got != strings.Join(want, "; ") {
		p.t.Errorf("the view is %q, want %q", got, strings.Join(want, "; "))
	}
}

// told checks what has changed there.
func (p *pair) told(joined, changed, left string) {
	p.t.Helper()
	d := p.b.Flush("t")
	if got := textOf(d.Joined) + "|" + textOf(d.Changed) + "|" + strings.Join(d.Left, "; "); got != joined+"|"+changed+"|"+left {
		p.t.Errorf("told %q, want %q", got, joined+"|"+changed+"|"+left)
	}
}

func textOf(members []Member) string {
	var all []string
	for _, m := range members {
		all = append(all, fmt.Sprintf("%s %s", m.ID, strings.Join(textsOf(m.Sessions), ",")))
	}
	return strings.Join(all, "; ")
}

func TestFirstSessionJoinsAndLastLeavesAfterTheGrace(t *testing.T) {
	p := newPair(t)
	one := p.a.Enter("t", "anna", []byte("1"), p.now)
	p.pass(100 * time.Millisecond)
	p.told("anna 1", "", "")
	two := p.a.Enter("t", "anna", []byte("2"), p.now)
	p.pass(100 * time.Millisecond)
	p.told("", "anna 1,2", "")
	p.a.Leave(one, p.now)
	p.pass(simGrace - 100*time.Millisecond)
	p.told("", "", "")
	p.pass(300 * time.Millisecond)
	p.told("", "anna 2", "")
	p.a.Leave(two, p.now)
	p.pass(simGrace - 100*time.Millisecond)
	p.has("anna 2")
	p.told("", "", "")
	p.pass(300 * time.Millisecond)
	p.has()
	p.told("", "", "anna")
}

func TestReloadWithinTheGraceShowsNothing(t *testing.T) {
	p := newPair(t)
	refs := []uint64{}
	for _, info := range []string{"1", "2", "3"} {
		refs = append(refs, p.a.Enter("t", "anna", []byte(info), p.now))
	}
	p.pass(time.Second)
	p.told("anna 1,2,3", "", "")
	p.a.Leave(refs[0], p.now)
	p.a.Leave(refs[1], p.now)
	p.pass(time.Second)
	p.b.Enter("t", "anna", []byte("2"), p.now) // at another server
	p.a.Enter("t", "anna", []byte("1"), p.now)
	for range 50 {
		p.pass(100 * time.Millisecond)
		p.told("", "", "")
	}
	p.has("anna 1,2,3")
}

// Nothing has to be fetched of a server that is known from its beginning.
func TestFirstDeltaNeedsNoChunk(t *testing.T) {
	p := newPair(t)
	p.messages = 0
	p.a.Enter("t", "anna", nil, p.now)
	p.pass(5 * time.Second)
	p.has("anna ")
	if p.messages != 1 {
		t.Errorf("%d messages", p.messages)
	}
}

// A server that shuts down says how long its clients may take to come back.
func TestDrainingServerHandsOverWithoutALeave(t *testing.T) {
	p := newPair(t)
	refs := []uint64{p.a.Enter("t", "anna", nil, p.now), p.a.Enter("t", "bert", nil, p.now)}
	p.pass(time.Second)
	p.told("anna ; bert ", "", "")
	p.a.Drain(8 * time.Second)
	p.pass(100 * time.Millisecond)
	for _, ref := range refs {
		p.a.Leave(ref, p.now)
	}
	p.pass(100 * time.Millisecond)
	p.deaf = true // it is gone
	p.pass(7 * time.Second)
	p.b.Enter("t", "anna", nil, p.now)
	p.told("", "", "")
	p.pass(time.Second)
	p.told("", "", "bert")
	p.has("anna ")
}

// The users of a server that is dead have been gone for longer than the grace.
func TestDeadServerIsForgotten(t *testing.T) {
	p := newPair(t)
	p.a.Enter("t", "anna", nil, p.now)
	p.pass(time.Second)
	p.deaf = true
	p.pass(DeadAfter - beatEvery - 100*time.Millisecond)
	p.has("anna ")
	p.pass(beatEvery + 200*time.Millisecond)
	p.has()
	if p.b.Peers() != 0 {
		t.Error("it is still known")
	}
	p.deaf = false
	p.pass(beatEvery + 200*time.Millisecond)
	p.has("anna ")
}

func TestChangesOfOneMomentBecomeOne(t *testing.T) {
	p := newPair(t)
	p.messages = 0
	ref := p.a.Enter("t", "anna", nil, p.now)
	for i := range 100 {
		p.a.Change(ref, fmt.Append(nil, i), p.now)
		p.a.Leave(p.a.Enter("t", "passer-by", nil, p.now), p.now)
	}
	p.pass(batchEvery + 20*time.Millisecond)
	p.has("anna 99")
	if p.messages != 1 {
		t.Errorf("%d messages", p.messages)
	}
}

func TestLossOfTheLastChangeIsNoticed(t *testing.T) {
	p := newPair(t)
	ref := p.a.Enter("t", "anna", nil, p.now)
	p.pass(time.Second)
	p.deaf = true
	p.a.Leave(ref, p.now)
	p.pass(100 * time.Millisecond)
	p.deaf = false
	p.pass(beatEvery + 200*time.Millisecond + simGrace)
	p.has()
}

// Who has missed more than the owner keeps gets the whole.
func TestServerThatMissedTooMuchFetchesAll(t *testing.T) {
	p := newPair(t)
	p.a.Enter("t", "anna", []byte("0"), p.now)
	p.pass(time.Second)
	p.deaf = true
	ref := p.a.Enter("t", "bert", nil, p.now)
	for i := range maxLog + 10 {
		p.a.Change(ref, fmt.Append(nil, i), p.now)
		p.a.own.flushAt = 0
		p.a.Tick(p.now)
	}
	p.deaf = false
	p.pass(beatEvery + time.Second)
	p.has("anna 0", fmt.Sprintf("bert %d", maxLog+9))
}

// What is known of an owner is checked against the number of its entries.
func TestWrongCountIsRepaired(t *testing.T) {
	p := newPair(t)
	p.a.Enter("t", "anna", nil, p.now)
	p.a.Enter("t", "bert", nil, p.now)
	p.pass(time.Second)
	for ref, e := range p.b.peers[Incarnation{1}].entries {
		delete(p.b.peers[Incarnation{1}].entries, ref)
		p.b.hide(e)
		break
	}
	p.pass(beatEvery + time.Second)
	p.has("anna ", "bert ")
}

// A chunk that is newer than what is known cannot be joined to it.
func TestChunkOfAnotherMomentIsNotTaken(t *testing.T) {
	b := New(Config{Self: Incarnation{2}})
	chunk := func(seq, after, upto uint64, last bool, ops ...op) {
		m := message{kind: kindChunk, from: Incarnation{1}, seq: seq, after: after, upto: upto, last: last, ops: ops}
		b.Hear(m.encode(), 1)
	}
	chunk(5, 0, 1, false, op{opEnter, 1, "t", "anna", nil})
	chunk(6, 1, 2, true, op{opEnter, 2, "t", "bert", nil})
	if got := textOf(b.Members("t")); got != "anna " || b.peers[Incarnation{1}].synced {
		t.Errorf("the view is %q", got)
	}
	chunk(5, 1, 2, true, op{opEnter, 2, "t", "bert", nil})
	if got := textOf(b.Members("t")); got != "anna ; bert " {
		t.Errorf("the view is %q", got)
	}
}

func TestShownMembersCanBeReadInParts(t *testing.T) {
	p := newPair(t)
	for i := range 100 {
		p.b.Enter("t", fmt.Sprintf("u%d", i), nil, p.now)
	}
	if all := p.b.Shown("t", 0); len(all) != 0 || p.b.Count("t") != 100 {
		t.Errorf("%d are shown that nobody was told of, and %d counted", len(all), p.b.Count("t"))
	}
	p.b.Flush("t")
	all := p.b.Shown("t", 0)
	rest := p.b.Shown("t", all[39].Order)
	if len(all) != 100 || len(rest) != 60 || rest[0].ID != all[40].ID {
		t.Errorf("%d, and then %d from %s", len(all), len(rest), rest[0].ID)
	}
}

// A table that nobody uses any more is empty again.
func TestNothingIsLeft(t *testing.T) {
	p := newPair(t)
	var refs []uint64
	for i := range 1000 {
		refs = append(refs, p.a.Enter(fmt.Sprintf("room %d", i%50), fmt.Sprintf("u%d", i), []byte("1"), p.now))
	}
	p.pass(time.Second)
	if n := len(p.b.rooms); n != 51 {
		t.Errorf("%d rooms", n)
	}
	for _, ref := range refs {
		p.a.Leave(ref, p.now)
	}
	p.pass(time.Minute)
	p.b.Flush("t")
	p.b.Unwatch("t")
	for name, tab := range map[string]*Table{"one": p.a, "other": p.b} {
		if len(tab.rooms)+len(tab.peers)+len(tab.lingering)+len(tab.own.entries)+len(tab.own.pending)+tab.Own() != 0 {
			t.Errorf("the %s has %d rooms, %d peers, %d that linger, %d of its own", name, len(tab.rooms), len(tab.peers), len(tab.lingering), len(tab.own.entries))
		}
		if at, ok := tab.Next(p.now); ok {
			t.Errorf("the %s has something to do in %v", name, time.Duration(at-p.now))
		}
	}
}

func TestTableThatIsAloneSendsNothing(t *testing.T) {
	a := New(Config{Self: Incarnation{1}, Grace: simGrace, Alone: true})
	ref := a.Enter("t", "anna", nil, 1)
	a.Change(ref, []byte("1"), 1)
	if out := a.Tick(int64(time.Second)); len(out) != 0 {
		t.Errorf("%d messages", len(out))
	}
	if at, ok := a.Next(int64(time.Second)); ok {
		t.Errorf("something is due at %d", at)
	}
	a.Leave(ref, int64(time.Second))
	if at, ok := a.Next(int64(time.Second)); !ok || at != int64(time.Second+simGrace) {
		t.Errorf("the end of the grace is due at %d", at)
	}
	a.Tick(int64(time.Second + simGrace))
	if a.Count("t") != 0 || len(a.Members("t")) > 0 {
		t.Error("anna is still there")
	}
}

// A server that was stopped has read nothing meanwhile. It does not take the others for dead before it
// had time to hear them.
func TestServerThatWasStoppedTakesNobodyForDead(t *testing.T) {
	for name, dies := range map[string]bool{"the other lives": false, "the other has died": true} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.a.Enter("t", "anna", nil, p.now)
			p.pass(time.Second)
			p.told("anna ", "", "")
			p.b.Next(p.now)
			var waiting [][]byte
			for range 100 { // b is stopped
				p.now += int64(200 * time.Millisecond)
				waiting = append(waiting, p.a.Tick(p.now)...)
			}
			p.b.Tick(p.now)
			p.b.Next(p.now)
			p.told("", "", "")
			if !dies {
				for _, m := range waiting {
					p.b.Hear(m, p.now)
				}
				p.pass(30 * time.Second)
				p.told("", "", "")
				return
			}
			for range 200 { // so it ticks as it should
				p.now += int64(50 * time.Millisecond)
				if at, ok := p.b.Next(p.now); ok && at <= p.now {
					p.b.Tick(p.now)
				}
			}
			p.told("", "", "anna")
		})
	}
}
