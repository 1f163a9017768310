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
	limit int
	pass  *pass         // for the read; nil: none is needed
	done  chan struct{} // closed when what follows is there
	page  broker.Page
	err   error
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
		call := t.feed.tail
		if call == nil && !paid {
			paid = true
			ts.unlocked(t, func() { ts.payForQuestion(o.session, questionUnits) })
			continue
		}
		if call == nil {
			limit := n
			if !exactly {
				limit = min(max(n, t.feed.size), maxNewest)
			}
			call = &tailCall{limit: limit, done: make(chan struct{})}
			if !ts.inProcess {
				call.pass = ts.reads.apply(o.session)
			}
			t.feed.tail = call
			go ts.ask(t, call) // ends with the broker's answer, or twice brokerTimeout
		} else if call.pass != nil {
			call.pass.hasten(o.session)
		}
		err := ts.await(ctx, t, call.done)
		if err == nil {
			err = call.err
		}
		if err != nil || call.limit == n || call.limit > n && !exactly {
			return call, err
		}
	}
}

// ask runs in a goroutine of its own. So the other sessions get the answer even if the session that
// asked first has ended.
func (ts *topics) ask(t *topic, call *tailCall) {
	call.page, call.err = ts.askWithPass(t, call)
	t.mu.Lock()
	defer t.mu.Unlock()
	if call.err == nil && t.feed.joins(call.page) {
		t.feed.warm(call) // before anybody asks again
	}
	t.feed.tail = nil
	close(call.done)
}

func (ts *topics) askWithPass(t *topic, call *tailCall) (broker.Page, error) {
	if p := call.pass; p != nil {
		ctx, cancel := context.WithTimeout(ts.life, brokerTimeout)
		defer cancel()
		if err := p.await(ctx); err != nil {
			return broker.Page{}, err
		}
		defer p.leave()
	}
	ctx, cancel := context.WithTimeout(ts.life, brokerTimeout)
	defer cancel()
	return ts.recover.Tail(ctx, t.name, call.limit)
}
