package live

import (
	"testing"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// A client asks for the state while it catches up, between two steps of its session's goroutine. The next
// part does not answer it: the state does.
func TestNoPartAnswersAClientThatWaitsForTheState(t *testing.T) {
	tp := &topic{name: "t", feed: newFeed(TopicOptions{}), opts: TopicOptions{Overflow: OverflowCatchUp}}
	sub := &subscription{topic: tp, cursor: &cursor{
		reply:      func(Position, bool, []byte) *frame.Frame { t.Error("it was answered"); return nil },
		stateReply: func(Position, []byte, bool, bool) *frame.Frame { return nil },
	}}
	if p := new(topics).nextPart(new(Session), sub); p.cursor != nil || p.frame != nil {
		t.Errorf("the part is %+v", p)
	}
	if !tp.mu.TryLock() {
		t.Error("the topic is still locked")
	}
}
