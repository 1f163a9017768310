package live

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime"
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
//	Session.calls   held while a callback runs, which may take any of the rest
//	a history's     in the broker in memory, held while it delivers
//	topic.mu
//	shard.mu
//	Session.mu
//	listener.mu
//	Server.mu
//
// The locks of package outbox come after these: a box's, and the writers'. inbound.mu and
// loglimit.Limiter may be taken under any: no other lock is taken under them.
type topics struct {
	server   *Server
	broker   Broker
	recover  broker.Recoverer // nil: the broker keeps no history
	writers  *outbox.Writers
	options  func(topic string) TopicOptions
	counters *counters
	logger   *slog.Logger

	life context.Context // ends with the broker: nothing is asked of it any more
	end  context.CancelFunc

	repairing chan struct{} // holds as many as there are repairs that ask the broker
	inProcess bool          // see broker.InProcess
	reads     *gate         // for sessions
	lookups   *gate         // likewise
	making    chan struct{} // holds as many as there are goroutines that make parts
	shared    sharedParts

	seed   maphash.Seed
	shards [shardCount]shard

	generations   atomic.Int64 // of feeds, so far
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
	_      [64]byte          // neighbours on different cache lines
}

// topic has the subscribers of one name. It is in the index from its first
// subscriber to its last.
type topic struct {
	name     string
	envelope frame.Envelope
	opts     TopicOptions // Overflow is never OverflowDefault
	tag      *frame.Tag   // nil: the topic does not drop publications

	mu        sync.Mutex // held during a whole fan-out: it makes the order that all see
	subs      []subscriber
	listeners []*listener
	pins      int                 // calls under way that need the topic in the index
	ready     bool                // subscribed at the broker
	waking    chan struct{}       // closed when the broker has answered; nil: nobody has asked
	gone      bool                // no longer in the index
	feed      *feed               // nil: the topic keeps no history
	behind    int                 // how many of subs are
	newest    *broker.Publication // for these, if the topic keeps no history and drops publications
}

// subscriber is a subscription as a fan-out walks over it: with its connection
// beside it, so a fan-out need not load the subscription's session.
type subscriber struct {
	out *outbox.Box
	*subscription
}

// subscription is one session's to one topic: in the topic's slice, at index,
// and in the session's set. It is added and removed with both locks held.
type subscription struct {
	topic   *topic
	session *Session
	index   int32 // in topic.subs; guarded by topic.mu
	wire    wire
	queued  bool    // in the session's behindSet; guarded by Session.mu
	behind  *cursor // nil: live; guarded by topic.mu
}

func newTopics(s *Server) *topics {
	b := s.opts.Broker
	x := &topics{
		server:   s,
		broker:   b,
		writers:  s.writers,
		options:  s.opts.Topics,
		counters: &s.counters,
		logger:   s.opts.Logger,
		seed:     maphash.MakeSeed(),
	}
	if r, ok := b.(broker.Recoverer); ok {
		x.recover = guarded{r, s}
	}
	x.life, x.end = context.WithCancel(context.Background())
	x.repairing = make(chan struct{}, maxRepairs)
	if p, ok := b.(broker.InProcess); ok {
		x.inProcess = p.InProcess()
	}
	x.reads = newReadGate()
	x.lookups = newLookupGate()
	x.shared.catchingUp = &x.catchingUp
	x.making = make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1)) // half of the CPUs: publishing goes on beside
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
	fresh := x.newTopic(name)
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

func (x *topics) newTopic(name string) *topic {
	t := &topic{name: name, envelope: frame.NewEnvelope(name), opts: x.options(name)}
	if x.recover != nil && x.recover.Keeps(name) {
		t.feed = newFeed(t.opts)
		t.feed.inProcess = x.inProcess
	}
	switch {
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
// first that comes asks for while the others wait. s is the session that needs it; nil: none
// does. The error is the broker's or ctx's; the topic is not locked then.
func (x *topics) lockReady(ctx context.Context, s *Session, name string) (*topic, error) {
	for {
		t := x.lock(name)
		if t.ready {
			return t, nil
		}
		if err := x.wakeLocked(ctx, s, t); err != nil {
			return nil, err
		}
		if t.ready {
			return t, nil
		}
		x.unlock(t)
	}
}

// wakeLocked is wake that leaves the topic locked only if it returns nil, and not if the
// broker panics.
func (x *topics) wakeLocked(ctx context.Context, s *Session, t *topic) error {
	awake := false
	defer func() {
		if !awake {
			x.unlock(t)
		}
	}()
	err := x.wake(ctx, s, t)
	awake = err == nil
	return err
}

// wake subscribes the topic at the broker, or waits for whoever does. The topic
// is locked before and after, and not meanwhile.
func (x *topics) wake(ctx context.Context, s *Session, t *topic) error {
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
	err := errBrokerPanicked // unless it returns
	defer func() {
		if err != nil {
			x.broker.Unsubscribe(t.name) // it may have registered the interest all the same
		}
		t.mu.Lock()
		close(waking)
		t.waking = nil
		if err == nil {
			t.ready = true
			if t.feed != nil {
				x.begin(t, at)
			}
		}
	}()
	err = x.broker.Subscribe(ctx, t.name)
	if err == nil && t.feed != nil {
		at, err = x.last(ctx, s, t.name)
	}
	if err != nil {
		err = fmt.Errorf("live: topic %q: %w", t.name, err)
	}
	return err
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
				x.server.logOfClient(slog.LevelWarn, "live: broker did not unsubscribe", "topic", t.name, "err", err)
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

// add makes the session a subscriber; topic.mu is held. The error is ErrSessionClosed.
func (x *topics) add(t *topic, s *Session) (*subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrSessionClosed
	}
	sub := &subscription{topic: t, session: s, wire: s.wire, index: int32(len(t.subs))}
	t.subs = append(t.subs, subscriber{&s.out, sub})
	s.subs.add(sub)
	x.subscriptions.Add(1)
	return sub, nil
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
	x.goLive(sub) // whoever catches up for it notices
	if sub.topic.tag != nil {
		sub.session.out.Settle(sub.topic.tag)
	}
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
func (x *topics) deliver(p *broker.Publication) {
	t := x.find(p.Topic)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feed != nil {
		x.receive(t, p)
	} else {
		x.fanOut(t, p, Position{}, delivered)
	}
}

// origin says how a publication has come to a fan-out.
type origin bool

const (
	delivered origin = false
	fetched   origin = true // a repair read it with many others; a client is not closed for not keeping up with that
)

// fanOut queues a publication for every subscriber that is live; topic.mu is held, which
// gives all sessions the same order. A frame is built once for each way to write it.
// before is the topic's position before the publication.
func (x *topics) fanOut(t *topic, p *broker.Publication, before Position, o origin) {
	var frames [wires]*frame.Frame
	var ready outbox.List
	count := 0
	for i := range t.subs {
		sub := &t.subs[i]
		if p.Except != "" && sub.session.id == p.Except {
			continue
		}
		if sub.behind != nil {
			if t.feed == nil {
				x.hold(sub.subscription, len(p.Data))
			}
			continue
		}
		f := frames[sub.wire]
		if f == nil {
			f = x.frame(t, p, sub.wire)
			frames[sub.wire] = f
		}
		switch sub.out.Add(f, &ready) {
		case nil:
			count++
		case outbox.ErrFull:
			x.overflow(t, sub.subscription, before, o, len(p.Data))
		}
		if ready.Len() == handOver {
			x.writers.Write(&ready)
		}
	}
	x.writers.Write(&ready)
	if t.behind > 0 && t.feed == nil {
		t.newest = p
	}
	for _, l := range t.listeners {
		l.deliver(p)
	}
	x.counters.delivered.Add(uint64(count))
}

// handOver is how many sessions wait for the writers at most while a large
// topic is being walked: the first of 100,000 need not wait for the last.
const handOver = 256

// frame builds a publication's frame for one kind of client.
func (x *topics) frame(t *topic, p *broker.Publication, w wire) *frame.Frame {
	var f *frame.Frame
	if w == wireV1 && p.Offset != 0 {
		f = t.envelope.FrameAt(p.Data, p.Position.String())
	} else {
		f = t.envelope.Frame(p.Data)
	}
	f.Tag = t.tag
	if x.compressed.Load() > 0 {
		f.Deflate()
	}
	return f
}

// overflow does to a client that takes too little what the topic's options say; topic.mu
// is held. before is the position of what the client has, or is on its way to it, and bytes the
// size of the publication that did not fit.
func (x *topics) overflow(t *topic, sub *subscription, before Position, o origin, bytes int) {
	c := &cursor{at: before}
	switch {
	case t.tag != nil:
		c.skipOld, c.gap = true, true
		x.counters.dropped.Add(1)
	case before == Position{}, t.opts.Overflow == OverflowClose && o == delivered:
		sub.session.queueFull()
		return
	}
	if x.fallBehind(sub, c) {
		go sub.session.catchUp() // ends when no subscription is behind, or with the session
	}
	if t.feed == nil {
		x.hold(sub, bytes)
	}
}

// announceGap tells every subscriber that is live that publications were lost after one
// position and before another; topic.mu is held.
func (x *topics) announceGap(t *topic, before, at Position) {
	x.counters.gaps.Add(1)
	f := gapFrame(t.name, at.String())
	var ready outbox.List
	for i := range t.subs {
		sub := &t.subs[i]
		if sub.wire != wireV1 || sub.behind != nil {
			continue
		}
		if t.tag != nil {
			sub.out.Settle(t.tag)
		}
		if sub.out.Add(f, &ready) == outbox.ErrFull {
			x.overflow(t, sub.subscription, before, fetched, 0)
		}
	}
	for _, l := range t.listeners {
		l.tellGap()
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
