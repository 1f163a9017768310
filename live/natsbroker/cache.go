package natsbroker

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// JetStream reads forwards, over every message that lies between two messages of a topic. In a
// stream with many topics, the newest fifty publications of one topic cost ten milliseconds of
// a CPU. While JetStream reads the stream, it stores nothing in it. So the broker caches what
// it has read of a topic that no session has, in case another client asks for it.

const (
	// cacheBytes bounds the cache of all topics together, and cacheTopicBytes the cache of one
	// topic. Fifty publications of 200 bytes count as 20 KB, so there is space for 1,600 such
	// topics. The topics that were idle longest are dropped first.
	cacheBytes      = 32 << 20
	cacheTopicBytes = 512 << 10

	// cacheTime is how long publications are cached. An administrator may delete publications
	// from the stream, and clients may still get them for this time.
	cacheTime = 5 * time.Minute

	// publicationBytes is the memory that a publication takes in addition to its data.
	publicationBytes = 200
)

// readCache holds what was recently read of topics.
type readCache struct {
	mu     sync.Mutex // guards the fields below
	topics map[cacheKey]*cachedTopic
	idle   list.List // of *cachedTopic without readers; the one that was idle longest is first
	bytes  int       // of all topics
}

type cacheKey struct {
	stream *stream
	tokens string
}

// cachedTopic is what was read of one topic. Readers of a topic take turns. So when several ask
// for it at the same time, it is read once.
type cachedTopic struct {
	key  cacheKey
	turn turn // held by the reader

	// Guarded by readCache.mu:
	readers   int           // how many have the turn or wait for it
	place     *list.Element // in readCache.idle; nil: there are readers
	idleSince int64         // when the last reader left, on the clock of package clock
	bytes     int           // of publications, as counted in readCache.bytes

	part // guarded by turn
}

// part holds all publications of a topic after one offset and up to another.
type part struct {
	epoch         string
	readAt        int64                 // when its first publications were read, on the clock of package clock
	newestMessage message               // the topic's newest message when the part was read; with a newer message the part is void
	low, high     uint64                // the publications after low and up to high are here
	fromOldest    bool                  // a newcomer would get no publications before these
	publications  []*broker.Publication // oldest first; they are not changed
}

// take returns the cached part of a topic, after the readers before it have left. The caller
// must return it with leave. The error is that of ctx.
func (c *readCache) take(ctx context.Context, key cacheKey) (*cachedTopic, error) {
	c.mu.Lock()
	if c.topics == nil {
		c.topics = make(map[cacheKey]*cachedTopic)
	}
	t := c.topics[key]
	if t == nil {
		t = &cachedTopic{key: key, turn: make(turn, 1)}
		c.topics[key] = t
	}
	if t.place != nil {
		c.idle.Remove(t.place)
		t.place = nil
	}
	t.readers++
	c.mu.Unlock()
	if err := t.turn.take(ctx); err != nil {
		c.release(t)
		return nil, err
	}
	return t, nil
}

// takeCached is take, and asks for the newest message of the topic, which tells whether the
// cached part is still valid; nil: the topic has no message.
func (st *stream) takeCached(ctx context.Context, tokens string) (*cachedTopic, *message, error) {
	cache := &st.broker.cache
	t, err := cache.take(ctx, cacheKey{st, tokens})
	if err != nil {
		return nil, nil, err
	}
	newest, err := st.newestOf(ctx, tokens)
	if err != nil {
		cache.leave(t)
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
	t.turn.leave()
	c.release(t)
}

// release notes that a reader has gone, and makes space.
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

// drop removes a topic that has no reader; mu is held.
func (c *readCache) drop(t *cachedTopic) {
	c.idle.Remove(t.place)
	delete(c.topics, t.key)
	c.bytes -= t.bytes
}

// dropOld removes the topics that had no reader for cacheTime.
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

func costOf(publications []*broker.Publication) int {
	return bytesOf(publications) + len(publications)*publicationBytes
}

// trim drops the oldest publications until the part is within cacheTopicBytes.
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

// isOf reports whether the part is valid for a topic with this epoch and this newest message;
// nil: the topic has no message.
func (p *part) isOf(epoch string, newest *message) bool {
	return newest != nil && p.epoch == epoch && clock.Now()-p.readAt < int64(cacheTime) &&
		p.newestMessage.Sequence == newest.Sequence && p.newestMessage.Time.Equal(newest.Time)
}

// add joins a part that was read to the cached part, if the two adjoin. Otherwise it replaces
// the cached part.
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

// page returns a page of the publications after one offset and up to another. ok is false if
// the cache lacks some of them.
func (p *part) page(after, upto uint64, limit int) (page broker.Page, ok bool) {
	end := p.high
	if end >= p.newestMessage.Sequence {
		end = max(end, upto) // the topic has nothing after its newest message
	}
	if after < p.low || after >= end || limit <= 0 {
		return broker.Page{}, false
	}
	found := p.publications[indexAfter(p.publications, after):indexAfter(p.publications, upto)]
	found, all := cut(found, limit)
	page = broker.Page{Publications: slices.Clone(found), Epoch: p.epoch, Upto: min(upto, end), Complete: true}
	if !all {
		page.Upto = found[len(found)-1].Offset
	}
	return page, true
}

// tail returns the newest publications, limit at most. It leaves out those at the start that
// were stored before oldest. ok is false if the cache lacks some of them.
func (p *part) tail(limit int, oldest time.Time) (page broker.Page, ok bool) {
	if p.high < p.newestMessage.Sequence || !p.fromOldest && len(p.publications) < limit {
		return broker.Page{}, false
	}
	newest := p.publications[max(len(p.publications)-limit, 0):]
	for len(newest) > 0 && newest[0].Time.Before(oldest) {
		newest = newest[1:]
	}
	newest, all := cut(newest, len(newest))
	page = broker.Page{Publications: slices.Clone(newest), Epoch: p.epoch, Upto: p.high, Complete: true}
	if !all {
		page.Upto = newest[len(newest)-1].Offset
	}
	return page, true
}

// cut returns the first publications, limit at most. The one that brings them to pageBytes is
// the last. all says that these are all publications.
func cut(publications []*broker.Publication, limit int) (first []*broker.Publication, all bool) {
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
func indexAfter(publications []*broker.Publication, offset uint64) int {
	i, _ := slices.BinarySearchFunc(publications, offset, func(p *broker.Publication, offset uint64) int {
		if p.Offset <= offset {
			return -1
		}
		return 1
	})
	return i
}
