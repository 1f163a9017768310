package live

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// topics is the index from a topic's name to its subscribers.
//
// The order of locks in this package, outermost first:
//
//	nodes.sending               a channel; held while the bus takes a beat; no callback runs under it
//	Session.calls               held while a callback runs, which may take any of the locks below
//	history.mu                  of MemoryBroker; held while it delivers
//	pubSubBroker.deliveries[i]  held while the broker of FromPubSub delivers
//	topic.mu                    held while presence reads and tells what a topic's clients get
//	shard.mu
//	Session.mu                  held while SetPresence makes the session present
//	presenceState.mu            guards the table of package presence, which has no lock
//	listener.mu, presenceListener.mu
//	Server.mu
//
// Under each of these locks, one of the following may be taken. No other lock is taken under it:
//
//	MemoryBroker.mu     topic.mu is held when the server calls the broker's Unsubscribe
//	pubSubBroker.mu     the same
//	gate.mu
//	authQueue.mu        taken under Session.calls if a callback calls Stats, and under nodes.sending
//	publishRates.mu     taken under Session.calls
//	sharedParts.mu
//	inbound.mu
//	turns.mu            that of Session.calls; not held while a callback runs
//	broadcasts.mu       not held while the application's functions run
//	userChanges.mu      not held while a change is made
//	endRing.mu
//	nodes.mu            not held while a beat is sent
//	loglimit.Limiter.mu
//
// The locks of package outbox come last: writeWatch.mu before Box.mu. Writers.mu and Box.mu are
// never held together.
//
// Nothing is logged while topic.mu, or a lock below it, is held: a slog.Handler may publish.
type topics struct {
	server   *Server
	broker   Broker
	recover  broker.Recoverer // nil: the broker keeps no history
	writers  *outbox.Writers
	options  func(topic string) TopicOptions
	counters *counters

	life context.Context // ends with the broker: nothing is asked of it any more
	end  context.CancelFunc

	repairing chan struct{} // holds one element for each repair that asks the broker
	inProcess bool          // see broker.InProcess
	reads     *gate         // for questions of sessions: reads of a history
	lookups   *gate         // for questions of sessions: where a history ends
	making    chan struct{} // holds one element for each goroutine that makes a part
	shared    sharedParts
	snapshots snapshots
	sampler   sampler

	seed   maphash.Seed
	shards [shardCount]shard

	generations   atomic.Int64 // how many times a feed was begun so far
	count         atomic.Int64 // topics
	subscriptions atomic.Int64 // of all topics
	compressed    atomic.Int64 // open sessions with compression
	catchingUp    atomic.Int64 // subscriptions that catch up
}

// shardCount splits the index's lock: with 64, a thousand connections a second
// that each subscribe to ten topics seldom meet.
const shardCount = 64

type shard struct {
	mu     sync.RWMutex
	topics map[string]*topic // guarded by mu
	_      [64]byte          // keeps neighbours on different cache lines
}

// topic holds the subscribers of one name. It is in the index from its first subscriber to its
// last.
type topic struct {
	name     string
	envelope frame.Envelope
	opts     TopicOptions // Overflow is never OverflowDefault
	tag      *frame.Tag   // nil: the topic does not drop publications

	mu          sync.Mutex // held during a whole fan-out, so that all sessions see one order
	subs        []subscriber
	listeners   []*listener
	pins        int                 // calls under way that need the topic in the index
	published   uint64              // publications that have come
	ready       bool                // subscribed at the broker
	gone        bool                // no longer in the index
	waking      chan struct{}       // closed when the broker has answered; nil: nobody has asked
	feed        *feed               // nil: the topic keeps no history
	state       *topicState         // the newest; nil: there is no state that can be used again
	behindCount int                 // how many subscriptions of subs catch up
	newest      *broker.Publication // for subscriptions that catch up, if the topic keeps no history and drops publications
	watching    *watching           // nil: no session is told who is present
}

// subscriber is a subscription with its session's outbox beside it. A fan-out walks over
// subscribers, and need not load their sessions.
type subscriber struct {
	out *outbox.Box
	*subscription
}

// subscription is that of one session to one topic. It is in the topic's slice, at index, and in
// the session's set. It is added and removed with both locks held.
type subscription struct {
	topic   *topic
	session *Session
	index   int32 // in topic.subs; guarded by topic.mu
	wire    wire
	queued  bool    // in the session's behindSet; guarded by Session.mu
	cursor  *cursor // nil: live; guarded by topic.mu
}

func newTopics(s *Server) *topics {
	b := s.opts.Broker
	ts := &topics{
		server:   s,
		broker:   b,
		writers:  s.writers,
		options:  s.opts.Topics,
		counters: &s.counters,
		seed:     maphash.MakeSeed(),
	}
	if r, ok := b.(broker.Recoverer); ok {
		ts.recover = guarded{r, s}
	}
	ts.life, ts.end = context.WithCancel(context.Background())
	ts.repairing = make(chan struct{}, maxRepairs)
	if p, ok := b.(broker.InProcess); ok {
		ts.inProcess = p.InProcess()
	}
	ts.reads = newReadGate()
	ts.lookups = newLookupGate()
	ts.shared.catchingUp = &ts.catchingUp
	ts.snapshots.asking = make(chan struct{}, maxSnapshots)
	ts.making = make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1)) // half of the CPUs: publishing goes on beside
	for i := range ts.shards {
		ts.shards[i].topics = make(map[string]*topic)
	}
	return ts
}

func (ts *topics) shard(name string) *shard {
	return &ts.shards[maphash.String(ts.seed, name)%shardCount]
}

func (ts *topics) find(name string) *topic {
	sh := ts.shard(name)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.topics[name]
}

func (ts *topics) findOrAdd(name string) *topic {
	if t := ts.find(name); t != nil {
		return t
	}
	fresh := ts.newTopic(name)
	sh := ts.shard(name)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t := sh.topics[name]; t != nil {
		return t
	}
	sh.topics[name] = fresh
	ts.count.Add(1)
	return fresh
}

func (ts *topics) newTopic(name string) *topic {
	t := &topic{name: name, envelope: frame.NewEnvelope(name), opts: ts.options(name)}
	if ts.recover != nil && ts.recover.Keeps(name) {
		t.feed = newFeed(t.opts)
		t.feed.inProcess = ts.inProcess
	}
	switch {
	case t.opts.Keyed && t.feed != nil:
		if t.opts.Overflow != OverflowClose {
			t.opts.Overflow = OverflowCatchUp // which drops old values, key by key
		}
	case t.opts.Overflow == OverflowDropOldest, t.opts.Overflow == OverflowLatest:
		t.tag = &frame.Tag{Gap: gapFrame(name, ""), Latest: t.opts.Overflow == OverflowLatest}
	case t.feed == nil:
		t.opts.Overflow = OverflowClose
	case t.opts.Overflow == OverflowDefault:
		t.opts.Overflow = OverflowCatchUp
	}
	return t
}

// lock returns the topic, in the index and locked.
func (ts *topics) lock(name string) *topic {
	for {
		t := ts.findOrAdd(name)
		t.mu.Lock()
		if !t.gone {
			return t
		}
		t.mu.Unlock()
	}
}

// lockReady returns the topic, locked and subscribed at the broker. The first caller asks the
// broker, and the others wait. s is the session that needs the topic; nil: the server itself
// does. The error is the broker's or that of ctx. The topic is not locked then.
func (ts *topics) lockReady(ctx context.Context, s *Session, name string) (*topic, error) {
	for {
		t := ts.lock(name)
		if t.ready {
			return t, nil
		}
		if err := ts.wakeLocked(ctx, s, t); err != nil {
			return nil, err
		}
		if t.ready {
			return t, nil
		}
		ts.unlock(t)
	}
}

// wakeLocked is wake, but leaves the topic locked only if it returns nil. If the broker panics the
// topic is not locked either.
func (ts *topics) wakeLocked(ctx context.Context, s *Session, t *topic) error {
	awake := false
	defer func() {
		if !awake {
			ts.unlock(t)
		}
	}()
	err := ts.wake(ctx, s, t)
	awake = err == nil
	return err
}

// wake subscribes the topic at the broker, or waits for the call that does. The topic is locked
// before and after, and not meanwhile.
func (ts *topics) wake(ctx context.Context, s *Session, t *topic) error {
	t.pins++
	defer func() { t.pins-- }()
	if waking := t.waking; waking != nil {
		t.mu.Unlock()
		defer t.mu.Lock()
		select {
		case <-waking:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	waking := make(chan struct{})
	t.waking = waking
	t.mu.Unlock()
	var at Position
	var table []*broker.Publication
	err := errBrokerPanicked // unless it returns
	defer func() {
		if err != nil {
			ts.callUnsubscribe(t.name) // the broker may have subscribed all the same
		}
		t.mu.Lock()
		close(waking)
		t.waking = nil
		if err == nil {
			t.ready = true
			if t.feed != nil {
				ts.begin(t, at, table)
			}
		}
	}()
	err = ts.broker.Subscribe(ctx, t.name)
	if err == nil && t.feed != nil {
		at, err = ts.last(ctx, s, t.name)
	}
	if err == nil && t.feed != nil && t.opts.Keyed {
		table, err = ts.readTable(ctx, s, t.name, at)
	}
	if err != nil {
		err = fmt.Errorf("live: topic %q: %w", t.name, err)
	}
	return err
}

// unlock unlocks the topic, and takes it out of the index if nobody needs it. It logs an error of
// the broker after the topic is unlocked, because a slog.Handler may publish to the topic.
func (ts *topics) unlock(t *topic) {
	var err error
	if len(t.subs) == 0 && len(t.listeners) == 0 && t.pins == 0 && !t.gone {
		err = ts.removeTopic(t)
	}
	t.mu.Unlock()
	if err != nil {
		ts.server.logOfClient(slog.LevelWarn, "live: broker did not unsubscribe", "topic", t.name, "err", err)
	}
}

// removeTopic unsubscribes a topic at the broker, and takes it out of the index; topic.mu is held.
// The error is the broker's.
func (ts *topics) removeTopic(t *topic) (err error) {
	t.gone = true
	if t.feed != nil && t.feed.watch != nil {
		t.feed.watch.Stop()
	}
	if t.ready {
		err = ts.callUnsubscribe(t.name) // comes before the next Subscribe, because the lock is held
	}
	sh := ts.shard(t.name)
	sh.mu.Lock()
	delete(sh.topics, t.name)
	sh.mu.Unlock()
	ts.count.Add(-1)
	return err
}

// callUnsubscribe unsubscribes a topic at the broker. A panic of the broker becomes an error, because a
// session may end in a goroutine in which nobody else would recover. It is not logged here: a
// slog.Handler may publish to the topic, which may be locked.
func (ts *topics) callUnsubscribe(topic string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			ts.counters.panics.Add(1)
			err = fmt.Errorf("%w: %v\n%s", errBrokerPanicked, p, debug.Stack())
		}
	}()
	return ts.broker.Unsubscribe(topic)
}

// add makes the session a subscriber; topic.mu is held. The error is ErrSessionClosed.
func (ts *topics) add(t *topic, s *Session) (*subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrSessionClosed
	}
	sub := &subscription{topic: t, session: s, wire: s.wire, index: int32(len(t.subs))}
	t.subs = append(t.subs, subscriber{s.out, sub})
	s.subs.add(sub)
	ts.subscriptions.Add(1)
	return sub, nil
}

// join is add for a subscription that makes the session present.
func (ts *topics) join(t *topic, s *Session, o *subscribing) (*subscription, error) {
	sub, err := ts.add(t, s)
	if err == nil {
		ts.counters.subscribed.Add(1)
	}
	if err == nil && t.opts.Presence != PresenceOff {
		ts.server.presence.arrived(sub, o)
	}
	return sub, err
}

// unsubscribe removes the session from the topic. It reports whether the session was there.
func (ts *topics) unsubscribe(s *Session, name string) bool {
	t := ts.find(name)
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer ts.unlock(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subs.find(name)
	if sub == nil || sub.topic != t {
		return false
	}
	s.subs.remove(sub)
	ts.remove(sub)
	return true
}

// leave removes a closed session from all its topics. Nothing is added to the set of a closed
// session, so it stays empty. It returns the subscriptions that have ended.
func (ts *topics) leave(s *Session) []*subscription {
	s.mu.Lock()
	subs := s.subs.take()
	s.mu.Unlock()
	for _, sub := range subs {
		sub.topic.mu.Lock()
		ts.remove(sub)
		ts.unlock(sub.topic)
	}
	return subs
}

// remove takes sub out of its topic's slice; topic.mu is held.
func (ts *topics) remove(sub *subscription) {
	ts.goLive(sub) // the goroutine that catches up for it notices
	if sub.topic.opts.Presence != PresenceOff {
		ts.server.presence.departed(sub)
	}
	if sub.topic.tag != nil {
		sub.session.out.Settle(sub.topic.tag)
	}
	subs := sub.topic.subs
	last := len(subs) - 1
	subs[sub.index] = subs[last]
	subs[sub.index].index = sub.index
	subs[last] = subscriber{}
	sub.topic.subs = subs[:last]
	if cap(subs) > 64 && last < cap(subs)/4 { // frees the memory of a crowd that has left
		sub.topic.subs = append(make([]subscriber, 0, cap(subs)/2), subs[:last]...)
	}
	ts.subscriptions.Add(-1)
}
