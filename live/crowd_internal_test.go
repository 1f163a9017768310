package live

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// A client that asks without end is the first to ask a question while another is under way. A client that
// seldom asks then joins the question, which gets the turn of that client.
func TestSharedQuestionTakesTheEarliestTurn(t *testing.T) {
	ts, topic, g := &topics{}, &topic{}, newTestGate(1)
	ts.life, ts.end = context.WithCancel(t.Context())
	defer ts.end()
	later := func(d time.Duration) *Session { return &Session{readUntil: clock.Now() + int64(d)} }
	busy := g.apply(&Session{})

	previous, q := &question{done: make(chan struct{})}, &question{done: make(chan struct{})}
	asked, answer := make(chan struct{}), make(chan struct{})
	go ts.askInOrder(topic, q, previous, g, later(100*time.Second), func(context.Context) error { // ends when q is answered
		close(asked)
		<-answer
		return nil
	}, func() {})
	topic.mu.Lock()
	if !q.join(&Session{}) {
		t.Error("a session cannot join a question that has not begun")
	}
	topic.mu.Unlock()
	close(previous.done)
	for applied := false; !applied; time.Sleep(time.Millisecond) {
		topic.mu.Lock()
		applied = q.pass != nil
		topic.mu.Unlock()
	}
	rival := g.apply(later(10 * time.Second))
	busy.leave()
	select {
	case <-asked:
	case <-rival.granted:
		t.Error("another session has asked first")
		rival.leave()
	}
	close(answer)
	<-q.done
	if q.err != nil {
		t.Error(q.err)
	}
}

// removalsUpto returns a page with the removal of each key from one offset up to another.
func removalsUpto(from, upto uint64) broker.Page {
	page := broker.Page{Epoch: "e", Upto: upto, Complete: true}
	for offset := from; offset <= upto; offset++ {
		page.Publications = append(page.Publications, removalAt(offset))
	}
	return page
}

func removalAt(offset uint64) *broker.Publication {
	return &broker.Publication{Key: string(rune(offset)), Removed: true, Position: Position{Epoch: "e", Offset: offset}}
}

// A crowd has missed more removals than the table of a keyed topic may remember. One question shows that,
// and the removals that the table remembers stay.
func TestTableThatIsFullForgetsNoRemovalForAnOlderOne(t *testing.T) {
	for name, c := range map[string]struct {
		remembered, found      uint64 // removals
		forgottenUpto, lostAll uint64 // after the answer
	}{
		"there is space for all":  {minRemoved - 100, 100, 0, 0},
		"there is space for some": {minRemoved - 100, 150, 50, 50},
		"there is no space":       {minRemoved, 150, 150, 150},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(TopicOptions{Keyed: true})
			f.generation, f.at = 1, Position{Epoch: "e", Offset: c.found + c.remembered}
			f.keys = newKeyTable(c.found)
			for i := range c.remembered {
				f.keys.put(removalAt(c.found + 1 + i))
			}
			q := &sinceQuestion{waiting: []uint64{0, c.found / 2}}
			q.begin(f)
			q.page = removalsUpto(1, c.found)
			q.end(f, nil)
			if f.keys.forgottenUpto != c.forgottenUpto {
				t.Errorf("the table has forgotten removals up to %d, want %d", f.keys.forgottenUpto, c.forgottenUpto)
			}
			missing := slices.DeleteFunc(removalsUpto(c.forgottenUpto+1, f.at.Offset).Publications, func(p *broker.Publication) bool { return f.keys.find(p.Key) != nil })
			if len(missing) > 0 {
				t.Errorf("the table lacks %d removals, the first at %d", len(missing), missing[0].Offset)
			}
			known := f.crowd.current(f)
			if c.lostAll > 0 && !known.isLost(c.lostAll-1) || known.isLost(c.lostAll) {
				t.Errorf("clients before %d are lost, want those before %d", known.lostBefore, c.lostAll)
			}
		})
	}
}

// A client sends a position with a long epoch. The topic does not hold that text.
func TestTopicHoldsNoLongEpochOfAClient(t *testing.T) {
	var c crowd
	sent := strings.Repeat("left", 1<<10)
	c.noteDead(sent)
	if len(c.deadEpoch) > maxDeadEpoch {
		t.Errorf("the topic holds an epoch of %d bytes", len(c.deadEpoch))
	}
	epoch := sent[:maxDeadEpoch]
	if c.noteDead(epoch); !c.isDead(epoch) {
		t.Error("a short epoch that the history has left is not known")
	}
	if unsafe.StringData(c.deadEpoch) == unsafe.StringData(sent) {
		t.Error("the topic holds the whole text that the client has sent")
	}
}

// tableOf is the history of a keyed topic that has both a value and a removal at each offset.
type tableOf struct{ broker.Recoverer }

func (tableOf) Read(_ context.Context, _ string, after, upto uint64, _ int) (broker.Page, error) {
	page := removalsUpto(after+1, min(after+10, upto))
	for _, p := range page.Publications {
		page.Publications = append(page.Publications, &broker.Publication{Key: "value", Data: []byte("1"), Position: p.Position})
	}
	return page, nil
}

// A question for removals holds no values, of which a table may have many.
func TestQuestionForRemovalsHoldsNoValues(t *testing.T) {
	ts := &topics{recover: tableOf{}}
	page, err := ts.readRemovals(t.Context(), "t", &sinceQuestion{upto: 25})
	if err != nil || !page.Complete || page.Upto != 25 || len(page.Publications) != 25 {
		t.Fatalf("%d publications up to %d, complete: %v, %v", len(page.Publications), page.Upto, page.Complete, err)
	}
	for _, p := range page.Publications {
		if !p.Removed {
			t.Error("a value is held")
		}
	}
}
