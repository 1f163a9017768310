package live

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
)

// The state of a topic that has TopicOptions.Snapshot. A client that subscribes without a
// position, or with a position that the history no longer reaches, gets the state and then every
// publication after it.
//
// The order makes that true. First the topic's position is noted. Then the application is asked
// for the state. The client then reads on after the noted position. A change that the state lacks
// is published later, so its position is greater.
//
// All clients that come while the application is asked share the answer. So do the clients that
// come shortly after: they only get more publications after it.

const (
	// maxSnapshots is how many states a server asks the application for at the same time. A state
	// is a query to a database as a rule, and a pool has about as many connections.
	maxSnapshots = 8

	// snapshotTimeout ends the context of a Snapshot. live.js waits as long for an answer, and
	// then asks again.
	snapshotTimeout = 10 * time.Second

	// snapshotGrace is how long a Snapshot may go on after its context has ended. Its clients are then
	// told that there is no state. It holds its place until it returns.
	snapshotGrace = time.Second

	// stateLife is how long a state is given to clients that come later. With one second, ten
	// thousand clients that come at once cost a handful of questions.
	stateLife = time.Second

	// maxStateBytes bounds the states that a server keeps for that, in bytes. A state beyond the
	// bound goes to the clients that wait for it.
	maxStateBytes = 64 << 20

	// snapshotHistory is the History of a topic that has a Snapshot and does not say how much it
	// keeps: the publications while a state is made and sent, and of a short absence.
	snapshotHistory = 256
)

// snapshots are the questions of a server to its application.
type snapshots struct {
	asking chan struct{} // holds as many as there are questions under way
	kept   atomic.Int64  // bytes of the states that are kept for later clients
}

// topicState is a state of a topic, or the question for it.
type topicState struct {
	at   Position      // the publications after it follow the state
	done chan struct{} // closed when the fields below are set

	data []byte // JSON
	err  error
}

// isDone reports whether the question was answered.
func (st *topicState) isDone() bool {
	select {
	case <-st.done:
		return true
	default:
		return false
	}
}

// isFresh reports whether a client that comes now may have a state that is there already. A state that
// is too old is not there any more.
func (st *topicState) isFresh(f *feed) bool { return st.err == nil && st.joins(f) }

// joins reports whether the feed has all publications after a state.
func (st *topicState) joins(f *feed) bool {
	return st.at.Epoch == f.at.Epoch && st.at.Offset >= f.ringAfter
}

// stateOf returns a state of a topic. More may have been published since than the feed holds. The
// topic is locked before and after, and not meanwhile. The error wraps ErrSnapshot, or is that of
// ctx.
func (ts *topics) stateOf(ctx context.Context, t *topic) (*topicState, error) {
	st := t.state
	if st == nil || st.isDone() && !st.isFresh(t.feed) {
		st = &topicState{at: t.feed.at, done: make(chan struct{})}
		t.state = st
		t.pins++
		go ts.askForState(t, st) // ends when the application answers, whose context ends
	}
	if err := ts.await(ctx, t, st.done); err != nil {
		return nil, err
	}
	return st, st.err
}

// askForState asks the application.
func (ts *topics) askForState(t *topic, st *topicState) {
	st.data, st.err = ts.snapshots.ask(ts, t)
	size := int64(len(st.data))
	t.mu.Lock()
	defer ts.unlock(t)
	t.pins--
	close(st.done)
	if st.err == nil && ts.snapshots.kept.Add(size) <= maxStateBytes {
		time.AfterFunc(stateLife, func() { ts.dropState(t, st, size) })
		return
	}
	if st.err == nil {
		ts.snapshots.kept.Add(-size)
	}
	t.state = nil
}

// dropState lets go of a state that was kept for later clients.
func (ts *topics) dropState(t *topic, st *topicState, size int64) {
	ts.snapshots.kept.Add(-size)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == st {
		t.state = nil
	}
}

// ask asks the application for the state of a topic.
func (sn *snapshots) ask(ts *topics, t *topic) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ts.life, snapshotTimeout)
	select {
	case sn.asking <- struct{}{}:
	case <-ctx.Done():
		cancel()
		return nil, fmt.Errorf("%w: %q: it waited for %d others: %w", ErrSnapshot, t.name, maxSnapshots, sn.overdue(ts))
	}
	ts.counters.snapshots.Add(1)
	answered := make(chan struct{})
	var state any
	err := errSnapshotPanicked // unless it returns
	go func() {                // ends when the application returns
		defer func() {
			close(answered)
			<-sn.asking
			cancel()
		}()
		ts.server.callSafely("Snapshot", "topic", t.name, func() { state, err = t.opts.Snapshot(ctx, t.name) })
	}()
	select {
	case <-answered:
	case <-ctx.Done():
		select {
		case <-answered: // as its context told it to
		case <-time.After(snapshotGrace):
			ts.server.opts.Logger.Warn("live: a Snapshot goes on after its context has ended", "topic", t.name)
			return nil, fmt.Errorf("%w: %q: %w", ErrSnapshot, t.name, sn.overdue(ts))
		}
	}
	var data []byte
	if err == nil {
		data, err = marshalState(state)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrSnapshot, t.name, err)
	}
	return data, nil
}

// overdue returns why a Snapshot has no more time.
func (sn *snapshots) overdue(ts *topics) error {
	if ts.life.Err() != nil {
		return ErrServerClosed
	}
	return context.DeadlineExceeded
}

var errSnapshotPanicked = errors.New("it panicked")

// marshalState returns a state as JSON. No value is null.
func marshalState(state any) ([]byte, error) {
	data, err := marshal(state)
	if err == nil && len(data) == 0 {
		return []byte("null"), nil
	}
	if err == nil {
		err = broker.CheckData(data)
	}
	return data, err
}

// wantsState reports whether a subscription begins with the topic's state, if its position is
// not to be had.
func (t *topic) wantsState(o *subscribing) bool { return t.opts.Snapshot != nil && o.stateReply != nil }

// stateReply makes a frame of the answer to a client's subscribe that carries the topic's state.
// A state that fits in one frame is whole. Else text is a piece of it, and last is true for the
// last piece.
type stateReply func(at Position, text []byte, whole, last bool) *frame.Frame

// awaitedState returns the cursor of a subscription whose client is to be sent the state; nil: it
// is not.
func (sub *subscription) awaitedState() *cursor {
	sub.topic.mu.Lock()
	defer sub.topic.mu.Unlock()
	if c := sub.cursor; c != nil && c.stateReply != nil {
		return c
	}
	return nil
}

// sendState sends the state that answers a client, in pieces if it is large, and moves the cursor
// to the state's position. Other topics' publications go on between the pieces. A session sends
// one state at a time, so it holds one at most.
func (s *Session) sendState(sub *subscription, c *cursor) {
	ts, t := s.server.topics, sub.topic
	t.mu.Lock()
	st, err := ts.stateOf(s.ctx, t)
	ts.unlock(t)
	if err != nil {
		s.refuseState(sub, c, err)
		return
	}
	if s.fitsInOneFrame(st.data) {
		s.putState(sub, c, st, st.data, true, true)
		return
	}
	for piece, last := range s.pieces(st.data) {
		if !s.putState(sub, c, st, piece, false, last) {
			return
		}
	}
}

// putState queues one frame of a state when there is space for it. It returns false if the
// subscription no longer waits for the state.
func (s *Session) putState(sub *subscription, c *cursor, st *topicState, text []byte, whole, last bool) bool {
	if s.awaitHalfFree() != nil {
		return false
	}
	f := c.stateReply(st.at, text, whole, last)
	for {
		wait, waiting := s.tryPutState(sub, c, st, f, last)
		if !waiting || wait == nil {
			return waiting
		}
		if s.await(wait) != nil {
			return false
		}
	}
}

func (s *Session) tryPutState(sub *subscription, c *cursor, st *topicState, f *frame.Frame, last bool) (wait <-chan struct{}, waiting bool) {
	t := sub.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	if sub.cursor != c {
		return nil, false
	}
	wait, err := s.tryPut(f)
	if wait != nil || err != nil {
		return wait, err == nil
	}
	c.begun = true
	if last {
		c.stateReply = nil
		c.at, c.upto, c.gap = st.at, t.feed.at.Offset, false
		c.answered.Store(true)
		c.finishReply() // the next part finds out whether the subscription is live
	}
	return nil, true
}

// refuseState ends a subscription whose state is not to be had.
func (s *Session) refuseState(sub *subscription, c *cursor, err error) {
	sub.topic.mu.Lock()
	current := sub.cursor == c
	if current {
		c.failed = err
	}
	sub.topic.mu.Unlock()
	if current {
		s.server.topics.unsubscribe(s, sub.topic.name) // which ends the client's wait
	}
}
