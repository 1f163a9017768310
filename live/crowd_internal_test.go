package live

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

	previous, q := ts.newQuestion(), ts.newQuestion()
	q.waiters = 1
	asked, answer := make(chan struct{}), make(chan struct{})
	go ts.askInOrder(topic, &q, &previous, g, later(100*time.Second), func(context.Context) error { // ends when q is answered
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

// slowToRead is a history whose answers are always the same.
type slowToRead struct{ broker.Recoverer }

var answerOfSlow = Position{Epoch: "e", Offset: 9}

func (slowToRead) Last(context.Context, string) (Position, error) { return answerOfSlow, nil }

func (slowToRead) Read(context.Context, string, uint64, uint64, int) (broker.Page, error) {
	return broker.Page{Epoch: "e", Upto: 9, Complete: true}, nil
}

func (slowToRead) Tail(context.Context, string, int) (broker.Page, error) {
	return broker.Page{Epoch: "e", Upto: 9, Complete: true}, nil
}

// sharedQuestions are the questions that sessions of a topic share. Each asks one, and returns its error.
var sharedQuestions = map[string]func(ctx context.Context, ts *topics, t *topic, s *Session) error{
	"for the newest position": func(ctx context.Context, ts *topics, t *topic, s *Session) error {
		_, err := ts.endOf(ctx, t, subscribing{session: s})
		return err
	},
	"for what follows a position": func(ctx context.Context, ts *topics, t *topic, s *Session) error {
		_, err := ts.pageSince(ctx, t, subscribing{session: s}, func(ctx context.Context, q *sinceQuestion) (broker.Page, error) {
			return ts.recover.Read(ctx, t.name, q.after, q.upto, q.limit)
		})
		return err
	},
	"for the newest publications": func(ctx context.Context, ts *topics, t *topic, s *Session) error {
		_, err := ts.tail(ctx, t, subscribing{session: s, last: 5}, false)
		return err
	},
}

// questionTopic returns a topic with history, and a gate with one place in front of its broker.
func questionTopic(t *testing.T) (ts *topics, top *topic, g *gate) {
	g = newTestGate(1)
	ts = &topics{recover: slowToRead{}, reads: g, lookups: g}
	ts.life, ts.end = context.WithCancel(t.Context())
	t.Cleanup(ts.end)
	top = &topic{name: "t", feed: newFeed(TopicOptions{History: 10})}
	ts.reset(top.feed, answerOfSlow)
	return ts, top, g
}

// asks asks a question for a session, which waits for a time at most. The error comes on the channel.
func asks(t *testing.T, ts *topics, top *topic, s *Session, most time.Duration, ask func(ctx context.Context, ts *topics, t *topic, s *Session) error) <-chan error {
	result := make(chan error, 1)
	go func() { // ends when most is over
		ctx, cancel := context.WithTimeout(t.Context(), most)
		defer cancel()
		top.mu.Lock()
		defer top.mu.Unlock()
		result <- ask(ctx, ts, top, s)
	}()
	return result
}

// A question waits so long for its turn that the session that came first gives up. A session that came
// later has time left, and is answered.
func TestSessionsThatShareAQuestionHaveEachTheirOwnTime(t *testing.T) {
	for name, ask := range sharedQuestions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ts, top, g := questionTopic(t)
				busy := g.apply(&Session{})
				first := asks(t, ts, top, &Session{}, brokerTimeout, ask)
				time.Sleep(brokerTimeout - time.Second)
				second := asks(t, ts, top, &Session{}, brokerTimeout, ask)
				if err := <-first; !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the session that came first: %v", err)
				}
				time.Sleep(time.Second)
				busy.leave()
				if err := <-second; err != nil {
					t.Errorf("the session that came later: %v", err)
				}
			})
		})
	}
}

// When no session waits any more, a question gives its place in the queue up. A session that comes then
// is answered.
func TestQuestionThatNobodyWaitsForEnds(t *testing.T) {
	for name, ask := range sharedQuestions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ts, top, g := questionTopic(t)
				busy := g.apply(&Session{})
				for range 3 {
					if err := <-asks(t, ts, top, &Session{}, time.Second, ask); !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					synctest.Wait()
					if len(g.waiting) > 0 {
						t.Error("the question still waits for its turn")
					}
				}
				later := asks(t, ts, top, &Session{}, time.Second, ask)
				synctest.Wait()
				busy.leave()
				if err := <-later; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A session comes at the moment when the last of the others has given up. It needs another question.
func TestSessionComesWhenTheOthersGiveUp(t *testing.T) {
	for name, ask := range sharedQuestions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ts, top, g := questionTopic(t)
				busy := g.apply(&Session{})
				time.AfterFunc(2*time.Second, busy.leave)
				second := asks(t, ts, top, &Session{}, brokerTimeout, func(ctx context.Context, ts *topics, top *topic, s *Session) error {
					brief, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					if err := ask(brief, ts, top, &Session{}); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("the session that came first: %v", err)
					}
					return ask(ctx, ts, top, s) // the topic was locked all the time
				})
				if err := <-second; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// hangsOnce is a history that does not answer its first question for the newest publications.
type hangsOnce struct {
	slowToRead
	asked atomic.Bool
	hang  func(ctx context.Context)
}

func (h *hangsOnce) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	if h.asked.CompareAndSwap(false, true) {
		h.hang(ctx)
		return broker.Page{}, ctx.Err()
	}
	return h.slowToRead.Tail(ctx, topic, limit)
}

// A session waits for a question that was asked before the session came. The question fails, and the
// session asks again.
func TestSessionOutlivesAQuestionOfBefore(t *testing.T) {
	for name, hang := range map[string]func(ctx context.Context){
		"the broker does not answer":    func(ctx context.Context) { <-ctx.Done() },
		"the broker ends its goroutine": func(context.Context) { time.Sleep(brokerTimeout); runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ts, top, _ := questionTopic(t)
				ts.recover = &hangsOnce{hang: hang}
				ask := sharedQuestions["for the newest publications"]
				first := asks(t, ts, top, &Session{}, 2*brokerTimeout, ask)
				time.Sleep(brokerTimeout - time.Second)
				second := asks(t, ts, top, &Session{}, brokerTimeout, ask)
				if err := <-first; err == nil {
					t.Error("the session that came first has an answer")
				}
				if err := <-second; err != nil {
					t.Errorf("the session that came later: %v", err)
				}
			})
		})
	}
}

// A client asks one question after another, and its question for one topic is under way. Its question for
// another topic is also that of another session, which does not wait for the first.
func TestSharedQuestionDoesNotWaitForTheOtherOfOneSession(t *testing.T) {
	g := newTestGate(2)
	busy := &Session{}
	passes := []*pass{g.apply(busy), g.apply(busy)}
	passes[1].hasten(busy)
	wantGranted(t, "when only that session waits", passes, true, false)
	passes[1].hasten(&Session{})
	wantGranted(t, "when another session waits", passes, true, true)
	passes[1].leave()
	passes = append(passes, g.apply(busy))
	wantGranted(t, "the first is still under way", passes, true, true, false)
	passes[0].leave()
	passes[2].leave()
	if g.places != 2 || len(g.waiting) != 0 || len(g.asking) != 0 {
		t.Errorf("in the end there are %d places, %d wait, %d read", g.places, len(g.waiting), len(g.asking))
	}
}
