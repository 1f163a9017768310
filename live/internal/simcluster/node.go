package simcluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// simNode is the broker of one node.
type simNode struct {
	sim *Sim
	id  int
	bus lane

	// Guarded by sim.mu.
	sink        broker.Sink
	onBroadcast func([]byte)
	interests   map[string]*interest
	lanes       map[string]*lane
	deaf        []span // when nothing reaches the node
	cut         []span // when calls of the node fail
	closed      bool
}

// interest is the subscription of a node to a topic.
type interest struct {
	known time.Time // from then on other nodes know of it
}

func (n *simNode) Start(s broker.Sink) {
	n.sim.mu.Lock()
	defer n.sim.mu.Unlock()
	n.sink = s
}

func (n *simNode) Subscribe(ctx context.Context, topic string) error {
	r, err := n.call(ctx, "Subscribe", topic)
	if err != nil {
		return err
	}
	s := n.sim
	s.mu.Lock()
	if n.interests[topic] == nil && !n.closed {
		n.interests[topic] = &interest{time.Now().Add(upTo(r, s.faults.Interest))}
	}
	s.mu.Unlock()
	return n.answer(ctx, r)
}

func (n *simNode) Unsubscribe(topic string) error {
	n.sim.mu.Lock()
	defer n.sim.mu.Unlock()
	if n.closed {
		return errClosed
	}
	delete(n.interests, topic)
	return nil
}

func (n *simNode) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	r, err := n.call(ctx, "Publish", topic)
	if err != nil {
		return live.Position{}, err
	}
	p := &broker.Publication{Topic: topic, Data: data, Except: o.Except, Key: o.Key, Removed: o.Remove}
	s := n.sim
	s.mu.Lock()
	p.Time = time.Now()
	if o.Keyed && !s.hasSpace(topic, o) {
		s.mu.Unlock()
		return live.Position{}, broker.ErrTooManyKeys
	}
	s.take(r, s.topic(topic), p, o)
	deliver := p
	if r.Float64() < s.faults.NoPrev {
		silent := *p
		silent.Prev = 0
		deliver = &silent
	}
	for _, to := range s.nodes {
		to.carry(n, deliver)
	}
	unsure := r.Float64() < s.faults.Unsure
	if unsure {
		s.note(n.id, topic, fmt.Sprint("unsure of ", p.Offset))
	}
	s.mu.Unlock()
	if err := n.answer(ctx, r); err != nil {
		return live.Position{}, err
	}
	if unsure {
		return live.Position{}, errUnsure
	}
	return p.Position, nil
}

func (n *simNode) Close(context.Context) error {
	n.sim.mu.Lock()
	defer n.sim.mu.Unlock()
	n.closed = true
	clear(n.interests)
	return nil
}

// Keeps returns false for topics that are published without history. For others it returns true.
func (n *simNode) Keeps(topic string) bool {
	n.sim.mu.Lock()
	defer n.sim.mu.Unlock()
	t := n.sim.topics[topic]
	return t == nil || !t.forgetful
}

func (n *simNode) Last(ctx context.Context, topic string) (live.Position, error) {
	r, err := n.call(ctx, "Last", topic)
	if err != nil {
		return live.Position{}, err
	}
	s := n.sim
	s.mu.Lock()
	e, _, _ := s.topic(topic).read(0)
	last := live.Position{Epoch: e.epoch, Offset: e.last()}
	s.mu.Unlock()
	return last, n.answer(ctx, r)
}

func (n *simNode) Read(ctx context.Context, topic string, after, upto uint64, limit int) (broker.Page, error) {
	r, err := n.call(ctx, "Read", topic)
	if err != nil {
		return broker.Page{}, err
	}
	s := n.sim
	s.mu.Lock()
	e, kept, then := s.topic(topic).read(upTo(r, s.faults.Lag))
	reach := e.lastAt(then)
	kept = slices.DeleteFunc(kept, func(p *Entry) bool { return p.Offset <= after || p.Offset > upto })
	if most := s.cut(r, min(len(kept), limit)); most < len(kept) {
		kept = kept[:most]
		reach = kept[most-1].Offset
	}
	page := e.pageOf(kept, reach)
	if s.topic(topic).keyed {
		upto = min(upto, reach) // a removal that was forgotten may be the last
	} else if len(kept) > 0 {
		upto = kept[len(kept)-1].Offset
	}
	page.Complete = e.complete(after, upto, then)
	s.mu.Unlock()
	return page, n.answer(ctx, r)
}

func (n *simNode) Tail(ctx context.Context, topic string, limit int) (broker.Page, error) {
	r, err := n.call(ctx, "Tail", topic)
	if err != nil {
		return broker.Page{}, err
	}
	s := n.sim
	s.mu.Lock()
	e, kept, then := s.topic(topic).read(upTo(r, s.faults.Lag))
	kept = slices.DeleteFunc(kept, func(p *Entry) bool { return p.Removed })
	kept, reach := kept[max(0, len(kept)-limit):], e.lastAt(then)
	newest, _, _ := s.topic(topic).read(0)
	if e == newest && reach == e.last() {
		if most := atLeast(s.cut(r, len(kept)), kept); most < len(kept) {
			kept = kept[:most]
			reach = kept[most-1].Offset
		}
	} else if bytesOf(kept) >= broker.MinTailBytes {
		// The caller would think that this large page was cut, and that the newest part is missing.
		kept, reach = nil, kept[0].Offset-1
	}
	page := e.pageOf(kept, reach)
	s.mu.Unlock()
	return page, n.answer(ctx, r)
}

func (n *simNode) OnBroadcast(f func(b []byte)) {
	n.sim.mu.Lock()
	defer n.sim.mu.Unlock()
	n.onBroadcast = f
}

func (n *simNode) Broadcast(ctx context.Context, b []byte) error {
	r, err := n.call(ctx, "Broadcast", "")
	if err != nil {
		return err
	}
	s := n.sim
	s.mu.Lock()
	for _, to := range s.nodes {
		if f := to.onBroadcast; f != nil {
			to.bus.add(upTo(r, s.faults.Delay), false, func() {
				if to.hears() {
					f(b)
				}
			})
		}
	}
	s.mu.Unlock()
	return n.answer(ctx, r)
}

// call is the first half of a call: the way to the cluster. It may take a while, or fail.
func (n *simNode) call(ctx context.Context, kind, topic string) (chances, error) {
	s := n.sim
	s.mu.Lock()
	r := s.roll(kind, n.id, topic)
	latency := upTo(r, s.faults.Latency) / 2
	refuse := r.Float64() < s.faults.Refuse
	closed := n.closed
	s.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	if err := sleep(ctx, latency); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch now := time.Now(); {
	case n.closed:
		return nil, errClosed
	case during(n.cut, now):
		s.note(n.id, topic, "cut: "+kind)
		return nil, errCut
	case during(s.outages, now):
		s.note(n.id, topic, "outage: "+kind)
		return nil, errOutage
	case refuse:
		s.note(n.id, topic, "refused: "+kind)
		return nil, errRefused
	}
	return r, nil
}

// answer is the second half of a call: the way back.
func (n *simNode) answer(ctx context.Context, r chances) error {
	n.sim.mu.Lock()
	latency := upTo(r, n.sim.faults.Latency) / 2
	n.sim.mu.Unlock()
	if err := sleep(ctx, latency); err != nil {
		return err
	}
	n.sim.mu.Lock()
	defer n.sim.mu.Unlock()
	if n.closed {
		return errClosed
	}
	return nil
}

// carry puts a publication of any node on its way to this node. It may be lost. sim.mu is
// held.
func (n *simNode) carry(from *simNode, p *broker.Publication) {
	s := n.sim
	in := n.interests[p.Topic]
	if in == nil {
		return
	}
	if from != n && p.Time.Before(in.known) {
		s.note(n.id, p.Topic, fmt.Sprint("not yet interested in ", p.Offset))
		return
	}
	r := s.roll("delivery", n.id, p.Topic)
	delay := upTo(r, s.faults.Delay)
	lost, twice := r.Float64() < s.faults.Loss, r.Float64() < s.faults.Duplicate
	overtakes, announced := r.Float64() < s.faults.Overtake, r.Float64() < s.faults.Announce
	if lost {
		s.note(n.id, p.Topic, fmt.Sprint("lost ", p.Offset))
		if announced {
			time.AfterFunc(2*delay, func() { n.announce(p.Topic, errRefused) })
		}
		return
	}
	l := n.lanes[p.Topic]
	if l == nil {
		if n.lanes == nil {
			n.lanes = make(map[string]*lane)
		}
		l = new(lane)
		n.lanes[p.Topic] = l
	}
	arrive := func() { n.arrive(in, p) }
	l.add(delay, overtakes, arrive)
	if twice {
		l.add(2*delay, false, arrive)
	}
}

// arrive hands a publication over, if the node is still subscribed.
func (n *simNode) arrive(in *interest, p *broker.Publication) {
	n.sim.mu.Lock()
	wanted := n.interests[p.Topic] == in
	if wanted && during(n.deaf, time.Now()) {
		n.sim.note(n.id, p.Topic, fmt.Sprint("deaf to ", p.Offset))
		wanted = false
	}
	n.sim.mu.Unlock()
	if wanted {
		n.sink.Deliver(p)
	}
}

// hears reports whether broadcasts reach the node now.
func (n *simNode) hears() bool {
	n.sim.mu.Lock()
	defer n.sim.mu.Unlock()
	return !n.closed && !during(n.deaf, time.Now())
}

// announce says that deliveries may be missing.
func (n *simNode) announce(topic string, cause error) {
	n.sim.mu.Lock()
	closed := n.closed || n.sink == nil
	if !closed {
		n.sim.note(n.id, topic, "announced")
	}
	n.sim.mu.Unlock()
	if !closed {
		n.sink.Lost(topic, cause)
	}
}
