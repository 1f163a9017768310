package live

import (
	"fmt"
	"hash/maphash"
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
//	topic.mu
//	shard.mu
//	Session.mu
//	Server.mu
//
// The locks of package outbox come after these: a box's, and the writers'.
type topics struct {
	seed   maphash.Seed
	shards [shardCount]shard

	count         atomic.Int64 // topics
	subscriptions atomic.Int64 // of all topics
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

	mu   sync.Mutex // held during a whole fan-out: it makes the order that all see
	subs []subscriber
	gone bool // no longer in the index
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
	index   int // in topic.subs; guarded by topic.mu
}

func newTopics() *topics {
	x := &topics{seed: maphash.MakeSeed()}
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
	sh := x.shard(name)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t := sh.topics[name]
	if t == nil {
		t = &topic{name: name, envelope: frame.NewEnvelope(name)}
		sh.topics[name] = t
		x.count.Add(1)
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

// unlock unlocks the topic, and takes it out of the index if it has no
// subscriber.
func (x *topics) unlock(t *topic) {
	if len(t.subs) == 0 && !t.gone {
		t.gone = true
		sh := x.shard(t.name)
		sh.mu.Lock()
		delete(sh.topics, t.name)
		sh.mu.Unlock()
		x.count.Add(-1)
	}
	t.mu.Unlock()
}

// subscribe adds the session to the topic. It returns nil if it was there.
func (x *topics) subscribe(s *Session, name string, max int) error {
	t := x.lock(name)
	defer x.unlock(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrSessionClosed
	}
	if s.subs.find(name) != nil {
		return nil
	}
	if s.subs.len() >= max {
		return fmt.Errorf("%w: %d", ErrTooManyTopics, max)
	}
	sub := &subscription{topic: t, session: s, index: len(t.subs)}
	t.subs = append(t.subs, subscriber{s.conn, sub})
	s.subs.add(sub)
	x.subscriptions.Add(1)
	return nil
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

// publish queues data for every subscriber and returns for how many. The frame
// is built before the lock is taken; the lock is held while it is queued, which
// gives all sessions the same order.
func (x *topics) publish(w *outbox.Writers, name string, data []byte, deflate bool) (delivered int) {
	t := x.find(name)
	if t == nil {
		return 0
	}
	f := t.envelope.Frame(data)
	if deflate {
		f.Deflate()
	}
	var ready outbox.List
	t.mu.Lock()
	for _, sub := range t.subs {
		switch sub.conn.Add(f, &ready) {
		case nil:
			delivered++
		case outbox.ErrFull:
			sub.session.queueFull()
		}
		if ready.Len() == handOver {
			w.Write(&ready)
		}
	}
	t.mu.Unlock()
	w.Write(&ready)
	return delivered
}

// handOver is how many sessions wait for the writers at most while a large
// topic is being walked: the first of 100,000 need not wait for the last.
const handOver = 256

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
