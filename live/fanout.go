package live

import (
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// deliver takes a publication from the broker.
func (ts *topics) deliver(p *broker.Publication) {
	t := ts.find(p.Topic)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feed != nil {
		ts.receive(t, p)
	} else {
		ts.fanOut(t, p, Position{}, delivered)
	}
}

// origin says how a publication has come to a fan-out.
type origin bool

const (
	delivered origin = false
	fetched   origin = true // a repair read it, with many others at once; no client is closed for being too slow for that
)

// fanOut queues a publication for every subscriber that is live. topic.mu is held, so all
// sessions get the same order. One frame is built for each kind of client, and shared. before is
// the topic's position before the publication.
func (ts *topics) fanOut(t *topic, p *broker.Publication, before Position, o origin) {
	var frames [wires]*frame.Frame
	var ready outbox.List
	count := 0
	t.published++
	for i := range t.subs {
		sub := &t.subs[i]
		if p.Except != "" && sub.session.id == p.Except {
			continue
		}
		if sub.cursor != nil {
			if t.feed == nil {
				ts.hold(sub.subscription, len(p.Data))
			}
			continue
		}
		f := frames[sub.wire]
		if f == nil {
			f = ts.frame(t, p, sub.wire)
			if o == delivered {
				f.Queued = ts.sampler.sample(ts.cameAt(p))
			}
			frames[sub.wire] = f
		}
		switch sub.out.Add(f, &ready) {
		case nil:
			count++
		case outbox.ErrFull:
			ts.overflow(t, sub.subscription, before, o, len(p.Data))
		}
		if ready.Len() == handOver {
			ts.writers.Write(&ready)
		}
	}
	ts.writers.Write(&ready)
	if t.behindCount > 0 && t.feed == nil {
		t.newest = p
	}
	for _, l := range t.listeners {
		l.deliver(p)
	}
	ts.counters.delivered.Add(uint64(count))
}

// sampler chooses the publications whose time to the sockets is measured. Measuring all of them would
// cost too much, because the clock is read once for each write.
type sampler struct {
	next atomic.Int64 // when a publication may be chosen again, on the clock of package clock
}

// sampleEvery is the time between two publications that are measured.
const sampleEvery = 50 * time.Millisecond

// sample returns when a publication came, if its time is measured. If not, sample returns 0.
func (s *sampler) sample(came int64) int64 {
	next := s.next.Load()
	if came < next || !s.next.CompareAndSwap(next, came+int64(sampleEvery)) {
		return 0
	}
	return came
}

// cameAt returns when a publication came from the broker, on the clock of package clock. A broker in
// this process has just read the clock for Time. To read the clock once more would cost about as much as
// half a delivery.
func (ts *topics) cameAt(p *broker.Publication) int64 {
	if ts.inProcess && !p.Time.IsZero() {
		return clock.At(p.Time)
	}
	return clock.Now()
}

// handOver is how many sessions are collected before the writers get them. In a topic of 100,000
// sessions the first need not wait for the last.
const handOver = 256

// frame builds a publication's frame for one kind of client.
func (ts *topics) frame(t *topic, p *broker.Publication, w wire) *frame.Frame {
	content := frame.Publication{Data: p.Data, Key: p.Key, Removed: p.Removed}
	if w == wireV1 && p.Offset != 0 {
		at := p.Position
		if t.opts.Keyed {
			at = t.feed.safe()
		}
		content.At = at.String()
	}
	f := t.envelope.Publication(content)
	f.Tag = t.tag
	if ts.compressed.Load() > 0 {
		f.Deflate()
	}
	return f
}

// overflow deals with a client whose queue is full, as the topic's options say. topic.mu is held.
// before is the position up to which the client has everything, or has it in its queue. bytes is
// the size of the publication that did not fit.
func (ts *topics) overflow(t *topic, sub *subscription, before Position, o origin, bytes int) {
	c := &cursor{at: before}
	if t.opts.Keyed && t.feed != nil {
		c.sweep = t.feed.sweepLatest(before.Offset)
	}
	switch {
	case t.tag != nil:
		c.skipOld, c.gap = true, true
		if t.tag.Latest {
			ts.counters.droppedLatest.Add(1)
		} else {
			ts.counters.droppedOldest.Add(1)
		}
	case before == Position{}, t.opts.Overflow == OverflowClose && o == delivered:
		sub.session.closeForFullQueue()
		return
	}
	if ts.fallBehind(sub, c) {
		go sub.session.catchUp() // ends when no subscription is behind, or with the session
	}
	if t.feed == nil {
		ts.hold(sub, bytes)
	}
}

// announceGap tells all live subscribers that publications between two positions were lost.
// topic.mu is held.
func (ts *topics) announceGap(t *topic, before, at Position) {
	ts.counters.gaps.Add(1)
	f := gapFrame(t.name, at.String())
	var ready outbox.List
	for i := range t.subs {
		sub := &t.subs[i]
		if sub.wire != wireV1 || sub.cursor != nil {
			continue
		}
		if t.tag != nil {
			sub.out.Settle(t.tag)
		}
		if sub.out.Add(f, &ready) == outbox.ErrFull {
			ts.overflow(t, sub.subscription, before, fetched, 0)
		}
	}
	for _, l := range t.listeners {
		l.tellGap()
	}
	ts.writers.Write(&ready)
}
