package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
// come within stateLife after it: they get the state, and a few more publications after it.

const (
	// maxSnapshots is how many states a server asks the application for at the same time. A state
	// is a query to a database as a rule. A pool of connections has about as many.
	maxSnapshots = 8

	// snapshotTimeout ends the context of a Snapshot. live.js waits as long for an answer, and
	// then asks again.
	snapshotTimeout = 10 * time.Second

	// snapshotGrace is how long a Snapshot may go on after its context has ended. A Snapshot that
	// heeds its context needs less. After that the clients are told that there is no state. The
	// Snapshot counts for maxSnapshots until it returns.
	snapshotGrace = time.Second

	// stateLife is how long a state is kept for clients that come later. With one second, ten
	// thousand clients that come at once cost a handful of calls of Snapshot.
	stateLife = time.Second

	// maxStateBytes bounds the bytes of the states that a server keeps for later clients: 64 MiB
	// are 64 topics with a state of a megabyte each. A state beyond the bound is not kept. Only the
	// clients that wait for it get it.
	maxStateBytes = 64 << 20

	// snapshotHistory is the History of a topic that has a Snapshot, and whose History is 0. It
	// holds the publications that come while a state is made and sent, and those of a short
	// absence.
	snapshotHistory = 256
)

// snapshots has what all calls of Snapshot at a server share.
type snapshots struct {
	asking chan struct{} // holds one element for each call that runs
	kept   atomic.Int64  // bytes of the states that are kept for later clients
}

// topicState is a state of a topic, or the call of Snapshot that will return it.
type topicState struct {
	at   Position      // the topic's position before the call; what was published after it follows the state
	done chan struct{} // closed when the fields below are set

	data []byte // JSON
	err  error  // why there is no state; nil: data is the state
}

// isDone reports whether the call has ended.
func (st *topicState) isDone() bool {
	select {
	case <-st.done:
		return true
	default:
		return false
	}
}

// isFresh reports whether a client that comes now may be sent a state that was made before. It does
// not check the age: dropState removes a state that is too old.
func (st *topicState) isFresh(f *feed) bool { return st.err == nil && st.joins(f) }

// joins reports whether the feed's ring has all publications after the state.
func (st *topicState) joins(f *feed) bool {
	return st.at.Epoch == f.at.Epoch && st.at.Offset >= f.ringAfter
}

// stateOf returns a state of a topic. It waits for the call of Snapshot that is under way, or begins
// one. By then the feed's ring may not reach back to the state any more. The topic is locked before
// and after, and not meanwhile. The error wraps ErrSnapshot, or is that of ctx.
func (ts *topics) stateOf(ctx context.Context, t *topic) (*topicState, error) {
	st := t.state
	if st == nil || st.isDone() && !st.isFresh(t.feed) {
		st = &topicState{at: t.feed.at, done: make(chan struct{})}
		t.state = st
		t.pins++
		go ts.askForState(t, st) // ends when Snapshot returns, or snapshotGrace after its context has ended
	}
	if err := ts.await(ctx, t, st.done); err != nil {
		return nil, err
	}
	return st, st.err
}

// askForState calls Snapshot, tells the waiting clients, and keeps the state for later clients.
func (ts *topics) askForState(t *topic, st *topicState) {
	if st.data, st.err = ts.snapshots.ask(ts, t); st.err != nil {
		ts.counters.snapshotsFailed.Add(1)
	}
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

// ask calls the Snapshot of a topic when it is its turn, and returns the state as JSON. The error
// wraps ErrSnapshot.
func (sn *snapshots) ask(ts *topics, t *topic) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ts.life, snapshotTimeout)
	select {
	case sn.asking <- struct{}{}:
	case <-ctx.Done():
		cancel()
		return nil, fmt.Errorf("%w: %q: it waited for %d others: %w", ErrSnapshot, t.name, maxSnapshots, sn.overdue(ts))
	}
	ts.counters.snapshots.Add(1)
	began := time.Now()
	answered := make(chan struct{})
	var state any
	err := errSnapshotPanicked // replaced if Snapshot returns
	go func() {                // ends when Snapshot returns
		defer func() {
			ts.counters.snapshotTime.Add(time.Since(began))
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
		case <-answered: // Snapshot heeds its context
		case <-time.After(snapshotGrace):
			ts.server.logOfClient(slog.LevelWarn, "live: a Snapshot goes on after its context has ended", "topic", t.name)
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

// overdue returns why the context of a Snapshot has ended: with the server, or after snapshotTimeout.
func (sn *snapshots) overdue(ts *topics) error {
	if ts.life.Err() != nil {
		return ErrServerClosed
	}
	return context.DeadlineExceeded
}

var errSnapshotPanicked = errors.New("it panicked")

// marshalState returns a state as JSON; nil becomes null.
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

// wantsState reports whether a subscription begins with the topic's state, unless the history has
// everything after the client's position.
func (t *topic) wantsState(o *subscribing) bool { return t.opts.Snapshot != nil && o.stateReply != nil }

// elseState returns what answers a client if the history has lost some of the publications that the
// client has missed; nil: the topic has no state, or the client has not asked for it.
func (t *topic) elseState(o *subscribing) stateReply {
	if t.wantsState(o) {
		return o.stateReply
	}
	return nil
}

// stateReply makes a frame of the answer to a client's subscribe that carries the topic's state. If
// complete is true, text is the whole state. If not, text is a piece of it, and last is true for the
// last piece.
type stateReply func(at Position, text []byte, complete, last bool) *frame.Frame

// awaitedState returns the cursor of a subscription whose client must be sent the state; nil: the
// client waits for no state.
func (sub *subscription) awaitedState() *cursor {
	sub.topic.mu.Lock()
	defer sub.topic.mu.Unlock()
	if c := sub.cursor; c != nil && c.stateReply != nil {
		return c
	}
	return nil
}

// sendState answers a client with the state, in pieces if the state is large. Then it moves the cursor
// to the state's position. Publications of other topics go out between the pieces. A session sends
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
func (s *Session) putState(sub *subscription, c *cursor, st *topicState, text []byte, complete, last bool) bool {
	if s.awaitHalfFree() != nil {
		return false
	}
	f := c.stateReply(st.at, text, complete, last)
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

// tryPutState queues one frame of a state. If there is no space, wait is closed when there is some.
// waiting is false if the subscription no longer waits for the state, or the session has ended.
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

// refuseState ends a subscription that cannot get its state.
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
