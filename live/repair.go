package live

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

const (
	// maxRepairPage is how many publications a repair asks the broker for at a time.
	maxRepairPage = 1000

	// maxParked bounds the deliveries that wait for a repair. More deliveries are dropped, and the
	// next repair fetches them.
	maxParked = 4096

	// maxRepairs is how many topics ask the broker at once for missing publications. After the
	// connection to the broker was lost, all topics have to ask. A broker that gets 100,000
	// questions at a time answers too late. 64 questions are enough to hide a round trip.
	maxRepairs = 64
)

// settleAfter are the times after which a new feed is compared with the history. Other servers
// learn of a new subscription a little later. What they publish before that is not delivered here.
var settleAfter = [...]time.Duration{150 * time.Millisecond, 2 * time.Second}

// checkEvery is the average time between the comparisons after that. It varies by a third. If the
// last publication of a topic is lost, the next comparison finds it.
const checkEvery = 45 * time.Second

// begin starts the feed of a topic that has just been subscribed at the broker. at is the newest
// position, and table has the publications of a keyed topic's history. Publications that were delivered
// already were parked, and are applied now.
func (ts *topics) begin(t *topic, at Position, table []*broker.Publication) {
	feed := t.feed
	ts.reset(feed, at)
	if feed.keys != nil {
		feed.fillTable(table)
	}
	feed.started = true
	ts.unpark(t)
	if !ts.inProcess {
		feed.watch = time.AfterFunc(feed.nextCheck(), func() { ts.check(t) })
	}
}

// check compares the feed with the history, soon after the feed began and then from time to time,
// until the topic has gone. A timer calls it, so that no goroutine waits.
func (ts *topics) check(t *topic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone || ts.life.Err() != nil {
		return
	}
	t.feed.watch.Reset(t.feed.nextCheck())
	ts.startRepair(t)
}

// nextCheck returns how long it is until the next comparison.
func (f *feed) nextCheck() time.Duration {
	f.checks++
	if f.checks <= len(settleAfter) {
		return settleAfter[f.checks-1]
	}
	return checkEvery*2/3 + rand.N(checkEvery*2/3)
}

// lost is called when the broker says that deliveries may be missing. "" stands for all topics.
func (ts *topics) lost(name string) {
	if ts.recover == nil {
		return
	}
	if name != "" {
		if t := ts.find(name); t != nil {
			ts.checkFeed(t)
		}
		return
	}
	for i := range ts.shards {
		sh := &ts.shards[i]
		sh.mu.RLock()
		all := make([]*topic, 0, len(sh.topics))
		for _, t := range sh.topics {
			all = append(all, t)
		}
		sh.mu.RUnlock()
		for _, t := range all {
			ts.checkFeed(t)
		}
	}
}

func (ts *topics) checkFeed(t *topic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feed != nil && !t.gone {
		ts.startRepair(t)
	}
}

// receive takes a delivery; topic.mu is held.
func (ts *topics) receive(t *topic, p *broker.Publication) {
	feed := t.feed
	switch {
	case p.Offset == 0: // the broker did not keep it
		ts.fanOut(t, p, Position{}, delivered)
	case !feed.started || feed.repair:
		feed.park(p)
	case feed.keys != nil:
		ts.receiveKey(t, p)
	case p.Epoch == feed.at.Epoch && p.Offset <= feed.at.Offset: // the subscribers have seen it
	case p.Epoch == feed.at.Epoch && (p.Offset == feed.at.Offset+1 || p.Prev != 0 && p.Prev <= feed.at.Offset):
		ts.apply(t, p, delivered)
	default:
		feed.park(p)
		ts.startRepair(t)
	}
}

func (f *feed) park(p *broker.Publication) {
	if len(f.parked) == maxParked {
		f.overrun = true
		return
	}
	f.parked = append(f.parked, p)
}

// apply shows the next publication to the subscribers.
func (ts *topics) apply(t *topic, p *broker.Publication, o origin) {
	feed := t.feed
	before := feed.at
	feed.at.Offset = p.Offset
	feed.push(p)
	ts.fanOut(t, p, before, o)
}

// startRepair has the topic compared with the history; topic.mu is held.
func (ts *topics) startRepair(t *topic) {
	feed := t.feed
	if !feed.started || ts.life.Err() != nil {
		return
	}
	if feed.repair {
		feed.rerun = true
		return
	}
	feed.repair = true
	t.pins++
	go ts.repair(t) // ends when the feed agrees with the history, or the topic has no subscriber
}

// repair brings the feed to where the history is.
func (ts *topics) repair(t *topic) {
	t.mu.Lock()
	rounds := t.feed.rounds
	t.mu.Unlock()
	if rounds > 0 {
		sleep(ts.life, lagBackoff(rounds)) // after the last repair, parked publications still had a hole before them
	}
	for attempt := 0; ; attempt++ {
		err := ts.fetchMissing(t)
		t.mu.Lock()
		if err == nil {
			ts.endRepair(t)
			return
		}
		if ts.life.Err() != nil || t.pins == 1 && len(t.subs) == 0 && len(t.listeners) == 0 {
			t.feed.repair = false // the topic has no subscriber, or the server is shut down
			t.feed.takeParked()
			t.pins--
			ts.unlock(t)
			return
		}
		t.mu.Unlock()
		if err == errMore {
			attempt = -1 // there was progress
			continue
		}
		if errors.Is(err, errLagging) {
			sleep(ts.life, lagBackoff(attempt))
			continue
		}
		ts.server.logOfClient(slog.LevelWarn, "live: history cannot be read, trying again", "topic", t.name, "err", err)
		sleep(ts.life, backoff(attempt))
	}
}

var (
	errLagging = errors.New("the history that answered is behind")
	errMore    = errors.New("there are more publications than fit in a page")
)

// fetchMissing fetches the publications between the feed and the newest position.
func (ts *topics) fetchMissing(t *topic) error {
	select {
	case ts.repairing <- struct{}{}:
		defer func() { <-ts.repairing }()
	case <-ts.life.Done():
		return ts.life.Err()
	}
	ctx, cancel := context.WithTimeout(ts.life, brokerTimeout)
	defer cancel()
	t.mu.Lock()
	before := t.feed.at
	t.feed.parkedBefore = len(t.feed.parked)
	t.mu.Unlock()
	last, err := ts.recover.Last(ctx, t.name)
	if err != nil {
		return err
	}
	if t.opts.Keyed {
		return ts.fetchKeys(ctx, t, last)
	}
	// While a repair is under way no delivery is applied. So the feed is still at before.
	switch {
	case last == before:
		return nil
	case last.Epoch != before.Epoch || last.Offset < before.Offset:
		ts.skip(t, last)
		return nil
	}
	page, err := ts.recover.Read(ctx, t.name, before.Offset, last.Offset, maxRepairPage)
	if err != nil {
		return err
	}
	return ts.fill(t, before, last, page)
}

// fill applies a page that was read to bring the feed from one position to another.
func (ts *topics) fill(t *topic, from, to Position, page broker.Page) error {
	if page.Epoch != from.Epoch {
		return errLagging // the next call of Last says which of the two epochs is the newer
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !page.Complete {
		if len(page.Publications) == 0 {
			if page.Upto < to.Offset {
				return errLagging
			}
			ts.skipLocked(t, to)
			return nil
		}
		at := Position{Epoch: from.Epoch, Offset: page.Publications[0].Offset - 1}
		before := t.feed.at
		ts.reset(t.feed, at)
		ts.announceGap(t, before, at)
	}
	for _, p := range page.Publications {
		if p.Offset > t.feed.at.Offset && p.Offset <= to.Offset {
			ts.apply(t, p, fetched)
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

// skip gives up the publications up to the newest position, because the history has them no more: it
// began anew, or lost its end. Parked publications are not given up.
func (ts *topics) skip(t *topic, to Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.feed.parked {
		if p.Epoch == to.Epoch && p.Offset <= to.Offset {
			to.Offset = p.Offset - 1
		}
	}
	ts.skipLocked(t, to)
}

func (ts *topics) skipLocked(t *topic, to Position) {
	before := t.feed.at
	ts.reset(t.feed, to)
	ts.announceGap(t, before, to)
}

// endRepair applies the publications that came during the repair, and unlocks the topic.
func (ts *topics) endRepair(t *topic) {
	feed := t.feed
	feed.repair = false
	if feed.rerun {
		feed.rerun = false
		ts.startRepair(t)
	}
	ts.unpark(t)
	if feed.repair {
		feed.rounds++
	} else {
		feed.rounds = 0
	}
	t.pins--
	ts.unlock(t)
}

// unpark applies the parked publications in order, up to the first hole. It starts a repair for the
// others.
func (ts *topics) unpark(t *topic) {
	feed := t.feed
	before, after, overrun := feed.takeParked()
	// If a publication came before the history was asked, and is not of the feed's epoch, it is of
	// an older epoch.
	parked := append(slices.DeleteFunc(slices.Clone(before), func(p *broker.Publication) bool {
		return p.Epoch != feed.at.Epoch
	}), after...)
	slices.SortFunc(parked, func(a, b *broker.Publication) int {
		return strings.Compare(a.Epoch, b.Epoch)*2 + cmpOffset(a, b)
	})
	for _, p := range parked {
		ts.receive(t, p)
	}
	if overrun {
		ts.startRepair(t)
	}
}

// takeParked returns the parked publications, and leaves none in the feed. before has those that
// came before the history was last asked, after has the others. overrun says that some were dropped.
func (f *feed) takeParked() (before, after []*broker.Publication, overrun bool) {
	before, after, overrun = f.parked[:f.parkedBefore], f.parked[f.parkedBefore:], f.overrun
	f.parked, f.parkedBefore, f.overrun = nil, 0, false
	return before, after, overrun
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

// backoff returns the time before the next attempt to reach a broker that failed: 10 ms at first,
// and two seconds at most.
func backoff(attempt int) time.Duration {
	d := min(10*time.Millisecond<<min(attempt, 8), 2*time.Second)
	return d/2 + rand.N(d)
}

// lagBackoff is the same for a copy of the history that lags. It is shorter, because copies follow
// within milliseconds, and deliveries wait meanwhile.
func lagBackoff(attempt int) time.Duration {
	d := 10 * time.Millisecond << min(attempt, 3)
	return d/2 + rand.N(d)
}
