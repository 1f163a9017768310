package live

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func newTestGate(most int) *gate {
	return newGate(most, func(s *Session) *int64 { return &s.readUntil })
}

// granted returns which of the passes have been granted.
func granted(passes ...*pass) (who []int) {
	for i, p := range passes {
		select {
		case <-p.granted:
			who = append(who, i)
		default:
		}
	}
	return who
}

func wantGranted(t *testing.T, when string, passes []*pass, want ...bool) {
	t.Helper()
	got := make([]bool, len(passes))
	for _, i := range granted(passes...) {
		got[i] = true
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s: pass %d is granted: %v", when, i, got[i])
		}
	}
}

func TestFewReadsAtOnceAndOneOfASession(t *testing.T) {
	g := newTestGate(2)
	a, b := &Session{}, &Session{}
	passes := []*pass{g.apply(a), g.apply(a), g.apply(b), g.apply(nil)}
	wantGranted(t, "at first", passes, true, false, true, false)
	passes[2].leave()
	wantGranted(t, "when b has read", passes, true, false, true, true)
	passes[3].leave()
	wantGranted(t, "a reads still", passes, true, false, true, true)
	passes[0].leave()
	wantGranted(t, "when a has read", passes, true, true, true, true)
	passes[1].leave()
	if g.places != 2 || len(g.waiting) != 0 || len(g.asking) != 0 {
		t.Errorf("in the end there are %d places, %d wait, %d read", g.places, len(g.waiting), len(g.asking))
	}
}

func TestReadsOfTheServerItselfDoNotWaitForEachOther(t *testing.T) {
	g := newTestGate(2)
	passes := []*pass{g.apply(nil), g.apply(nil), g.apply(nil)}
	wantGranted(t, "at first", passes, true, true, false)
}

func TestWhoHasReadLeastIsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate(1)
		greedy := []*Session{{}, {}, {}}
		for range 5 {
			for _, s := range greedy {
				g.apply(s).leave()
			}
		}
		first := g.apply(greedy[0])
		newcomer := &Session{}
		passes := []*pass{g.apply(greedy[1]), g.apply(greedy[2]), g.apply(newcomer)}
		first.leave()
		wantGranted(t, "a newcomer", passes, false, false, true)
		passes[2].leave()
		wantGranted(t, "of the rest the first", passes, true, false, true)
		passes[0].leave()
		passes[1].leave()

		time.Sleep(10 * time.Minute) // what was long ago counts no more
		first = g.apply(newcomer)
		passes = []*pass{g.apply(greedy[0]), g.apply(&Session{})}
		first.leave()
		wantGranted(t, "later", passes, true, false)
	})
}

// However many newcomers there are, who has asked for much is not kept waiting for ever.
func TestWhoHasReadMuchIsNextInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate(1)
		greedy := &Session{}
		for range 1000 {
			g.apply(greedy).leave()
		}
		reading := g.apply(nil)
		waiting := g.apply(greedy)
		for began := time.Now(); len(granted(waiting)) == 0; time.Sleep(time.Second) {
			if time.Since(began) > time.Duration(maxWeight)+2*time.Second {
				t.Fatalf("it has waited for %v", time.Since(began))
			}
			newcomer := g.apply(&Session{})
			reading.leave()
			reading = newcomer
		}
	})
}

// A read that others wait for too is as urgent as theirs.
func TestReadIsHastenedByWhoNeedsItToo(t *testing.T) {
	g := newTestGate(1)
	greedy, other := &Session{}, &Session{}
	for range 3 {
		g.apply(greedy).leave()
	}
	g.apply(other).leave()
	first := g.apply(nil)
	passes := []*pass{g.apply(greedy), g.apply(other)}
	passes[0].hasten(&Session{})
	first.leave()
	wantGranted(t, "hastened", passes, true, false)
}

func TestWhoGivesUpWaitingLeavesNothing(t *testing.T) {
	g := newTestGate(1)
	s := &Session{}
	first := g.apply(s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.apply(&Session{}).await(ctx); err == nil {
		t.Error("a read that did not begin has no error")
	}
	late := g.apply(&Session{})
	first.leave()
	if err := late.await(ctx); err != nil { // granted and given up at the same time
		late = nil
	}
	if late != nil {
		late.leave()
	}
	if g.places != 1 || len(g.waiting) != 0 || len(g.asking) != 0 {
		t.Errorf("in the end there are %d places, %d wait, %d read", g.places, len(g.waiting), len(g.asking))
	}
}
