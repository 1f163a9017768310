package live

import (
	"runtime"
	"slices"
	"sync"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// After a restart a thousand clients come back at once and have missed the same. So a part
// that was made for one of them is kept for the others, for as long as somebody catches up.

// maxSharedBytes bounds the parts that a server keeps: a hundred full ones, which is what a
// thousand clients of a dozen busy topics ask for at about the same time.
const maxSharedBytes = 4 << 20

// sharedParts is the parts that a server keeps, the newest that it has made.
type sharedParts struct {
	mu    sync.Mutex // guards what follows; no lock is taken under it
	parts map[partKey]*sharedPart
	order []partKey // oldest first
	bytes int
}

// sharedPart is a part as it is the same for many sessions.
type sharedPart struct {
	first    *Publication
	upto     Position     // of the last publication
	frame    *frame.Frame // for a part of publications
	messages []byte       // for a reply: its member "messages"
}

// partKey is what a shared part depends on.
type partKey struct {
	topic      string
	from       Position
	wire       wire
	compressed bool
	reply      bool
	answer     bool // all of it answers the client, and is marked as recovered; false: nothing of it does
}

func (s *Session) partKey(t *topic, c *cursor, m missed) partKey {
	return partKey{
		topic:      t.name,
		from:       m.from,
		wire:       s.wire,
		compressed: s.compressed && m.reply == nil,
		reply:      m.reply != nil,
		answer:     m.from.Offset < c.upto,
	}
}

// find returns the part that a cursor needs next, if it was made for another session; nil: it
// was not.
func (x *sharedParts) find(key partKey, t *topic, c *cursor) *sharedPart {
	x.mu.Lock()
	p := x.parts[key]
	x.mu.Unlock()
	if p == nil || key.answer && p.upto.Offset > c.upto || t.expired(p.first) {
		return nil
	}
	return p
}

// add keeps a part for others, unless it is different for them.
func (x *sharedParts) add(key partKey, c *cursor, publications []*Publication, p *sharedPart) {
	if len(publications) == 0 || p.len() > maxSharedBytes/4 || key.answer && p.upto.Offset > c.upto {
		return
	}
	if !key.answer && slices.ContainsFunc(publications, func(p *Publication) bool { return p.Except != "" }) {
		return
	}
	p.first = publications[0]
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.parts == nil {
		x.parts = make(map[partKey]*sharedPart)
	}
	if old := x.parts[key]; old != nil { // of another session at the same time, or it has expired
		x.bytes -= old.len()
	} else {
		x.order = append(x.order, key)
	}
	x.parts[key] = p
	for x.bytes += p.len(); x.bytes > maxSharedBytes; {
		oldest := x.order[0]
		x.bytes -= x.parts[oldest].len()
		delete(x.parts, oldest)
		x.order = x.order[1:]
	}
}

// clear drops all: nobody catches up.
func (x *sharedParts) clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.parts, x.order, x.bytes = nil, nil, 0
}

func (p *sharedPart) len() int {
	if p.frame != nil {
		return p.frame.Len()
	}
	return len(p.messages)
}

// alignPart cuts a part where the parts of clients that have missed a little more or less are
// cut too, so that they share what follows: at the offset in it with the most zeros at its end.
func alignPart(publications []*Publication) []*Publication {
	first, end := publications[0].Offset, publications[len(publications)-1].Offset
	for next := end & (end - 1); next >= first && next != 0; next = end & (end - 1) {
		end = next
	}
	for publications[len(publications)-1].Offset > end {
		publications = publications[:len(publications)-1]
	}
	return publications
}

// startMaking waits until the caller may make a part. Half of the CPUs make parts, so that
// publishing goes on beside. The caller steps back behind what waits for a CPU: else one that
// makes parts would hand over to the next, and nothing else came to its turn.
func (x *topics) startMaking() {
	x.making <- struct{}{}
	runtime.Gosched()
}

func (x *topics) stopMaking() { <-x.making }
