package live

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// If a part of a history is not in a feed's ring, the broker has to read it, perhaps from a disk
// that all sessions share. A hostile client asks without end, for topics that no other session has.
// So each question counts for its client's rate, a session has one question at a time, and few
// questions are under way at once. Of the sessions that wait, the session that has asked least in
// the last minutes comes first. Reads have one gate. Lookups are cheaper, and have another gate.

const (
	// maxReads is how many reads of the broker's history are under way at once for sessions. Four
	// hide a round trip. The session that is next waits until one of the four ends.
	maxReads = 4

	// maxLookups is the same for lookups. A lookup asks where a topic's history ends.
	maxLookups = 4

	// questionUnits is how many units a read counts for a client's rate of answers. The bytes that
	// are sent count besides. With the default InboundRate a client may have 50 reads in a second,
	// and as many at once when it comes back after it was away. lookupUnits is the same for a lookup
	// for a client that asks for a position or a history.
	questionUnits = 20
	lookupUnits   = 5

	// questionWeight is how long a question counts when sessions wait. A page asks for a few topics
	// when it is opened. It comes before sessions that have asked more in the last minutes. No
	// session waits longer than maxWeight for sessions that apply later.
	questionWeight = int64(10 * time.Second)
	maxWeight      = 60 * questionWeight
)

// gate lets sessions ask the broker.
type gate struct {
	countsUntil func(s *Session) *int64 // the time until which the questions of a session count; guarded by mu

	mu      sync.Mutex       // guards the fields below; no other lock is taken under it
	places  int              // how many more questions may be under way
	waiting []*pass          // in the order in which they were applied for
	asking  map[*Session]int // how many questions of a session are under way
}

// pass is the right to ask one question. A session applies for it, and waits until it is granted.
type pass struct {
	gate    *gate
	session *Session      // nil: the server itself asks
	turn    int64         // see gate.turn; the smallest comes first; guarded by gate.mu
	shared  bool          // other sessions wait for the answer too; guarded by gate.mu
	granted chan struct{} // closed when the question may be asked
}

func newGate(most int, countsUntil func(*Session) *int64) *gate {
	return &gate{countsUntil: countsUntil, places: most, asking: make(map[*Session]int)}
}

func newReadGate() *gate {
	return newGate(maxReads, func(s *Session) *int64 { return &s.readUntil })
}

func newLookupGate() *gate {
	return newGate(maxLookups, func(s *Session) *int64 { return &s.lookupUntil })
}

// apply puts the session into the queue. The caller must then call await.
func (g *gate) apply(s *Session) *pass {
	p := &pass{gate: g, session: s, granted: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	p.turn = g.turn(s)
	g.waiting = append(g.waiting, p)
	g.admit()
	return p
}

// await waits until the session may ask. The caller must call leave after the question. If ctx ends
// first, await returns the error of ctx, and leave must not be called.
func (p *pass) await(ctx context.Context) error {
	select {
	case <-p.granted:
		return nil
	case <-ctx.Done():
	}
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting, p); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	} else {
		g.end(p)
	}
	return ctx.Err()
}

// leave ends a question.
func (p *pass) leave() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	p.gate.end(p)
}

// hasten is called when another session waits for the same answer. If the turn of that session comes
// earlier, the question takes it. From then on the question does not wait until the session that has
// applied for it has its other answers.
func (p *pass) hasten(s *Session) {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	p.turn = min(p.turn, p.gate.turn(s))
	if s != p.session && !p.shared {
		p.shared = true
		p.gate.admit()
	}
}

// end makes the place of a pass free for another; mu is held.
func (g *gate) end(p *pass) {
	g.places++
	if g.asking[p.session]--; g.asking[p.session] <= 0 {
		delete(g.asking, p.session)
	}
	g.admit()
}

// admit grants passes until all places are taken; mu is held.
func (g *gate) admit() {
	for g.places > 0 {
		next := -1
		for i, p := range g.waiting {
			if (p.shared || g.asking[p.session] == 0) && (next < 0 || p.turn < g.waiting[next].turn) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		p := g.waiting[next]
		g.waiting = slices.Delete(g.waiting, next, next+1)
		g.places--
		if s := p.session; s != nil {
			g.asking[s]++
			*g.countsUntil(s) = min(g.turn(s)+questionWeight, clock.Now()+maxWeight)
		}
		close(p.granted)
	}
}

// turn returns a time: the place in the queue of a session that applies now. It is now, or the time
// until which the session's questions count, if that is later. A nil session stands for the server
// itself. mu is held.
func (g *gate) turn(s *Session) int64 {
	now := clock.Now()
	if s == nil {
		return now
	}
	return max(*g.countsUntil(s), now)
}

// read calls ask when it is the session's turn. ask reads the broker's history. A nil session
// stands for the server itself. Histories in the memory of this process are read at once.
func (ts *topics) read(ctx context.Context, s *Session, ask func() (broker.Page, error)) (broker.Page, error) {
	if ts.inProcess {
		return ask()
	}
	p := ts.reads.apply(s)
	if err := p.await(ctx); err != nil {
		return broker.Page{}, err
	}
	defer p.leave()
	return ask()
}

// last asks the broker for the newest position of a topic when it is the session's turn. A nil
// session stands for the server itself.
func (ts *topics) last(ctx context.Context, s *Session, topic string) (Position, error) {
	if !ts.inProcess {
		p := ts.lookups.apply(s)
		if err := p.await(ctx); err != nil {
			return Position{}, err
		}
		defer p.leave()
	}
	return ts.recover.Last(ctx, topic)
}

// payForQuestion counts a question to the broker, and waits while the client is over its rate of
// answers.
func (ts *topics) payForQuestion(s *Session, units int) {
	if s == nil || ts.inProcess {
		return
	}
	if wait := s.owes(&s.inbound.answered, units); wait > 0 {
		sleep(s.ctx, wait)
	}
}
