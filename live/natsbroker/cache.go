package natsbroker

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// JetStream reads forwards, over every message that lies between two of a topic. Where many
// topics share a stream, the newest fifty publications of one cost ten milliseconds of a CPU.
// While the stream is read, nothing is stored in it. So what was read of a topic that no session
// has is kept for a while, in case somebody else asks for it.

const (
	// cacheBytes bounds what is kept of all topics together, and shelfTopicBytes what is kept
	// of one. Fifty publications of 200 bytes count 20 KB, so there is space for 1,600 such
	// topics. What was not asked for longest makes room.
	cacheBytes      = 32 << 20
	cacheTopicBytes = 512 << 10

	// cacheTime is how long what was read is kept. It bounds for how long somebody may be sent
	// what an administrator has deleted from the stream.
	cacheTime = 5 * time.Minute

	// publicationBytes is what a publication takes besides its data.
	publicationBytes = 200
)

// readCache has what was read of topics of late.
type readCache struct {
	mu     sync.Mutex // guards what follows; no other lock is taken under it
	topics map[cacheKey]*cachedTopic
	idle   list.List // of topics that nobody reads now: first the one that was not asked for longest
	bytes  int       // of all topics
}

type cacheKey struct {
	stream *stream
	tokens string
}

// cachedTopic is what was read of one topic. Whoever asks for the topic's history takes its turn, so
// that what several ask for at the same time is read once.
type cachedTopic struct {
	key  cacheKey
	turn chan struct{} // holds one while somebody has the turn

	// Guarded by shelf.mu:
	readers   int           // that have the turn or wait for it
	place     *list.Element // in shelf.longest; nil: there are readers
	idleSince int64         // when the last reader left, on the clock of package clock
	bytes     int           // of publications, as shelf.bytes counts them

	part // guarded by turn
}

// part is the publications of a topic after one offset and up to another, all of them.
type part struct {
	epoch         string
	readAt        int64               // when it was read first, on the clock of package clock
	newestMessage message             // of the topic, when the part was read: with another the part is of no use
	low, high     uint64              // the publications after low and up to high are here
	fromOldest    bool                // there are none before them that a newcomer would be sent
	publications  []*live.Publication // oldest first; they are not changed
}

// take returns what there is of a topic, and waits for whoever reads it now. The caller
// must return it with leave.
func (c *readCache) take(ctx context.Context, key cacheKey) (*cachedTopic, error) {
	c.mu.Lock()
	if c.topics == nil {
		c.topics = make(map[cacheKey]*cachedTopic)
	}
	t := c.topics[key]
	if t == nil {
		t = &cachedTopic{key: key, turn: make(chan struct{}, 1)}
		c.topics[key] = t
	}
	if t.place != nil {
		c.idle.Remove(t.place)
		t.place = nil
	}
	t.readers++
	c.mu.Unlock()
	select {
	case t.turn <- struct{}{}:
		return t, nil
	case <-ctx.Done():
		c.release(t)
		return nil, ctx.Err()
	}
}

// takeCached is take with the newest message of the topic, by which the caller knows whether
// what is there is still of use; nil: there is none.
func (st *stream) takeCached(ctx context.Context, tokens string) (*cachedTopic, *message, error) {
	shelf := &st.broker.cache
	t, err := shelf.take(ctx, cacheKey{st, tokens})
	if err != nil {
		return nil, nil, err
	}
	newest, err := st.newestOf(ctx, tokens)
	if err != nil {
		shelf.leave(t)
		return nil, nil, err
	}
	return t, newest, nil
}

// leave ends the caller's turn.
func (c *readCache) leave(t *cachedTopic) {
	t.trim()
	bytes := costOf(t.publications)
	c.mu.Lock()
	c.bytes += bytes - t.bytes
	t.bytes = bytes
	c.mu.Unlock()
	<-t.turn
	c.release(t)
}

// release notes that a reader has gone, and makes room.
func (c *readCache) release(t *cachedTopic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.readers--; t.readers == 0 {
		t.idleSince = clock.Now()
		t.place = c.idle.PushBack(t)
		if t.bytes == 0 {
			c.drop(t)
		}
	}
	for c.bytes > cacheBytes && c.idle.Len() > 0 {
		c.drop(c.idle.Front().Value.(*cachedTopic))
	}
}

// drop forgets a topic that has no reader; mu is held.
func (c *readCache) drop(t *cachedTopic) {
	c.idle.Remove(t.place)
	delete(c.topics, t.key)
	c.bytes -= t.bytes
}

// dropOld forgets what nobody has asked for since shelfTime.
func (c *readCache) dropOld() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.idle.Len() > 0 {
		t := c.idle.Front().Value.(*cachedTopic)
		if clock.Now()-t.idleSince < int64(cacheTime) {
			return
		}
		c.drop(t)
	}
}

func costOf(publications []*live.Publication) int {
	return bytesOf(publications) + len(publications)*publicationBytes
}

// trim drops the oldest publications that are more than one topic may have.
func (p *part) trim() {
	bytes := costOf(p.publications)
	n := 0
	for ; bytes > cacheTopicBytes; n++ {
		bytes -= len(p.publications[n].Data) + publicationBytes
	}
	if n > 0 {
		p.low, p.fromOldest = p.publications[n-1].Offset, false
		p.publications = slices.Clone(p.publications[n:])
		p.high = max(p.high, p.low)
	}
}

// isOf reports whether the part is of a topic whose newest message is now this one; nil: it has
// none.
func (p *part) isOf(epoch string, newest *message) bool {
	return newest != nil && p.epoch == epoch && clock.Now()-p.readAt < int64(cacheTime) &&
		p.newestMessage.Sequence == newest.Sequence && p.newestMessage.Time.Equal(newest.Time)
}

// add joins what was read to the part, if the two adjoin, or else replaces it.
func (p *part) add(read part) {
	switch {
	case !p.isOf(read.epoch, &read.newestMessage) || read.low > p.high || read.high < p.low:
		*p = read
	case read.low <= p.low && read.high >= p.high:
		*p = read
	case read.low < p.low:
		before := read.publications[:indexAfter(read.publications, p.low)]
		p.low, p.fromOldest, p.publications = read.low, read.fromOldest, slices.Concat(before, p.publications)
	case read.high > p.high:
		after := read.publications[indexAfter(read.publications, p.high):]
		p.high, p.publications = read.high, slices.Concat(p.publications, after)
	}
}

// page returns a page of the publications after one offset and up to another, if they are here.
func (p *part) page(after, upto uint64, limit int) (page live.Page, ok bool) {
	end := p.high
	if end >= p.newestMessage.Sequence {
		end = max(end, upto) // nothing is after the newest
	}
	if after < p.low || after >= end || limit <= 0 {
		return live.Page{}, false
	}
	found := p.publications[indexAfter(p.publications, after):indexAfter(p.publications, upto)]
	found, all := cut(found, limit)
	page = live.Page{Publications: slices.Clone(found), Epoch: p.epoch, Upto: min(upto, end), Complete: true}
	if !all {
		page.Upto = found[len(found)-1].Offset
	}
	return page, true
}

// tail returns the newest publications, if they are here: limit at most, and none at the beginning
// that was stored before a time.
func (p *part) tail(limit int, oldest time.Time) (page live.Page, ok bool) {
	if p.high < p.newestMessage.Sequence || !p.fromOldest && len(p.publications) < limit {
		return live.Page{}, false
	}
	newest := p.publications[max(len(p.publications)-limit, 0):]
	for len(newest) > 0 && newest[0].Time.Before(oldest) {
		newest = newest[1:]
	}
	newest, all := cut(newest, len(newest))
	page = live.Page{Publications: slices.Clone(newest), Epoch: p.epoch, Upto: p.high, Complete: true}
	if !all {
		page.Upto = newest[len(newest)-1].Offset
	}
	return page, true
}

// cut returns the first publications: limit at most, and none after the one that brings them to
// pageBytes. all says that none is left.
func cut(publications []*live.Publication, limit int) (first []*live.Publication, all bool) {
	bytes := 0
	for i, p := range publications {
		if i == limit || bytes >= pageBytes {
			return publications[:i], false
		}
		bytes += len(p.Data)
	}
	return publications, true
}

// indexAfter returns the index of the first publication after an offset.
func indexAfter(publications []*live.Publication, offset uint64) int {
	i, _ := slices.BinarySearchFunc(publications, offset, func(p *live.Publication, offset uint64) int {
		if p.Offset <= offset {
			return -1
		}
		return 1
	})
	return i
}
