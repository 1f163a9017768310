package live

import (
	"context"
	"fmt"

	"github.com/livetopic/livetopic/live/broker"
)

// The newest publications of a topic are for clients that come for the first time. A feed begins
// with an empty ring. The first client that asks has it filled from the broker's history, and the
// others are answered from the ring. So a thousand clients that come at once cost the broker one
// question.

// tailCall is a question to the broker for a topic's newest publications, under way or answered.
// All sessions that need the same publications wait for it.
type tailCall struct {
	question
	limit int
	page  broker.Page // the answer; set before done is closed
}

// newest finds where the newest publications begin, o.last at most. The result is marked as
// recovered, since a client that comes for the first time has missed nothing.
func (ts *topics) newest(ctx context.Context, t *topic, o subscribing) (begin beginning, retry bool, err error) {
	n := o.last
	read := 0
	if !t.feed.reaches(n) {
		call, err := ts.tail(ctx, t, o, false)
		if err == nil && call.limit > n && call.page.Upto < t.feed.ringAfter && cutForSize(call.page) {
			// The page was cut before the place where the newest n begin.
			call, err = ts.tail(ctx, t, o, true)
		}
		if err != nil {
			return beginning{}, false, fmt.Errorf("live: topic %q: %w", t.name, err)
		}
		page := call.page
		read = bytesOf(page.Publications)
		feed := t.feed
		switch {
		case page.Epoch != feed.at.Epoch:
			ts.startRepair(t)                                    // the history began anew, unnoticed,
			ts.unlocked(t, func() { sleep(ctx, lagBackoff(1)) }) // or the copy that answered lags
			return beginning{}, true, ctx.Err()
		case page.Upto >= feed.ringAfter:
			// The ring was warmed.
		case !cutForSize(page):
			ts.unlocked(t, func() { sleep(ctx, lagBackoff(1)) })
			return beginning{}, true, ctx.Err()
		}
		if !feed.reaches(n) { // they do not fit in the ring, or are all that there is
			from := Position{Epoch: feed.at.Epoch, Offset: feed.startOf(page.Publications, n)}
			return beginning{at: feed.at, from: from, recovered: true, newest: true, read: read}, false, nil
		}
	}
	feed := t.feed
	i := feed.indexOfLast(n)
	from := Position{Epoch: feed.at.Epoch, Offset: feed.ringAfter}
	if i > 0 {
		from.Offset = feed.ring[i-1].Offset
	}
	if i == len(feed.ring) {
		from = feed.at
	}
	return beginning{at: feed.at, from: from, recovered: true, newest: true, read: read}, false, nil
}

// cutForSize reports why a page of a Tail ends before the newest publication: true: because it is
// large; false: because the copy of the history that answered lags.
func cutForSize(page broker.Page) bool {
	bytes := 0
	for _, p := range page.Publications {
		bytes += len(p.Data)
	}
	return bytes >= broker.MinTailBytes
}

// tail asks the broker for the newest publications: for o.last, or for more if exactly is false.
// There is one call at a time, and the other sessions wait for it. The topic is locked before and
// after, and not meanwhile.
func (ts *topics) tail(ctx context.Context, t *topic, o subscribing, exactly bool) (*tailCall, error) {
	n, paid := o.last, !o.pays
	for {
		call, late := t.feed.tail, false
		switch {
		case call != nil:
			late = !call.join(o.session)
		case !paid:
			paid = true
			ts.unlocked(t, func() { ts.payForQuestion(o.session, questionUnits) })
			continue
		default:
			limit := n
			if !exactly {
				limit = min(max(n, t.feed.size), maxNewest)
			}
			call = ts.askForTail(t, o.session, limit)
		}
		err := ts.awaitAnswer(ctx, t, &call.question)
		if err == nil && call.err != nil && late {
			continue // the call began before the session came, and its time was over sooner
		}
		if err == nil {
			err = call.err
		}
		if err != nil || call.limit == n || call.limit > n && !exactly {
			return call, err
		}
	}
}

// askForTail begins a call. It runs in a goroutine of its own. So the other sessions get the answer even
// if the session that asked first has ended. topic.mu is held.
func (ts *topics) askForTail(t *topic, s *Session, limit int) *tailCall {
	call := &tailCall{question: ts.newQuestion(), limit: limit}
	t.feed.tail = call
	ask := func(ctx context.Context) (err error) {
		call.page, err = ts.recover.Tail(ctx, t.name, limit)
		return err
	}
	answered := func() {
		if call.err == nil && t.feed.joins(call.page) {
			t.feed.warm(call) // before anybody asks again
		}
		t.feed.tail = nil
	}
	go ts.askInOrder(t, &call.question, nil, ts.reads, s, ask, answered) // ends with the broker's answer, or brokerTimeout after its turn, or when no session waits for the turn
	return call
}
