package live

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// The newest publications of a topic, for clients that come for the first time and for
// those that ask for history. A feed begins with an empty ring: the first that asks has it
// filled from the broker's history, the rest are answered from it, so that a thousand
// clients that arrive at once cost the broker one question.

// tailCall is a question to the broker for a topic's newest publications, under way or
// answered. Whoever needs the same waits for it.
type tailCall struct {
	limit int
	pass  *pass         // for the read; nil: none is needed
	done  chan struct{} // closed when what follows is there
	page  broker.Page
	err   error
}

// newest finds where the newest publications begin, n at most. What it returns is recovered:
// a client that comes for the first time misses nothing.
func (x *topics) newest(ctx context.Context, t *topic, o subscribing) (begin beginning, again bool, err error) {
	n := o.last
	read := 0
	if !t.feed.reaches(n) {
		call, err := x.tail(ctx, t, o, false)
		if err == nil && call.limit > n && call.page.Upto < t.feed.low && cutForSize(call.page) {
			// The newest n begin behind what it has, at a place that it does not show.
			call, err = x.tail(ctx, t, o, true)
		}
		if err != nil {
			return beginning{}, false, fmt.Errorf("live: topic %q: %w", t.name, err)
		}
		page := call.page
		read = bytesOf(page.Publications)
		fd := t.feed
		switch {
		case page.Epoch != fd.at.Epoch:
			x.startRepair(t)                                    // the history began anew, unnoticed,
			x.unlocked(t, func() { sleep(ctx, lagBackoff(1)) }) // or the copy that answered lags
			return beginning{}, true, ctx.Err()
		case page.Upto >= fd.low:
			// The ring was warmed.
		case !cutForSize(page):
			x.unlocked(t, func() { sleep(ctx, lagBackoff(1)) })
			return beginning{}, true, ctx.Err()
		}
		if !fd.reaches(n) { // they do not fit in the ring, or are all that there is
			from := Position{Epoch: fd.at.Epoch, Offset: fd.startOf(page.Publications, n)}
			return beginning{at: fd.at, from: from, recovered: true, newest: true, read: read}, false, nil
		}
	}
	fd := t.feed
	i := fd.indexOfLast(n)
	from := Position{Epoch: fd.at.Epoch, Offset: fd.low}
	if i > 0 {
		from.Offset = fd.ring[i-1].Offset
	}
	if i == len(fd.ring) {
		from = fd.at
	}
	return beginning{at: fd.at, from: from, recovered: true, newest: true, read: read}, false, nil
}

// startOf returns the offset after which the newest publications come, n at most, of a page
// and the ring that it reaches into.
func (fd *feed) startOf(page []*broker.Publication, n int) uint64 {
	all := slices.Clone(page)
	end := fd.at.Offset + 1
	if len(fd.ring) > 0 {
		end = fd.ring[0].Offset
	}
	for len(all) > 0 && all[len(all)-1].Offset >= end {
		all = all[:len(all)-1]
	}
	all = append(all, fd.ring...)
	if all = all[max(len(all)-n, 0):]; len(all) == 0 {
		return fd.at.Offset
	}
	return all[0].Offset - 1
}

// cutForSize reports whether a page of a Tail that does not go to the end was cut because
// it is large, rather than by a copy that lags.
func cutForSize(page broker.Page) bool {
	bytes := 0
	for _, p := range page.Publications {
		bytes += len(p.Data)
	}
	return bytes >= broker.MinTailBytes
}

// indexOfLast returns the index in the ring of the first of the last n publications that
// have not expired.
func (fd *feed) indexOfLast(n int) int {
	i := max(len(fd.ring)-n, 0)
	for i < len(fd.ring) && fd.expired(i) {
		i++
	}
	return i
}

// reaches reports whether the ring has the newest n, or all that there are.
func (fd *feed) reaches(n int) bool {
	return len(fd.ring) >= n || fd.complete || fd.low == 0
}

// tail asks the broker for the newest publications, o.last at least or exactly, one call at a
// time: the others wait for it. The topic is locked before and after, and not meanwhile.
func (x *topics) tail(ctx context.Context, t *topic, o subscribing, exactly bool) (*tailCall, error) {
	n, paid := o.last, !o.pays
	for {
		call := t.feed.tail
		if call == nil && !paid {
			paid = true
			x.unlocked(t, func() { x.payForQuestion(o.session, questionUnits) })
			continue
		}
		if call == nil {
			limit := n
			if !exactly {
				limit = min(max(n, t.feed.size), maxNewest)
			}
			call = &tailCall{limit: limit, done: make(chan struct{})}
			if !x.inProcess {
				call.pass = x.reads.apply(o.session)
			}
			t.feed.tail = call
			go x.ask(t, call) // ends with the broker's answer, or twice brokerTimeout
		} else if call.pass != nil {
			call.pass.hasten(o.session)
		}
		var err error
		x.unlocked(t, func() {
			select {
			case <-call.done:
				err = call.err
			case <-ctx.Done():
				err = ctx.Err()
			}
		})
		if err != nil || call.limit == n || call.limit > n && !exactly {
			return call, err
		}
	}
}

// ask runs in its own goroutine. So the others still get the answer if the session that asked
// first ends.
func (x *topics) ask(t *topic, call *tailCall) {
	call.page, call.err = x.askWithPass(t, call)
	t.mu.Lock()
	defer t.mu.Unlock()
	if call.err == nil && t.feed.joins(call.page) {
		t.feed.warm(call) // before anybody asks again
	}
	t.feed.tail = nil
	close(call.done)
}

func (x *topics) askWithPass(t *topic, call *tailCall) (broker.Page, error) {
	if p := call.pass; p != nil {
		ctx, cancel := context.WithTimeout(x.life, brokerTimeout)
		defer cancel()
		if err := p.await(ctx); err != nil {
			return broker.Page{}, err
		}
		defer p.leave()
	}
	ctx, cancel := context.WithTimeout(x.life, brokerTimeout)
	defer cancel()
	return x.recover.Tail(ctx, t.name, call.limit)
}

// joins reports whether nothing is missing between a page of the newest and the ring.
func (fd *feed) joins(page broker.Page) bool {
	return page.Epoch == fd.at.Epoch && page.Upto >= fd.low
}

// warm puts the answer, which joins the ring, in front of it. The ring grows to what
// clients ask for, if the history has so much and it is not too large.
func (fd *feed) warm(call *tailCall) {
	older := call.page.Publications
	for len(older) > 0 && older[len(older)-1].Offset > fd.low {
		older = older[:len(older)-1]
	}
	fd.size = max(fd.size, min(call.limit, len(call.page.Publications)))
	fd.complete = len(call.page.Publications) < call.limit && !cutForSize(call.page)
	if len(older) > 0 {
		fd.low = older[0].Offset - 1
		fd.noteOlder(older)
	}
	for _, p := range older {
		fd.bytes += len(p.Data)
	}
	fd.ring = slices.Concat(older, fd.ring)
	fd.trim()
}

// push adds the next publication to the ring.
func (fd *feed) push(p *broker.Publication) {
	fd.ring = append(fd.ring, p)
	if fd.age > 0 {
		fd.came = append(fd.came, fd.cameAt(p, clock.Now()))
	}
	fd.bytes += len(p.Data)
	fd.trim()
}

// trim drops what does not fit in the ring.
func (fd *feed) trim() {
	size := fd.size
	if fd.held {
		size = max(size, maxRing)
	}
	drop := max(len(fd.ring)-size, 0)
	for _, p := range fd.ring[:drop] {
		fd.bytes -= len(p.Data)
	}
	for fd.bytes > maxRingBytes && drop < len(fd.ring)-1 {
		fd.bytes -= len(fd.ring[drop].Data)
		drop++
	}
	if drop == 0 {
		return
	}
	fd.low = fd.ring[drop-1].Offset
	clear(fd.ring[:drop])
	fd.ring = fd.ring[drop:] // append moves the rest when as much memory lies before it
	if fd.age > 0 {
		fd.came = fd.came[drop:]
	}
	fd.complete = false // the history may still have it
}

// A publication's Time is by the clock of the node that stored it. Compared with the clock of
// another node it says nothing: one may be wrong by hours, or be set meanwhile. So a publication's
// age is counted here, from when it came, or at the latest from when one came that follows it.

// cameAt returns from when the age of a publication is counted. It came at a time at the latest.
func (fd *feed) cameAt(p *broker.Publication, latest int64) int64 {
	if fd.inProcess { // Time has a monotonic reading, of this process
		return clock.Now() - int64(time.Since(p.Time))
	}
	return latest
}

// noteOlder notes when publications came that are about to be put in front of the ring.
func (fd *feed) noteOlder(older []*broker.Publication) {
	if fd.age == 0 {
		return
	}
	latest := clock.Now()
	if len(fd.came) > 0 {
		latest = fd.came[0]
	}
	came := make([]int64, 0, len(older)+len(fd.came))
	for _, p := range older {
		came = append(came, fd.cameAt(p, latest))
	}
	fd.came = append(came, fd.came...)
}

// cameBy returns when the publication at an offset had come at the latest.
func (fd *feed) cameBy(offset uint64) int64 {
	if i := fd.indexAfter(offset - 1); i < len(fd.came) {
		return fd.came[i]
	}
	return clock.Now()
}

// expired reports whether a publication of the ring is older than the topic keeps them.
func (fd *feed) expired(index int) bool {
	return fd.age > 0 && clock.Now()-fd.came[index] > int64(fd.age)
}

// maxHistoryStep is what History takes from its reader at a time: all that was read.
const maxHistoryStep = 1 << 30

// historyReader reads the newest publications of a topic, part by part.
type historyReader struct {
	topics *topics
	asker  *Session // nil: the application
	topic  string
	ahead  []*broker.Publication // read and not yet handed on
	at     Position              // of the last that was handed on or stands in ahead
	upto   uint64                // where the history ended when it was asked for
	left   int                   // how many may be handed on still
	limit  int                   // to ask for next
}

// openHistory finds the newest publications of a topic, limit at most. What was published
// before is among them. asker is the session whose client asks; nil: the application does.
func (s *Server) openHistory(ctx context.Context, asker *Session, topic string, limit int) (*historyReader, error) {
	if err := s.checkTopic(topic); err != nil {
		return nil, err
	}
	if s.topics.recover == nil || !s.topics.recover.Keeps(topic) {
		return nil, fmt.Errorf("%w: %q", ErrNoHistory, topic)
	}
	h := &historyReader{topics: s.topics, asker: asker, topic: topic, left: max(min(limit, maxNewest), 0), limit: firstPage}
	if h.left == 0 {
		return h, nil
	}
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	page, last, err := s.topics.history(ctx, asker, topic, h.left)
	if err != nil {
		return nil, fmt.Errorf("live: history of %q: %w", topic, err)
	}
	h.ahead, h.at, h.upto = page.Publications, Position{Epoch: page.Epoch, Offset: page.Upto}, last.Offset
	return h, nil
}

// next returns the next part, of about so many bytes, and whether there are more.
func (h *historyReader) next(ctx context.Context, bytes int) (part []*broker.Publication, more bool, err error) {
	for len(h.ahead) == 0 && h.left > 0 && h.at.Offset < h.upto {
		if err := h.read(ctx); err != nil {
			return nil, false, fmt.Errorf("live: history of %q: %w", h.topic, err)
		}
	}
	part, _ = limitPart(h.ahead[:min(len(h.ahead), h.left)], maxPage, bytes)
	h.ahead = h.ahead[len(part):]
	h.left -= len(part)
	return part, h.left > 0 && (len(h.ahead) > 0 || h.at.Offset < h.upto), nil
}

// read asks the broker for what follows.
func (h *historyReader) read(ctx context.Context) error {
	for failures := 0; ; failures++ {
		page, err := h.topics.readPage(ctx, h.asker, h.topic, h.at.Offset, h.upto, h.limit)
		switch {
		case err != nil:
			return err
		case page.Epoch == h.at.Epoch && page.Upto > h.at.Offset:
			h.ahead, h.at.Offset = page.Publications, min(page.Upto, h.upto)
			if len(h.ahead) > 0 {
				h.limit = nextLimit(h.ahead)
			}
			return nil
		case page.Epoch == h.at.Epoch && !page.Complete:
			h.at.Offset = h.upto // dropped meanwhile
			return nil
		case failures == maxLagging:
			return fmt.Errorf("%w: the history that answers is behind", ErrUnavailable)
		}
		sleep(ctx, lagBackoff(failures))
	}
}

// maxLagging is how often a history that is behind is asked again: for two seconds.
const maxLagging = 25

// history returns the newest publications of a topic, n at most: from the ring, if the topic
// has subscribers here and the broker says that the ring is up to date; else from the
// broker, whose page may end before last. What was published before is in it, on whatever
// server.
func (x *topics) history(ctx context.Context, asker *Session, name string, n int) (page broker.Page, last Position, err error) {
	if x.inProcess {
		page, err := x.recover.Tail(ctx, name, n)
		return page, Position{Epoch: page.Epoch, Offset: page.Upto}, err
	}
	for {
		x.payForQuestion(asker, lookupUnits)
		before := x.standing(name)
		last, err := x.last(ctx, asker, name)
		if err != nil {
			return broker.Page{}, Position{}, err
		}
		if newest, ok := x.recent(name, n, before, last); ok {
			return broker.Page{Epoch: last.Epoch, Upto: last.Offset, Publications: newest}, last, nil
		}
		x.payForQuestion(asker, questionUnits)
		page, err := x.read(ctx, asker, func() (broker.Page, error) { return x.recover.Tail(ctx, name, n) })
		if err != nil {
			return broker.Page{}, Position{}, err
		}
		if page.Epoch == last.Epoch && (page.Upto >= last.Offset || cutForSize(page)) {
			return page, last, nil
		}
		sleep(ctx, lagBackoff(1)) // the copy that answered lags
		if err := ctx.Err(); err != nil {
			return broker.Page{}, Position{}, err
		}
	}
}

// standing returns where a topic's feed is; zero if it has none.
func (x *topics) standing(name string) Position {
	t := x.find(name)
	if t == nil {
		return Position{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.feed == nil || !t.feed.started {
		return Position{}
	}
	return t.feed.at
}

// recent returns the newest n from the ring, or as many as there are. ok is false if the ring
// does not hold them, or if last does not lie between before and the feed's position: then the
// ring may lack a publication.
func (x *topics) recent(name string, n int, before, last Position) (newest []*broker.Publication, ok bool) {
	t := x.find(name)
	if t == nil {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	fd := t.feed
	if fd == nil || !fd.started || !fd.reaches(n) || !isBetween(last, before, fd.at) {
		return nil, false
	}
	return slices.Clone(fd.ring[fd.indexOfLast(n):]), true
}

// isBetween reports whether p is no older than one position and no newer than another.
func isBetween(p, older, newer Position) bool {
	return p.Epoch == older.Epoch && p.Epoch == newer.Epoch && older.Offset <= p.Offset && p.Offset <= newer.Offset
}
