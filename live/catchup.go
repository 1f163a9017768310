package live

import (
	"sync/atomic"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// A subscription to a topic with history is in one of two states. Live: each publication
// is queued for the client as it comes. Catching up: the client has missed publications,
// because it was away or reads too slowly. Then no publication is queued for it as it comes.
// A cursor holds the position up to which the client was sent everything, and the session
// reads on from there, in parts of about 32 KB, whenever the client's queue has space. When
// the cursor reaches the topic's newest position, the subscription is live again.
//
// So what waits for a client is bounded, however much it has missed, and nothing is lost
// as far as the history reaches. If that is trimmed faster than the client reads, it is
// told of a gap.
//
// Each session has at most one goroutine for this. It serves all subscriptions that catch
// up, in turn, and ends when there are none.

// cursor is how far a subscription that catches up has come. It is guarded by topic.mu.
// Only the goroutine that catches up changes upto, and uses newest, limit, failures and waited, so it
// needs no lock for them.
type cursor struct {
	at        Position // everything up to here was queued for the client
	upto      uint64   // publications up to here answer the client, and are marked as recovered
	newest    bool     // what lies before the first publication is no loss for the client
	gap       bool     // the client must be told of a gap before the next publication
	skipOld   bool     // the topic drops publications: send only the newest
	heldBytes int      // of the publication that a topic without history keeps for the subscription; see hold

	reply     replyFunc     // nil: no reply is due
	recovered bool          // for reply
	listed    bool          // the reply carries the first publications; false: only the position
	replied   chan struct{} // closed when the reply was queued, or will not be sent
	answered  atomic.Bool   // the reply was queued

	stateReply stateReply // not nil: the state is sent first, and the reply with it
	elseState  stateReply // not nil: if the publications before the reply are lost, the state is sent instead
	begun      bool       // a piece of the state was queued
	failed     error      // why there is no state; set before replied is closed

	sweep sweep // of a keyed topic; at is then the position up to which the client has everything

	page     []*broker.Publication // the publications after at, if they were read already
	limit    int                   // how many publications to ask for; 0: firstPage
	failures int                   // reads in a row that brought nothing
	waited   bool                  // another session has made its own next part, which cannot be shared
}

// behindSet holds the subscriptions of a session that catch up. It is guarded by
// Session.mu.
type behindSet struct {
	queue   []*subscription
	running bool // a goroutine catches up
}

// fallBehind makes a subscription catch up from a cursor; topic.mu is held. If it returns
// true, the caller must start the session's goroutine: it unlocks topic.mu and then calls
// startCatchUp, or starts catchUp in a new goroutine at once.
func (ts *topics) fallBehind(sub *subscription, c *cursor) (start bool) {
	if sub.cursor == nil {
		ts.catchingUp.Add(1)
		sub.session.catchingUp.Add(1)
		sub.topic.countBehind(1)
	} else {
		sub.cursor.finishReply()
		c.heldBytes = sub.cursor.heldBytes
	}
	sub.cursor = c
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
	s.server.running.Add(1) // safe: the session's leave goroutine is still counted, so running is not 0
	return true
}

func (set *behindSet) add(sub *subscription) {
	if !sub.queued {
		sub.queued = true
		set.queue = append(set.queue, sub)
	}
}

// countBehind counts the subscriptions that catch up: by is 1 for one more, -1 for one less;
// mu is held.
func (t *topic) countBehind(by int) {
	t.behindCount += by
	if t.feed != nil {
		t.feed.widened = t.behindCount > 0
	} else if t.behindCount == 0 {
		t.newest = nil
	}
}

// hold notes the size of the publication that a topic without history keeps for a subscription
// which is behind. A client may have as many topics as it likes. So for all of them together a
// session may have the bytes of one queue, or one publication. A session that needs more is
// closed. topic.mu is held.
func (ts *topics) hold(sub *subscription, bytes int) {
	s, c := sub.session, sub.cursor
	all := s.newestBytes.Add(int64(bytes - c.heldBytes))
	c.heldBytes = bytes
	if bytes > 0 && all > int64(max(s.server.opts.QueueBytes, bytes)) {
		s.closeForFullQueue()
	}
}

// finishReply ends the wait for the reply.
func (c *cursor) finishReply() {
	if c.reply != nil {
		c.reply = nil
		close(c.replied)
	}
}

// goLive ends the catching up of a subscription. It does nothing if the subscription is live.
// topic.mu is held.
func (ts *topics) goLive(sub *subscription) {
	if sub.cursor != nil {
		ts.hold(sub, 0)
		sub.cursor.finishReply()
		sub.cursor = nil
		sub.session.catchingUp.Add(-1)
		if ts.catchingUp.Add(-1) == 0 {
			ts.shared.clear()
		}
		sub.topic.countBehind(-1)
	}
}

// startCatchUp starts the goroutine for a subscription whose fallBehind asked for it. It sends
// the first part before it returns, if there is space and the broker need not be asked. What
// an application sends next then comes after that part.
func (s *Session) startCatchUp() {
	if s.out.HalfFree() != nil {
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
	handedOver := false
	defer func() {
		if !handedOver { // something has ended this goroutine
			s.server.running.Done()
		}
	}()
	if sub.canSendFromMemory() {
		wait = s.sendPart(sub, &p)
	}
	handedOver = true
	go func() { // ends like catchUp
		s.finishPart(sub, &p, wait)
		s.catchUp()
	}()
}

// canSendFromMemory reports whether the subscription's next part can be made without asking
// the broker.
func (sub *subscription) canSendFromMemory() bool {
	t := sub.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	c, feed := sub.cursor, t.feed
	if c != nil && c.stateReply != nil {
		return false
	}
	return c == nil || feed == nil || feed.keys != nil || len(c.page) > 0 || c.at.Epoch != feed.at.Epoch || c.at.Offset >= feed.ringAfter
}

// catchUp sends part after part, for each subscription in turn.
func (s *Session) catchUp() {
	defer s.server.running.Done()
	for s.awaitHalfFree() == nil {
		sub := s.nextBehind()
		if sub == nil {
			return
		}
		if c := sub.awaitedState(); c != nil {
			s.sendState(sub, c)
			s.requeue(sub)
			continue
		}
		var p part
		s.finishPart(sub, &p, s.sendPart(sub, &p))
	}
}

// sendPart makes the next part, and queues and writes it if there is space; see deliver.
func (s *Session) sendPart(sub *subscription, p *part) (wait <-chan struct{}) {
	ts := s.server.topics
	ts.startMaking()
	defer ts.stopMaking()
	*p = ts.nextPart(s, sub)
	return s.deliver(sub, p)
}

// redeliver is deliver for a part that has waited.
func (s *Session) redeliver(sub *subscription, p *part) (wait <-chan struct{}) {
	ts := s.server.topics
	ts.startMaking()
	defer ts.stopMaking()
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
	if sub.cursor == nil {
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
// there other topics' publications would wait behind the parts of all that catch up.
func (s *Session) deliver(sub *subscription, p *part) (wait <-chan struct{}) {
	var ready outbox.List
	wait = s.queuePart(sub, p, &ready)
	s.server.writers.WriteHere(&ready)
	return wait
}

// queuePart does what deliver does, except writing. topic.mu is held throughout, so nothing
// of the topic is queued after an Unsubscribe has returned.
func (s *Session) queuePart(sub *subscription, p *part, ready *outbox.List) (wait <-chan struct{}) {
	sub.topic.mu.Lock()
	defer sub.topic.mu.Unlock()
	c := p.cursor
	if c == nil || sub.cursor != c { // replaced, or left
		return nil
	}
	if p.sweep != nil && p.sweep.isLost(sub.topic.feed) {
		return nil // the next part finds out
	}
	if p.last { // more may have come since it was made
		*p = s.server.topics.newestPart(s, sub)
	}
	if p.frame != nil {
		if sub.topic.tag != nil {
			s.out.Settle(sub.topic.tag)
		}
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
	}
	if p.sweep != nil {
		c.sweep = *p.sweep
		if p.complete && p.change == sub.topic.feed.keys.changes && c.reply == nil {
			s.server.topics.goLive(sub)
		}
		return nil
	}
	if feed := sub.topic.feed; p.last || feed != nil && c.at == feed.at && !c.gap && c.reply == nil {
		s.server.topics.goLive(sub)
	}
	return nil
}

// finishPart waits until the part is queued, counts it for the client's rate if it is part of
// an answer, and puts the subscription back into the queue.
func (s *Session) finishPart(sub *subscription, p *part, wait <-chan struct{}) {
	for wait != nil {
		if s.await(wait) != nil {
			return
		}
		wait = s.redeliver(sub, p)
	}
	if p.answer {
		s.payForAnswer(p.data)
	}
	s.requeue(sub)
}
