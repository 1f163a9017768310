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
// newer. If Prev is newer or unknown, something may be missing. Deliveries then wait, and a repair
// fetches the missing publications from the history. Publications that cannot be had any more are
// announced to the subscribers as a gap. A repair also begins when the broker says that it may
// have lost something, and from time to time. See repair.go.
//
// A client that comes back with a position reads on from there, in the feed or in the history,
// until it has reached the newest publication. See catchup.go.

const (
	// maxRing is how many publications a feed holds itself, besides the broker's history. Most
	// clients are away for seconds, and find there what they missed. maxRingBytes bounds their
	// data in bytes. The newest publication is kept whatever its size.
	maxRing      = 256
	maxRingBytes = 1 << 20
)

// feed is what a topic with history knows; it is guarded by topic.mu.
type feed struct {
	at           Position              // the newest that subscribers have seen
	low          uint64                // ring has all after this offset
	ring         []*broker.Publication // oldest first
	age          time.Duration         // HistoryAge; 0: for ever
	inProcess    bool                  // this process has stamped the publications
	came         []int64               // when those of ring came, on the clock of package clock; nil: age is 0
	size         int                   // of the ring, at most
	held         bool                  // a subscription is behind: the ring keeps maxRing for it, if History is less
	generation   int64                 // differs from that of every other beginning
	bytes        int                   // of the ring's data
	complete     bool                  // the ring has all that the history has
	tail         *tailCall             // to fill the ring; nil: none is under way
	parked       []*broker.Publication // came while it was not known what is missing before them
	parkedBefore int                   // how many of parked came before the history was last asked
	overrun      bool                  // some did not fit in parked
	keys         *keyTable             // of a keyed topic, in place of the ring; nil: the topic is not keyed
	compared     uint64                // of a keyed topic: nothing that the history has up to here is missing
	started      bool                  // at is known
	repair       bool                  // a repair is under way, or begins
	rerun        bool                  // another repair must follow it
	rounds       int                   // repairs that followed one another at once
	watch        *time.Timer           // of the next comparison; nil: the broker in memory loses nothing
	checks       int                   // comparisons that were due so far, the next one included
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

// reset has a feed begin anew at a position.
func (ts *topics) reset(feed *feed, at Position) {
	feed.generation = ts.generations.Add(1)
	feed.at, feed.low = at, at.Offset
	clear(feed.ring)
	feed.ring, feed.came, feed.complete, feed.bytes = feed.ring[:0], feed.came[:0], false, 0
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

// startOf returns the offset after which the newest publications come, n at most, of a page
// and the ring that it reaches into.
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

// indexOfLast returns the index in the ring of the first of the last n publications that
// have not expired.
func (f *feed) indexOfLast(n int) int {
	i := max(len(f.ring)-n, 0)
	for i < len(f.ring) && f.expired(i) {
		i++
	}
	return i
}

// reaches reports whether the ring has the newest n publications, or all that there are.
func (f *feed) reaches(n int) bool {
	return len(f.ring) >= n || f.complete || f.low == 0
}

// joins reports whether a page of the newest publications reaches the ring without a hole.
func (f *feed) joins(page broker.Page) bool {
	return page.Epoch == f.at.Epoch && page.Upto >= f.low
}

// warm puts the publications of an answer in front of the ring, which the answer joins. The ring
// grows to as many as clients ask for, if the history has them and maxRingBytes allows it.
func (f *feed) warm(call *tailCall) {
	older := call.page.Publications
	for len(older) > 0 && older[len(older)-1].Offset > f.low {
		older = older[:len(older)-1]
	}
	f.size = max(f.size, min(call.limit, len(call.page.Publications)))
	f.complete = len(call.page.Publications) < call.limit && !cutForSize(call.page)
	if len(older) > 0 {
		f.low = older[0].Offset - 1
		f.noteOlder(older)
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
		f.came = append(f.came, f.cameAt(p, clock.Now()))
	}
	f.bytes += len(p.Data)
	f.trim()
}

// trim drops what does not fit in the ring.
func (f *feed) trim() {
	size := f.size
	if f.held {
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
	f.low = f.ring[drop-1].Offset
	clear(f.ring[:drop])
	f.ring = f.ring[drop:] // append moves the rest when as much memory lies before it
	if f.age > 0 {
		f.came = f.came[drop:]
	}
	f.complete = false // the history may still have it
}

// A publication's Time is by the clock of the node that stored it. That clock may be wrong by
// hours, or be set meanwhile, so it is not compared with the clock of this node. A publication's
// age is counted here, from when it came, or at the latest from when a publication came that
// follows it.

// cameAt returns the time from which the age of a publication is counted. latest is a time at
// which it had come already.
func (f *feed) cameAt(p *broker.Publication, latest int64) int64 {
	if f.inProcess { // Time has a monotonic reading, of this process
		return clock.Now() - int64(time.Since(p.Time))
	}
	return latest
}

// noteOlder notes when the publications came that are about to be put in front of the ring.
func (f *feed) noteOlder(older []*broker.Publication) {
	if f.age == 0 {
		return
	}
	latest := clock.Now()
	if len(f.came) > 0 {
		latest = f.came[0]
	}
	came := make([]int64, 0, len(older)+len(f.came))
	for _, p := range older {
		came = append(came, f.cameAt(p, latest))
	}
	f.came = append(came, f.came...)
}

// cameBy returns a time at which the publication at an offset had come already.
func (f *feed) cameBy(offset uint64) int64 {
	if i := f.indexAfter(offset - 1); i < len(f.came) {
		return f.came[i]
	}
	return clock.Now()
}

// expired reports whether a publication of the ring is older than HistoryAge.
func (f *feed) expired(index int) bool {
	return f.age > 0 && clock.Now()-f.came[index] > int64(f.age)
}
