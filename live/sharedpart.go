package live

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
	"github.com/livetopic/livetopic/live/internal/frame"
)

// After a restart a thousand clients come back at once, and have missed the same publications.
// So a part that was made for one client is kept for the others, for as long as any subscription
// catches up.

// maxSharedBytes bounds the parts that a server keeps. A hundred full parts fit in it: about
// as many as a thousand clients of a dozen busy topics need at the same time.
const maxSharedBytes = 4 << 20

// sharedParts holds the parts that a server has made last.
type sharedParts struct {
	catchingUp *atomic.Int64 // how many subscriptions catch up

	mu    sync.Mutex // guards the fields below; no lock is taken under it
	parts map[partKey]*sharedPart
	order []partKey // oldest first
	bytes int       // of all parts

	claims map[partKey]*partClaim // the parts for which a session asks the broker
}

// partClaim is a part for which a session asks the broker. The other sessions that need it wait.
type partClaim struct {
	key       partKey
	waiting   []*Session    // the sessions that wait, and those that have ended meanwhile; guarded by sharedParts.mu
	pass      *pass         // the latest pass of the session that asks; nil: it has not applied for one; guarded by sharedParts.mu
	done      chan struct{} // closed when the session that asks has ended its attempt
	succeeded bool          // the part was made; set before done is closed
}

// sharedPart holds the bytes of a part that are the same for many sessions.
type sharedPart struct {
	since    int64        // when its oldest publication came, see feed.arrivedBy; the part is used until that publication expires
	upto     Position     // the position of a cursor after this part
	frame    *frame.Frame // all publications, each as a frame; nil for a reply
	messages []byte       // for a reply: its member "messages"
	data     int          // bytes of the publications, before compression
}

// partKey has all that a shared part depends on. Sessions with the same key can be sent the same
// part.
type partKey struct {
	topic      string
	generation int64    // of the feed: a history may lose its end, and use its numbers again
	from       Position // the part begins after this position
	wire       wire
	compressed bool // of frames; a reply is compressed for each session
	reply      bool
	answer     bool // true: all publications answer the client, and are marked as recovered; false: all are not
}

// partKey returns the key of the part that a cursor needs next.
func (s *Session) partKey(t *topic, c *cursor, m missed) partKey {
	return partKey{
		topic:      t.name,
		generation: m.generation,
		from:       m.from,
		wire:       s.wire,
		compressed: s.compressed && m.reply == nil,
		reply:      m.reply != nil,
		answer:     m.from.Offset < c.upto,
	}
}

// find returns the part that a cursor needs next, if it was made for another session and may be
// used here. If not, find returns nil.
func (sp *sharedParts) find(key partKey, t *topic, c *cursor) *sharedPart {
	sp.mu.Lock()
	p := sp.parts[key]
	sp.mu.Unlock()
	if p == nil || key.answer && p.upto.Offset > c.upto || p.expired(t.opts.HistoryAge) {
		return nil
	}
	return p
}

// expired reports whether the oldest publication of a part is older than age. An age of 0 stands
// for no limit.
func (p *sharedPart) expired(age time.Duration) bool {
	return age > 0 && clock.Now()-p.since > int64(age)
}

// add keeps a part for other sessions. It does nothing if the part would be different for them:
// because it goes beyond the answer to this client, or because a publication is not for everybody.
func (sp *sharedParts) add(key partKey, c *cursor, publications []*broker.Publication, p *sharedPart) {
	if len(publications) == 0 || p.len() > maxSharedBytes/4 || key.answer && p.upto.Offset > c.upto {
		return
	}
	if !key.answer && slices.ContainsFunc(publications, func(p *broker.Publication) bool { return p.Except != "" }) {
		return
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.catchingUp.Load() == 0 {
		return // clear was called, or will be
	}
	if sp.parts == nil {
		sp.parts = make(map[partKey]*sharedPart)
	}
	if old := sp.parts[key]; old != nil { // another session made it at the same time, or the old part has expired
		sp.bytes -= old.len()
	} else {
		sp.order = append(sp.order, key)
	}
	sp.parts[key] = p
	for sp.bytes += p.len(); sp.bytes > maxSharedBytes; {
		oldest := sp.order[0]
		sp.bytes -= sp.parts[oldest].len()
		delete(sp.parts, oldest)
		sp.order = sp.order[1:]
	}
}

// claim lets a session ask the broker for a part, and makes other sessions that need the part wait. If
// another session has the claim already, isMine is false, and the caller may wait for that session.
func (sp *sharedParts) claim(key partKey, s *Session) (claim *partClaim, isMine bool) {
	sp.mu.Lock()
	claim = sp.claims[key]
	if claim == nil {
		if sp.claims == nil {
			sp.claims = make(map[partKey]*partClaim)
		}
		claim = &partClaim{key: key, done: make(chan struct{})}
		sp.claims[key] = claim
		sp.mu.Unlock()
		return claim, true
	}
	claim.waiting = append(claim.waiting, s)
	p := claim.pass
	sp.mu.Unlock()
	if p != nil {
		p.hasten(s)
	}
	return claim, false
}

// hasten notes the pass of the session that asks. The turn of the pass is that of the session whose turn
// comes first, of all that wait for the part. A part may take several questions, and each has its pass.
func (sp *sharedParts) hasten(c *partClaim, p *pass) {
	if c == nil {
		return
	}
	sp.mu.Lock()
	waiting := c.waiting
	c.pass = p
	sp.mu.Unlock()
	for _, s := range waiting {
		p.hasten(s)
	}
}

// succeed notes that the part was made.
func (c *partClaim) succeed() {
	if c != nil {
		c.succeeded = true
	}
}

// release ends a claim. The sessions that wait for the part go on.
func (sp *sharedParts) release(c *partClaim) {
	if c == nil {
		return
	}
	sp.mu.Lock()
	delete(sp.claims, c.key)
	if len(sp.claims) == 0 {
		sp.claims = nil
	}
	sp.mu.Unlock()
	close(c.done)
}

// clear drops all parts. It is called when no subscription catches up any more.
func (sp *sharedParts) clear() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.parts, sp.order, sp.bytes = nil, nil, 0
}

// len returns what a part counts for in maxSharedBytes.
func (p *sharedPart) len() int {
	if p.frame != nil {
		return partCost + p.frame.Len()
	}
	return partCost + len(p.messages)
}

// partCost is the memory that a part takes besides its bytes: two structs, its key twice, and its
// place in the map. The topic's name has the usual length.
const partCost = 512

// alignPart shortens a part so that it ends at a round offset. Of the offsets after the part's first
// quarter, that is the offset with the most zero bits at its end. Clients that have missed a little
// more or a little less then mostly come to the same offset. From there on they share parts.
func alignPart(publications []*broker.Publication) []*broker.Publication {
	least := publications[len(publications)/4].Offset
	end := publications[len(publications)-1].Offset
	// end & (end - 1) is end with its lowest 1 bit cleared.
	for next := end & (end - 1); next >= least && next != 0; next = end & (end - 1) {
		end = next
	}
	for publications[len(publications)-1].Offset > end {
		publications = publications[:len(publications)-1]
	}
	return publications
}

// startMaking waits until the caller may make a part. At most half of the CPUs make parts at
// the same time, so that publishing goes on. Gosched lets the goroutines that wait for a CPU
// run first. Otherwise a goroutine that has made its part would hand its CPU over to the next
// goroutine that makes a part, and all other goroutines would wait.
func (ts *topics) startMaking() {
	ts.making <- struct{}{}
	runtime.Gosched()
}

// stopMaking lets another goroutine make a part.
func (ts *topics) stopMaking() { <-ts.making }
