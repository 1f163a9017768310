package live

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// topics is the index from a topic's name to its subscribers.
//
// The order of locks in this package, outermost first:
//
//	Session.calls   held while a callback runs, which may take any of the rest
//	a history's     in the broker in memory, held while it delivers
//	topic.mu
//	shard.mu
//	Session.mu
//	listener.mu
//	Server.mu
//
// The locks of package outbox come after these: a box's, and the writers'.
type topics struct {
	broker   Broker
	recover  Recoverer // nil: the broker keeps no history
	writers  *outbox.Writers
	options  func(topic string) TopicOptions
	counters *counters
	logger   *slog.Logger

	life context.Context // ends with the broker: nothing is asked of it any more
	end  context.CancelFunc

	repairing chan struct{} // holds as many as there are repairs that ask the broker

	seed   maphash.Seed
	shards [shardCount]shard

	count         atomic.Int64 // topics
	subscriptions atomic.Int64 // of all topics
	compressed    atomic.Int64 // open sessions with compression
}

// shardCount splits the index's lock: with 64, a thousand connections a second
// that each subscribe to ten topics seldom meet.
const shardCount = 64

type shard struct {
	mu     sync.RWMutex
	topics map[string]*topic // guarded by mu
	_      [64]byte          // neighbours on different cache lines
}

// topic has the subscribers of one name. It is in the index from its first
// subscriber to its last.
type topic struct {
	name     string
	envelope frame.Envelope
	opts     TopicOptions
	gap      *frame.Frame // tells a client that it lost some; nil: made when needed

	mu        sync.Mutex // held during a whole fan-out: it makes the order that all see
	subs      []subscriber
	listeners []*listener
	pins      int           // calls under way that need the topic in the index
	ready     bool          // subscribed at the broker
	waking    chan struct{} // closed when the broker has answered; nil: nobody has asked
	gone      bool          // no longer in the index
	feed      *feed         // nil: the topic keeps no history
}

// subscriber is a subscription as a fan-out walks over it: with its connection
// beside it, which saves a look at the subscription and one at the session.
type subscriber struct {
	conn *outbox.Conn
	*subscription
}

// subscription is one session's to one topic: in the topic's slice, at index,
// and in the session's set. It is added and removed with both locks held.
type subscription struct {
	topic   *topic
	session *Session
	wire    wire
	index   int // in topic.subs; guarded by topic.mu
}

func newTopics(s *Server, broker Broker) *topics {
	x := &topics{
		broker:   broker,
		writers:  s.writers,
		options:  s.opts.Topics,
		counters: &s.counters,
		logger:   s.opts.Logger,
		seed:     maphash.MakeSeed(),
	}
	x.recover, _ = broker.(Recoverer)
	x.life, x.end = context.WithCancel(context.Background())
	x.repairing = make(chan struct{}, maxRepairs)
	for i := range x.shards {
		x.shards[i].topics = make(map[string]*topic)
	}
	return x
}

func (x *topics) shard(name string) *shard {
	return &x.shards[maphash.String(x.seed, name)%shardCount]
}

func (x *topics) find(name string) *topic {
	sh := x.shard(name)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.topics[name]
}

func (x *topics) findOrAdd(name string) *topic {
	if t := x.find(name); t != nil {
		return t
	}
	fresh := &topic{name: name, envelope: frame.NewEnvelope(name), opts: x.options(name)}
	if x.recover != nil && x.recover.Keeps(name) {
		fresh.feed = newFeed(fresh.opts)
	}
	sh := x.shard(name)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t := sh.topics[name]; t != nil {
		return t
	}
	sh.topics[name] = fresh
	x.count.Add(1)
	return fresh
}

// lock returns the topic, in the index and locked.
func (x *topics) lock(name string) *topic {
	for {
		t := x.findOrAdd(name)
		t.mu.Lock()
		if !t.gone {
			return t
		}
		t.mu.Unlock()
	}
}

// lockReady returns the topic locked and subscribed at the broker, which the
// first that comes asks for while the others wait. The error is the broker's or
// ctx's; the topic is not locked then.
func (x *topics) lockReady(ctx context.Context, name string) (*topic, error) {
	for {
		t := x.lock(name)
		if t.ready {
			return t, nil
		}
		err := x.wake(ctx, t)
		if err == nil && t.ready {
			return t, nil
		}
		x.unlock(t)
		if err != nil {
			return nil, err
		}
	}
}

// wake subscribes the topic at the broker, or waits for whoever does. The topic
// is locked before and after, and not meanwhile.
func (x *topics) wake(ctx context.Context, t *topic) error {
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
	t.waking = make(chan struct{})
	t.mu.Unlock()
	err := x.broker.Subscribe(ctx, t.name)
	var at Position
	if err == nil && t.feed != nil {
		at, err = x.recover.Last(ctx, t.name)
	}
	if err != nil {
		x.broker.Unsubscribe(t.name) // it may have registered the interest all the same
	}
	t.mu.Lock()
	close(t.waking)
	t.waking = nil
	if err != nil {
		return fmt.Errorf("live: topic %q: %w", t.name, err)
	}
	t.ready = true
	if t.feed != nil {
		x.begin(t, at)
	}
	return nil
}

// unlock unlocks the topic, and takes it out of the index if nobody needs it.
func (x *topics) unlock(t *topic) {
	if len(t.subs) == 0 && len(t.listeners) == 0 && t.pins == 0 && !t.gone {
		t.gone = true
		if t.feed != nil && t.feed.watch != nil {
			t.feed.watch.Stop()
		}
		if t.ready {
			// With the lock held, so that it comes before the next Subscribe.
			if err := x.broker.Unsubscribe(t.name); err != nil {
				x.logger.Warn("live: broker did not unsubscribe", "topic", t.name, "err", err)
			}
		}
		sh := x.shard(t.name)
		sh.mu.Lock()
		delete(sh.topics, t.name)
		sh.mu.Unlock()
		x.count.Add(-1)
	}
	t.mu.Unlock()
}

// add makes the session a subscriber; both locks are held.
func (x *topics) add(t *topic, s *Session) {
	sub := &subscription{topic: t, session: s, wire: s.wire, index: len(t.subs)}
	t.subs = append(t.subs, subscriber{s.conn, sub})
	s.subs.add(sub)
	x.subscriptions.Add(1)
}

// unsubscribe removes the session from the topic, if it is there.
func (x *topics) unsubscribe(s *Session, name string) {
	t := x.find(name)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer x.unlock(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub := s.subs.find(name); sub != nil && sub.topic == t {
		s.subs.remove(sub)
		x.remove(sub)
	}
}

// leave removes a closed session from all its topics. Nothing is added to a
// closed session's set, so nothing stays behind.
func (x *topics) leave(s *Session) {
	s.mu.Lock()
	subs := s.subs.take()
	s.mu.Unlock()
	for _, sub := range subs {
		sub.topic.mu.Lock()
		x.remove(sub)
		x.unlock(sub.topic)
	}
}

// remove takes sub out of its topic's slice; topic.mu is held.
func (x *topics) remove(sub *subscription) {
	subs := sub.topic.subs
	last := len(subs) - 1
	subs[sub.index] = subs[last]
	subs[sub.index].index = sub.index
	subs[last] = subscriber{}
	sub.topic.subs = subs[:last]
	if cap(subs) > 64 && last < cap(subs)/4 { // a crowd that left takes its memory along
		sub.topic.subs = append(make([]subscriber, 0, cap(subs)/2), subs[:last]...)
	}
	x.subscriptions.Add(-1)
}

// deliver takes a publication from the broker.
func (x *topics) deliver(p *Publication) {
	t := x.find(p.Topic)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feed != nil {
		x.receive(t, p)
	} else {
		x.fanOut(t, p, bounded)
	}
}

// origin says how a publication has come to a fan-out.
type origin bool

const (
	bounded origin = false // it was delivered, and counts for the bounds of a client's queue
	fetched origin = true  // with up to maxRecovered others that a repair has read at once: no client could keep up with that
)

// fanOut queues a publication for every subscriber; topic.mu is held, which gives
// all sessions the same order. A frame is built once for each way to write it.
func (x *topics) fanOut(t *topic, p *Publication, o origin) {
	var frames [wires]*frame.Frame
	var ready outbox.List
	delivered := 0
	for i := range t.subs {
		sub := &t.subs[i]
		if p.Except != "" && sub.session.id == p.Except {
			continue
		}
		f := frames[sub.wire]
		if f == nil {
			f = x.frame(t, p, sub.wire)
			f.Free = o == fetched && t.opts.Overflow == OverflowClose
			frames[sub.wire] = f
		}
		switch sub.conn.Add(f, &ready) {
		case nil:
			delivered++
		case outbox.ErrFull:
			delivered += x.overflow(t, sub, f, &ready)
		}
		if ready.Len() == handOver {
			x.writers.Write(&ready)
		}
	}
	x.writers.Write(&ready)
	for _, l := range t.listeners {
		l.deliver(p)
	}
	x.counters.delivered.Add(uint64(delivered))
}

// handOver is how many sessions wait for the writers at most while a large
// topic is being walked: the first of 100,000 need not wait for the last.
const handOver = 256

// frame builds a publication's frame for one kind of client.
func (x *topics) frame(t *topic, p *Publication, w wire) *frame.Frame {
	var f *frame.Frame
	if w == wireV1 && p.Offset != 0 {
		f = t.envelope.FrameAt(p.Data, p.Position.String())
	} else {
		f = t.envelope.Frame(p.Data)
	}
	if t.opts.Overflow != OverflowClose {
		f.Tag = t
	}
	if x.compressed.Load() > 0 {
		f.Deflate()
	}
	return f
}

// overflow does to a client that takes too little what the topic's options say,
// and returns how many publications it got: 1 or 0.
func (x *topics) overflow(t *topic, sub *subscriber, f *frame.Frame, ready *outbox.List) int {
	if t.opts.Overflow == OverflowClose {
		sub.session.queueFull()
		return 0
	}
	var gap *frame.Frame
	if sub.wire == wireV1 {
		gap = t.gapFrame()
	}
	if sub.conn.Displace(f, t.opts.Overflow == OverflowLatest, gap, ready) != nil {
		return 0 // closed meanwhile
	}
	x.counters.dropped.Add(1)
	return 1
}

// gapFrame returns the frame that tells of a loss, without a position. It counts
// for no bound: there is one at most for each topic in a queue.
func (t *topic) gapFrame() *frame.Frame {
	if t.gap == nil {
		t.gap = gapFrame(t.name, "")
		t.gap.Tag, t.gap.Free, t.gap.Gap = t, true, true
	}
	return t.gap
}

// announceGap tells every subscriber that publications were lost before the
// position; topic.mu is held.
func (x *topics) announceGap(t *topic, at Position) {
	x.counters.gaps.Add(1)
	f := gapFrame(t.name, at.String())
	var ready outbox.List
	for i := range t.subs {
		sub := &t.subs[i]
		if sub.wire == wireV1 && sub.conn.Add(f, &ready) == outbox.ErrFull {
			sub.session.queueFull()
		}
	}
	x.writers.Write(&ready)
}

// subscriptionSet is a session's subscriptions: a slice while they are few, as
// they are for most sessions, with a map beside it when they are many.
type subscriptionSet struct {
	few  []*subscription
	many map[string]*subscription // nil: all are in few
}

const fewSubscriptions = 8

func (set *subscriptionSet) len() int { return len(set.few) + len(set.many) }

func (set *subscriptionSet) find(topic string) *subscription {
	for _, sub := range set.few {
		if sub.topic.name == topic {
			return sub
		}
	}
	return set.many[topic]
}

func (set *subscriptionSet) add(sub *subscription) {
	if len(set.few) < fewSubscriptions {
		set.few = append(set.few, sub)
		return
	}
	if set.many == nil {
		set.many = make(map[string]*subscription)
	}
	set.many[sub.topic.name] = sub
}

func (set *subscriptionSet) remove(sub *subscription) {
	for i, other := range set.few {
		if other == sub {
			last := len(set.few) - 1
			set.few[i], set.few[last] = set.few[last], nil
			set.few = set.few[:last]
			return
		}
	}
	delete(set.many, sub.topic.name)
}

// take empties the set and returns what was in it.
func (set *subscriptionSet) take() []*subscription {
	all := set.few
	for _, sub := range set.many {
		all = append(all, sub)
	}
	*set = subscriptionSet{}
	return all
}
