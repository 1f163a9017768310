package live

import (
	"sync/atomic"

	"github.com/livetopic/livetopic/live/internal/outbox"
)

// A subscription to a topic with history is live, or it catches up. Live, it gets each
// publication as it comes. When it has missed some, because its client was away or takes
// too little, it has a cursor instead of a queue: the position up to which everything is
// on its way to the client. The session then reads on in the history at the client's
// pace, in parts of some tens of kilobytes, each made when there is space for it. Where
// the cursor meets the topic's newest position the subscription is live again.
//
// So what waits for a client is bounded, however much it has missed, and nothing is lost
// as far as the history reaches. If that is trimmed faster than the client reads, it is
// told of a gap.
//
// One goroutine of a session catches up for all its subscriptions in turn, and exists
// only while there are such.

// cursor is how far a subscription that catches up has come. It is guarded by topic.mu;
// at, newest, page and failures are changed by the goroutine that catches up only.
type cursor struct {
	at     Position // everything up to here is on its way
	upto   uint64   // what comes up to here answers the client, and is marked as recovered
	newest bool     // what lies before the first publication is not missed
	gap    bool     // the client must be told of a gap first
	skip   bool     // the topic drops publications: go on with the newest

	reply     replyFunc     // nil: none is due
	recovered bool          // for reply
	listed    bool          // reply has what follows
	replied   chan struct{} // closed when reply is on its way, or not due any more
	answered  atomic.Bool   // it is on its way

	page     []*Publication // what follows at, if it was read already
	limit    int            // how many publications to ask for; 0: firstPage
	failures int            // questions in a row that brought nothing
}

// behindSet is the subscriptions of a session that catch up. It is guarded by
// Session.mu.
type behindSet struct {
	queue   []*subscription
	running bool // a goroutine catches up
}

// fallBehind has a subscription go on from a cursor; topic.mu is held. It reports whether
// the caller must call startCatchUp, when topic.mu is free.
func (x *topics) fallBehind(sub *subscription, c *cursor) (start bool) {
	if sub.behind == nil {
		x.catchingUp.Add(1)
		sub.topic.countBehind(1)
	} else {
		sub.behind.finishReply()
	}
	sub.behind = c
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.behind.add(sub)
	if s.behind.running {
		return false
	}
	s.behind.running = true
	s.server.running.Add(1) // while its leaving counts
	return true
}

func (set *behindSet) add(sub *subscription) {
	if !sub.queued {
		sub.queued = true
		set.queue = append(set.queue, sub)
	}
}

// countBehind counts a subscription that falls behind, or does so no more; mu is held.
func (t *topic) countBehind(by int) {
	t.behind += by
	if t.feed != nil {
		t.feed.held = t.behind > 0
	} else if t.behind == 0 {
		t.newest = nil
	}
}

// finishReply ends the wait for the reply.
func (c *cursor) finishReply() {
	if c.reply != nil {
		c.reply = nil
		close(c.replied)
	}
}

// goLive ends a catching up; topic.mu is held.
func (x *topics) goLive(sub *subscription) {
	if sub.behind != nil {
		sub.behind.finishReply()
		sub.behind = nil
		if x.catchingUp.Add(-1) == 0 {
			x.shared.clear()
		}
		sub.topic.countBehind(-1)
	}
}

// startCatchUp starts the goroutine for a subscription whose fallBehind asked for it. It sends
// the first part before it returns, if there is space and the broker need not be asked: what
// an application sends next then comes after it.
func (s *Session) startCatchUp() {
	if s.out.Roomy() != nil {
		go s.catchUp() // ends when no subscription is behind, or with the session
		return
	}
	sub := s.nextBehind()
	if sub == nil {
		s.server.running.Done()
		return
	}
	var p part
	var wait <-chan struct{}
	if sub.isAtHand() {
		wait = s.sendPart(sub, &p)
	}
	go func() { // ends like catchUp
		s.finishPart(sub, &p, wait)
		s.catchUp()
	}()
}

// isAtHand reports whether what the subscription has missed can be had without a question to
// the broker.
func (sub *subscription) isAtHand() bool {
	t := sub.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	c, fd := sub.behind, t.feed
	return c == nil || fd == nil || c.page != nil || c.at.Epoch != fd.at.Epoch || c.at.Offset >= fd.low
}

// catchUp sends part after part, for each subscription in turn.
func (s *Session) catchUp() {
	defer s.server.running.Done()
	for s.awaitRoom() == nil {
		sub := s.nextBehind()
		if sub == nil {
			return
		}
		var p part
		s.finishPart(sub, &p, s.sendPart(sub, &p))
	}
}

// sendPart makes the next part, and queues and writes it if there is space; see deliver.
func (s *Session) sendPart(sub *subscription, p *part) (wait <-chan struct{}) {
	x := s.server.topics
	x.startMaking()
	defer x.stopMaking()
	*p = x.nextPart(s, sub)
	return s.deliver(sub, p)
}

// redeliver is deliver for a part that has waited.
func (s *Session) redeliver(sub *subscription, p *part) (wait <-chan struct{}) {
	x := s.server.topics
	x.startMaking()
	defer x.stopMaking()
	return s.deliver(sub, p)
}

// nextBehind takes the next subscription that is behind from the queue; nil: there is
// none, and the catching up ends.
func (s *Session) nextBehind() *subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := &s.behind
	if len(set.queue) == 0 || s.closed {
		*set = behindSet{}
		return nil
	}
	sub := set.queue[0]
	sub.queued = false
	set.queue[0] = nil
	set.queue = set.queue[1:]
	return sub
}

// requeue puts a subscription that is still behind at the end of the queue.
func (s *Session) requeue(sub *subscription) {
	sub.topic.mu.Lock()
	defer sub.topic.mu.Unlock()
	if sub.behind == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.behind.add(sub)
	}
}

// deliver queues a part and moves the cursor past it. If the queue has no space it does
// nothing and returns a channel to wait for. The part is written here, not by the writers:
// they would have other topics' publications wait behind the parts of all who catch up.
func (s *Session) deliver(sub *subscription, p *part) (wait <-chan struct{}) {
	var ready outbox.List
	wait = s.queuePart(sub, p, &ready)
	s.server.writers.WriteHere(&ready)
	return wait
}

// queuePart is deliver but for writing. topic.mu is held throughout, so nothing of the topic
// is queued after an Unsubscribe has returned.
func (s *Session) queuePart(sub *subscription, p *part, ready *outbox.List) (wait <-chan struct{}) {
	sub.topic.mu.Lock()
	defer sub.topic.mu.Unlock()
	c := p.cursor
	if c == nil || sub.behind != c { // replaced, or left
		return nil
	}
	if p.last { // more may have come since it was made
		*p = s.server.topics.newestPart(s, sub)
	}
	if p.frame != nil {
		if wait, err := s.out.AddOrWait(p.frame, ready); wait != nil || err != nil {
			return wait
		}
	}
	c.at, c.gap = p.at, p.gap
	if p.reply {
		c.answered.Store(true)
		c.finishReply()
	}
	if p.last {
		s.server.counters.gaps.Add(1)
		s.server.topics.goLive(sub)
	}
	return nil
}

// finishPart does what takes time after deliver, or until it succeeds.
func (s *Session) finishPart(sub *subscription, p *part, wait <-chan struct{}) {
	for wait != nil {
		if s.await(wait) != nil {
			return
		}
		wait = s.redeliver(sub, p)
	}
	if p.answer && p.frame != nil {
		s.payForAnswer(p.frame.Len())
	}
	s.requeue(sub)
}
