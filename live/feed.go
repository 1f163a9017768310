package live

import (
	"slices"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// This is how a topic with history loses nothing in silence, over any broker that is a
// Recoverer.
//
// A topic's feed holds the newest position that its subscribers have seen, and the newest
// publications. A delivery is applied if it follows that position without a hole: its Prev is not
// newer. If Prev is newer or unknown, a publication may be missing. Deliveries then wait, and a
// repair fetches the missing publications from the history. If the history has them no more, the
// subscribers are told of a gap. A repair also begins when the broker says that it may have lost
// deliveries, and from time to time. See repair.go.
//
// A client that comes back with a position reads on from there, in the feed or in the history,
// until it has reached the newest publication. See catchup.go.

const (
	// maxRing is how many publications a feed holds in its own ring, besides the broker's history.
	// Most clients are away for some seconds only, and the ring has all that they missed.
	// maxRingBytes bounds the data in the ring, in bytes. The newest publication is kept whatever
	// its size.
	maxRing      = 256
	maxRingBytes = 1 << 20
)

// feed is the state of a topic with history. It is guarded by topic.mu.
type feed struct {
	at           Position              // the newest position that subscribers have seen
	ringAfter    uint64                // ring has all publications after this offset
	ring         []*broker.Publication // the newest publications, oldest first
	age          time.Duration         // HistoryAge; 0: for ever
	inProcess    bool                  // the broker is in this process: see broker.InProcess
	arrivals     []int64               // when the publications of ring came, on the clock of package clock; nil: age is 0
	size         int                   // how many publications the ring keeps at most
	widened      bool                  // the ring keeps maxRing publications even if History is less, because a subscription catches up
	generation   int64                 // changes when the feed begins anew; no two feeds have the same
	bytes        int                   // of the data in the ring
	complete     bool                  // the ring has all publications of the history
	tail         *tailCall             // the call that reads older publications into the ring; nil: there is none
	crowd        crowd                 // the questions that clients with positions share
	parked       []*broker.Publication // deliveries that wait until the feed knows what is missing before them
	parkedBefore int                   // how many of parked came before the history was last asked
	overrun      bool                  // parked was full, and deliveries were dropped
	keys         *keyTable             // of a keyed topic, in place of the ring; nil: the topic is not keyed
	compared     uint64                // of a keyed topic: up to this offset the feed lacks nothing that the history has
	started      bool                  // at is known
	repair       bool                  // a repair is under way, or about to begin
	rerun        bool                  // another repair must follow the repair that is under way
	rounds       int                   // how many repairs have followed one another without a pause
	watch        *time.Timer           // for the next comparison; nil: a broker in this process loses nothing
	checks       int                   // comparisons so far, with the one that watch waits for
}

func newFeed(o TopicOptions) *feed {
	size := maxRing
	if o.History > 0 {
		size = min(o.History, maxRing)
	}
	f := &feed{size: size, age: o.HistoryAge}
	if o.Keyed {
		f.keys = newKeyTable(0)
	}
	return f
}

// reset makes a feed begin anew at a position, with an empty ring.
func (ts *topics) reset(feed *feed, at Position) {
	feed.generation = ts.generations.Add(1)
	feed.at, feed.ringAfter = at, at.Offset
	clear(feed.ring)
	feed.ring, feed.arrivals, feed.complete, feed.bytes = feed.ring[:0], feed.arrivals[:0], false, 0
	if feed.keys != nil {
		feed.keys, feed.compared = newKeyTable(at.Offset), at.Offset
	}
}

// indexAfter returns the index in the ring of the first publication after an offset.
func (f *feed) indexAfter(offset uint64) int {
	i, _ := slices.BinarySearchFunc(f.ring, offset, func(p *broker.Publication, offset uint64) int {
		if p.Offset <= offset {
			return -1
		}
		return 1
	})
	return i
}

// startOf joins a page of older publications with the ring, and takes the newest n of them, or all
// if there are fewer. It returns the offset before the first of these.
func (f *feed) startOf(page []*broker.Publication, n int) uint64 {
	all := slices.Clone(page)
	end := f.at.Offset + 1
	if len(f.ring) > 0 {
		end = f.ring[0].Offset
	}
	for len(all) > 0 && all[len(all)-1].Offset >= end {
		all = all[:len(all)-1]
	}
	all = append(all, f.ring...)
	if all = all[max(len(all)-n, 0):]; len(all) == 0 {
		return f.at.Offset
	}
	return all[0].Offset - 1
}

// indexOfLast takes the last n publications of the ring, and leaves out those that have expired.
// It returns the index of the first that is left.
func (f *feed) indexOfLast(n int) int {
	i := max(len(f.ring)-n, 0)
	for i < len(f.ring) && f.expired(i) {
		i++
	}
	return i
}

// reaches reports whether the ring has the newest n publications, or all if there are fewer.
func (f *feed) reaches(n int) bool {
	return len(f.ring) >= n || f.complete || f.ringAfter == 0
}

// joins reports whether a page of the newest publications reaches the ring without a hole.
func (f *feed) joins(page broker.Page) bool {
	return page.Epoch == f.at.Epoch && page.Upto >= f.ringAfter
}

// warm puts the older publications of an answer in front of the ring. The caller has checked with
// joins that they follow one another without a hole. The ring grows to as many publications as
// clients ask for, if the history has them and maxRingBytes allows it.
func (f *feed) warm(call *tailCall) {
	older := call.page.Publications
	for len(older) > 0 && older[len(older)-1].Offset > f.ringAfter {
		older = older[:len(older)-1]
	}
	f.size = max(f.size, min(call.limit, len(call.page.Publications)))
	f.complete = len(call.page.Publications) < call.limit && !cutForSize(call.page)
	if len(older) > 0 {
		f.ringAfter = older[0].Offset - 1
		f.noteArrivals(older)
	}
	for _, p := range older {
		f.bytes += len(p.Data)
	}
	f.ring = slices.Concat(older, f.ring)
	f.trim()
}

// push adds the next publication to the ring.
func (f *feed) push(p *broker.Publication) {
	f.ring = append(f.ring, p)
	if f.age > 0 {
		f.arrivals = append(f.arrivals, f.ageFrom(p, clock.Now()))
	}
	f.bytes += len(p.Data)
	f.trim()
}

// trim drops the oldest publications that do not fit in the ring.
func (f *feed) trim() {
	size := f.size
	if f.widened {
		size = max(size, maxRing)
	}
	drop := max(len(f.ring)-size, 0)
	for _, p := range f.ring[:drop] {
		f.bytes -= len(p.Data)
	}
	for f.bytes > maxRingBytes && drop < len(f.ring)-1 {
		f.bytes -= len(f.ring[drop].Data)
		drop++
	}
	if drop == 0 {
		return
	}
	f.ringAfter = f.ring[drop-1].Offset
	clear(f.ring[:drop])
	f.ring = f.ring[drop:] // append moves the rest when as much memory lies before it
	if f.age > 0 {
		f.arrivals = f.arrivals[drop:]
	}
	f.complete = false // the history may still have what was dropped here
}

// A publication's Time comes from the clock of the node that stored it. That clock may be wrong by
// hours, or may be set meanwhile. So it is not compared with the clock of this node. This node
// counts a publication's age from the time at which the publication came. If it does not know that
// time, it counts from the time at which a later publication came.

// ageFrom returns the time from which the age of a publication is counted. The publication came at
// latest or before.
func (f *feed) ageFrom(p *broker.Publication, latest int64) int64 {
	if f.inProcess { // Time has a monotonic reading, of this process
		return clock.Now() - int64(time.Since(p.Time))
	}
	return latest
}

// noteArrivals notes when older publications came. The caller then puts them in front of the ring.
func (f *feed) noteArrivals(older []*broker.Publication) {
	if f.age == 0 {
		return
	}
	latest := clock.Now()
	if len(f.arrivals) > 0 {
		latest = f.arrivals[0]
	}
	arrivals := make([]int64, 0, len(older)+len(f.arrivals))
	for _, p := range older {
		arrivals = append(arrivals, f.ageFrom(p, latest))
	}
	f.arrivals = append(arrivals, f.arrivals...)
}

// arrivedBy returns a time. The publication at this offset came then or before.
func (f *feed) arrivedBy(offset uint64) int64 {
	if i := f.indexAfter(offset - 1); i < len(f.arrivals) {
		return f.arrivals[i]
	}
	return clock.Now()
}

// expired reports whether a publication of the ring is older than HistoryAge.
func (f *feed) expired(index int) bool {
	return f.age > 0 && clock.Now()-f.arrivals[index] > int64(f.age)
}
