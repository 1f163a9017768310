package live

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// How a topic with history loses nothing in silence, over any broker that is a
// Recoverer.
//
// A topic's feed holds the newest position that its subscribers have seen, and
// the newest publications. A delivery is applied if it continues from there: its
// Prev is no newer than what was seen. If it is newer, or not known, something may be
// missing: deliveries wait, and what is missing is fetched from the history. What cannot be
// had any more is announced to the subscribers as a gap. The same repair follows when
// the broker says that it may have lost something, and from time to time.
//
// A client that comes back with a position reads on from there, in the feed or in the
// history, until it has come to where the topic is: see catchup.go.

// TopicOptions are the rules of one topic.
type TopicOptions struct {
	// History is how many publications are kept, for clients that come back and
	// for those that ask. 0: none. A broker with streams of its own may have its
	// own rule.
	History int

	// HistoryAge is how long they are kept. 0: for as long as History says. A server
	// counts it from when it had the publication, so that it does not matter whether its
	// clock is right. What the broker's history still has counts as kept.
	HistoryAge time.Duration

	// Overflow says what becomes of a client whose queue is full when a
	// publication of this topic comes.
	Overflow Overflow
}

// Overflow says what happens when a publication finds a client's queue full.
type Overflow int

const (
	// OverflowDefault is OverflowCatchUp on topics that keep history, and OverflowClose on
	// others.
	OverflowDefault Overflow = iota

	// OverflowCatchUp has the client read on in the topic's history at its own pace, and
	// come back to new publications when it has read all. It misses nothing as far as
	// the history reaches; if that is trimmed faster than the client reads, it is told of
	// a gap. A topic without history has OverflowClose instead.
	OverflowCatchUp

	// OverflowClose closes the session with ErrQueueFull: the client comes back
	// and, on a topic with history, gets what it missed.
	OverflowClose

	// OverflowDropOldest drops the oldest publications of this topic that wait
	// for the client, as many as must be. Where other topics' frames have filled the
	// queue all are dropped but the newest, which comes when there is space again. The
	// client is told of the gap.
	OverflowDropOldest

	// OverflowLatest drops all that wait: for topics where only the newest counts.
	OverflowLatest
)

const (
	// maxNewest bounds how many of the newest publications a client may ask for: a screen
	// of a chat twenty times over.
	maxNewest = 1000

	// maxRepairPage is how many publications a repair asks the broker for at a time.
	maxRepairPage = 1000

	// maxRing is how many publications a feed holds itself, besides the broker's
	// history: those of the seconds for which most clients are away. maxRingBytes
	// bounds them in bytes, save the newest.
	maxRing      = 256
	maxRingBytes = 1 << 20

	// maxParked bounds what waits for a repair: more is fetched afterwards.
	maxParked = 4096

	// maxRepairs is how many topics ask the broker at once what they lack. After a loss of
	// the connection all do: a broker that is asked 100,000 questions at a time answers
	// none in time, and 64 are enough to hide a round trip.
	maxRepairs = 64

	// brokerTimeout bounds one call to the broker.
	brokerTimeout = 5 * time.Second
)

// settleAfter are the times after which a new feed is compared with the history: a
// broker's interest spreads to other servers while they publish already.
var settleAfter = [...]time.Duration{150 * time.Millisecond, 2 * time.Second}

// checkEvery is the time between comparisons after that, give or take a third. It
// bounds how long a loss of the last publication of a topic can go unnoticed.
const checkEvery = 45 * time.Second

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
	return &feed{size: size, age: o.HistoryAge}
}

// begin starts the feed of a topic that has just been subscribed at the broker:
// at is the newest position, and what was delivered meanwhile waits.
func (x *topics) begin(t *topic, at Position) {
	fd := t.feed
	x.reset(fd, at)
	fd.started = true
	x.unpark(t)
	if !x.inProcess {
		fd.watch = time.AfterFunc(fd.nextCheck(), func() { x.check(t) })
	}
}

// reset begins anew at a position.
func (x *topics) reset(fd *feed, at Position) {
	fd.generation = x.generations.Add(1)
	fd.at, fd.low = at, at.Offset
	clear(fd.ring)
	fd.ring, fd.came, fd.complete, fd.bytes = fd.ring[:0], fd.came[:0], false, 0
}

// indexAfter returns the index in the ring of the first publication after an offset.
func (fd *feed) indexAfter(offset uint64) int {
	i, _ := slices.BinarySearchFunc(fd.ring, offset, func(p *broker.Publication, offset uint64) int {
		if p.Offset <= offset {
			return -1
		}
		return 1
	})
	return i
}

// receive takes a delivery; topic.mu is held.
func (x *topics) receive(t *topic, p *broker.Publication) {
	fd := t.feed
	switch {
	case p.Offset == 0: // of no history after all
		x.fanOut(t, p, Position{}, delivered)
	case !fd.started || fd.repair:
		fd.park(p)
	case p.Epoch == fd.at.Epoch && p.Offset <= fd.at.Offset: // seen
	case p.Epoch == fd.at.Epoch && (p.Offset == fd.at.Offset+1 || p.Prev != 0 && p.Prev <= fd.at.Offset):
		x.apply(t, p, delivered)
	default:
		fd.park(p)
		x.startRepair(t)
	}
}

func (fd *feed) park(p *broker.Publication) {
	if len(fd.parked) == maxParked {
		fd.overrun = true
		return
	}
	fd.parked = append(fd.parked, p)
}

// apply shows the next publication to the subscribers.
func (x *topics) apply(t *topic, p *broker.Publication, o origin) {
	fd := t.feed
	before := fd.at
	fd.at.Offset = p.Offset
	fd.push(p)
	x.fanOut(t, p, before, o)
}

// unpark applies what waited, as far as nothing is missing before it, and starts
// a repair for the rest.
func (x *topics) unpark(t *topic) {
	fd := t.feed
	parked, overrun := fd.parked, fd.overrun
	// A publication that came before the history was asked is of an older epoch, if it is
	// not of the feed's.
	parked = append(slices.DeleteFunc(slices.Clone(parked[:fd.parkedBefore]), func(p *broker.Publication) bool {
		return p.Epoch != fd.at.Epoch
	}), parked[fd.parkedBefore:]...)
	fd.parked, fd.overrun, fd.parkedBefore = nil, false, 0
	slices.SortFunc(parked, func(a, b *broker.Publication) int {
		return strings.Compare(a.Epoch, b.Epoch)*2 + cmpOffset(a, b)
	})
	for _, p := range parked {
		x.receive(t, p)
	}
	if overrun {
		x.startRepair(t)
	}
}

func cmpOffset(a, b *broker.Publication) int {
	switch {
	case a.Offset < b.Offset:
		return -1
	case a.Offset > b.Offset:
		return 1
	}
	return 0
}

// startRepair has the topic compared with the history; topic.mu is held.
func (x *topics) startRepair(t *topic) {
	fd := t.feed
	if !fd.started || x.life.Err() != nil {
		return
	}
	if fd.repair {
		fd.rerun = true
		return
	}
	fd.repair = true
	t.pins++
	go x.repair(t) // ends when the feed agrees with the history, or the topic has no subscriber
}

// repair brings the feed to where the history is.
func (x *topics) repair(t *topic) {
	t.mu.Lock()
	rounds := t.feed.rounds
	t.mu.Unlock()
	if rounds > 0 {
		sleep(x.life, lagBackoff(rounds)) // the last repair did not explain all that waits
	}
	for attempt := 0; ; attempt++ {
		err := x.fetchMissing(t)
		t.mu.Lock()
		if err == nil {
			x.endRepair(t)
			return
		}
		if x.life.Err() != nil || t.pins == 1 && len(t.subs) == 0 && len(t.listeners) == 0 {
			t.feed.repair, t.feed.parked = false, nil // nobody waits for it
			t.pins--
			x.unlock(t)
			return
		}
		t.mu.Unlock()
		if err == errMore {
			attempt = -1 // it goes on
			continue
		}
		if errors.Is(err, errLagging) {
			sleep(x.life, lagBackoff(attempt))
			continue
		}
		x.logger.Debug("live: history not to be had, trying again", "topic", t.name, "err", err)
		sleep(x.life, backoff(attempt))
	}
}

// endRepair goes on with what came meanwhile, and unlocks the topic.
func (x *topics) endRepair(t *topic) {
	fd := t.feed
	fd.repair = false
	if fd.rerun {
		fd.rerun = false
		x.startRepair(t)
	}
	x.unpark(t)
	if fd.repair {
		fd.rounds++
	} else {
		fd.rounds = 0
	}
	t.pins--
	x.unlock(t)
}

// backoff is the time before the next attempt to reach a broker that failed: 10 ms
// at first, two seconds at most.
func backoff(attempt int) time.Duration {
	d := min(10*time.Millisecond<<min(attempt, 8), 2*time.Second)
	return d/2 + rand.N(d)
}

// lagBackoff is the same for a copy of the history that is behind: copies follow
// within milliseconds, and deliveries wait.
func lagBackoff(attempt int) time.Duration {
	d := 10 * time.Millisecond << min(attempt, 3)
	return d/2 + rand.N(d)
}

var (
	errLagging = errors.New("the history that answered is behind")
	errMore    = errors.New("there are more publications than fit in a page")
)

// fetchMissing fetches what lies between the feed and the newest position.
func (x *topics) fetchMissing(t *topic) error {
	select {
	case x.repairing <- struct{}{}:
		defer func() { <-x.repairing }()
	case <-x.life.Done():
		return x.life.Err()
	}
	ctx, cancel := context.WithTimeout(x.life, brokerTimeout)
	defer cancel()
	t.mu.Lock()
	before := t.feed.at
	t.feed.parkedBefore = len(t.feed.parked)
	t.mu.Unlock()
	last, err := x.recover.Last(ctx, t.name)
	if err != nil {
		return err
	}
	// While a repair is under way nothing is applied, so before is where it stands.
	switch {
	case last == before:
		return nil
	case last.Epoch != before.Epoch || last.Offset < before.Offset:
		x.skip(t, last)
		return nil
	}
	page, err := x.recover.Read(ctx, t.name, before.Offset, last.Offset, maxRepairPage)
	if err != nil {
		return err
	}
	return x.fill(t, before, last, page)
}

// fill applies a page that was read to bring the feed from one position to another.
func (x *topics) fill(t *topic, from, to Position, page broker.Page) error {
	if page.Epoch != from.Epoch {
		return errLagging // Last will say which is the newer
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !page.Complete {
		if len(page.Publications) == 0 {
			if page.Upto < to.Offset {
				return errLagging
			}
			x.skipLocked(t, to)
			return nil
		}
		at := Position{Epoch: from.Epoch, Offset: page.Publications[0].Offset - 1}
		before := t.feed.at
		x.reset(t.feed, at)
		x.announceGap(t, before, at)
	}
	for _, p := range page.Publications {
		if p.Offset > t.feed.at.Offset && p.Offset <= to.Offset {
			x.apply(t, p, fetched)
		}
	}
	if page.Upto < to.Offset {
		if page.Upto > from.Offset {
			t.feed.at.Offset = max(t.feed.at.Offset, page.Upto)
			return errMore
		}
		return errLagging
	}
	t.feed.at.Offset = to.Offset
	return nil
}

// skip gives up what lies before the newest position, which is not to be had: the
// history began anew, or lost its end. What has been delivered since is kept.
func (x *topics) skip(t *topic, to Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.feed.parked {
		if p.Epoch == to.Epoch && p.Offset <= to.Offset {
			to.Offset = p.Offset - 1
		}
	}
	x.skipLocked(t, to)
}

func (x *topics) skipLocked(t *topic, to Position) {
	before := t.feed.at
	x.reset(t.feed, to)
	x.announceGap(t, before, to)
}

// lost is the broker's word that deliveries may be missing.
func (x *topics) lost(name string) {
	if x.recover == nil {
		return
	}
	if name != "" {
		if t := x.find(name); t != nil {
			x.checkFeed(t)
		}
		return
	}
	for i := range x.shards {
		sh := &x.shards[i]
		sh.mu.RLock()
		all := make([]*topic, 0, len(sh.topics))
		for _, t := range sh.topics {
			all = append(all, t)
		}
		sh.mu.RUnlock()
		for _, t := range all {
			x.checkFeed(t)
		}
	}
}

func (x *topics) checkFeed(t *topic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feed != nil && !t.gone {
		x.startRepair(t)
	}
}

// check compares the feed with the history soon after it began, and then now and
// then, until the topic has gone. A timer calls it, so no goroutine waits for it.
func (x *topics) check(t *topic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone || x.life.Err() != nil {
		return
	}
	t.feed.watch.Reset(t.feed.nextCheck())
	x.startRepair(t)
}

// nextCheck returns how long it is until the next comparison.
func (fd *feed) nextCheck() time.Duration {
	fd.checks++
	if fd.checks <= len(settleAfter) {
		return settleAfter[fd.checks-1]
	}
	return checkEvery*2/3 + rand.N(checkEvery*2/3)
}
