package simcluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// Sim is a simulated cluster. Each node has a broker in memory. All nodes share the
// histories, and there are faults between them. A delivery may be late, may come twice
// or never. Log returns the publications that were really made.
//
// All random numbers come from the seed. In a testing/synctest bubble, with one goroutine
// at work at a time, equal seeds give equal runs. No lock is held while a call sleeps, or
// while a Sink is called.
type Sim struct {
	seed   uint64
	faults Faults
	nodes  []*simNode
	start  time.Time

	mu      sync.Mutex // guards the fields below, and the nodes' fields
	topics  map[string]*simTopic
	names   []string       // of topics, in the order in which they were first used
	rolls   map[string]int // how many random sources roll has made, by its arguments
	outages []span
	journal []Incident
	healed  bool
}

// Entry is a publication in the log of a topic.
type Entry struct {
	*broker.Publication

	// Gone is when the history drops the publication, because of its rules or of a fault.
	// The zero time stands for never. It may lie in the future.
	Gone time.Time

	// Lost is when the history lost this publication and all later ones. The zero time
	// stands for never. At that time another epoch began, which goes on with the
	// publications before this one.
	Lost time.Time

	origin *Entry // the entry of which this is a copy; nil: this is no copy
	next   *Entry // of a keyed topic: the next publication of the same key in this epoch
}

// Incident is a fault that happened.
type Incident struct {
	Time  time.Time
	Node  int    // -1: all nodes
	Topic string // "": all topics
	What  string // "lost", "refused", "cut", …
}

// simTopic has all publications of a topic.
type simTopic struct {
	name      string
	eras      []*era // the oldest first
	forgetful bool   // the newest publication was made without history
	keyed     bool   // it keeps the newest publication of each key
}

// era is the time of one epoch.
type era struct {
	epoch   string
	from    time.Time
	base    uint64   // the offset before the first publication
	old     []*Entry // copies of the publications that it took over from the epoch before it
	entries []*Entry // the publications that were made in it
}

// NewSim returns a cluster of nodes. All random numbers come from the seed. The time
// Faults.Within begins now.
func NewSim(seed uint64, nodes int, faults Faults) *Sim {
	s := &Sim{
		seed:   seed,
		faults: faults,
		start:  time.Now(),
		topics: make(map[string]*simTopic),
		rolls:  make(map[string]int),
	}
	for i := range nodes {
		s.nodes = append(s.nodes, &simNode{sim: s, id: i, interests: make(map[string]*interest)})
	}
	s.schedule()
	return s
}

// Node returns the broker of a node. It is also a broker.Recoverer and a broker.Bus. Node always
// returns the same broker for the same node.
func (s *Sim) Node(i int) live.Broker { return s.nodes[i] }

// Heal ends all faults. Deliveries on their way still arrive. Deliveries that were lost stay lost.
func (s *Sim) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.healed = true
	s.faults = Faults{Sparse: s.faults.Sparse}
	s.outages = nil
	for _, n := range s.nodes {
		n.cut, n.deaf = nil, nil
	}
	s.note(-1, "", "healed")
}

// Reset makes a topic lose its history. Another epoch begins.
func (s *Sim) Reset(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin(s.topic(topic))
	s.note(-1, topic, "reset")
}

// LoseEnd makes the history of a topic lose its newest publications, n at most. Another epoch
// begins with the other publications.
func (s *Sim) LoseEnd(topic string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseEnd(s.topic(topic), n)
	s.note(-1, topic, "end lost")
}

// Log returns every publication that was ever made on a topic with history, of all epochs, in
// order.
func (s *Sim) Log(topic string) []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var log []Entry
	if t := s.topics[topic]; t != nil {
		for _, e := range t.eras {
			for _, entry := range e.entries {
				log = append(log, *entry)
			}
		}
	}
	return log
}

// Epoch returns the epoch that a topic had at a time.
func (s *Sim) Epoch(topic string, at time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.topic(topic).at(at).epoch
}

// Find returns how many publications of a topic's log lie at or before a position. ok is
// false if the topic never had the epoch of the position.
func (s *Sim) Find(topic string, p live.Position) (n int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[topic]
	if t == nil {
		return 0, false
	}
	for _, e := range t.eras {
		if e.epoch != p.Epoch {
			n += len(e.entries)
			continue
		}
		if len(e.old) > 0 && p.Offset <= e.base {
			return t.placeAfter(e.old, p.Offset), true
		}
		for _, entry := range e.entries {
			if entry.Offset <= p.Offset {
				n++
			}
		}
		return n, true
	}
	return 0, false
}

// placeAfter returns how many publications of the log lie at or before an offset. old has the
// publications that an epoch has taken over, and the offset is one of theirs.
func (t *simTopic) placeAfter(old []*Entry, offset uint64) (n int) {
	i := 0 // how many of old lie at or before the offset
	for i < len(old) && old[i].Offset <= offset {
		i++
	}
	for _, e := range t.eras {
		for _, entry := range e.entries {
			switch {
			case i > 0 && entry == old[i-1].origin:
				return n + 1
			case i == 0 && entry == old[0].origin:
				return n
			}
			n++
		}
	}
	return n
}

// Since returns when an epoch of a topic began.
func (s *Sim) Since(topic, epoch string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.topic(topic).eras {
		if e.epoch == epoch {
			return e.from
		}
	}
	return time.Time{}
}

// Topics returns the topics to which a node is subscribed, sorted.
func (s *Sim) Topics(node int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.nodes[node].interests))
}

// Incidents returns the faults that have happened so far.
func (s *Sim) Incidents() []Incident {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.journal)
}

// note records an incident; mu is held.
func (s *Sim) note(node int, topic, what string) {
	s.journal = append(s.journal, Incident{time.Now(), node, topic, what})
}

// schedule draws the times of the faults that Faults.Within bounds.
func (s *Sim) schedule() {
	f := s.faults
	r := source(s.seed, "schedule")
	moment := func() time.Duration { return time.Duration(r.Int64N(int64(f.Within) + 1)) }
	period := func() span {
		from := s.start.Add(moment())
		return span{from, from.Add(time.Duration(r.Int64N(int64(f.Break) + 1)))}
	}
	for range f.Cuts {
		n, p := s.nodes[r.IntN(len(s.nodes))], period()
		n.deaf = append(n.deaf, p)
		if r.IntN(2) == 0 {
			n.cut = append(n.cut, p)
		}
		if r.Float64() < f.Announce {
			time.AfterFunc(p.to.Sub(s.start), func() { n.announce("", errCut) })
		}
	}
	for range f.Outages {
		s.outages = append(s.outages, period())
	}
	for i := range f.Trims {
		time.AfterFunc(moment(), func() { s.trim(i) })
	}
	for i := range f.Resets {
		time.AfterFunc(moment(), func() { s.reset(i) })
	}
	for i := range f.Ends {
		time.AfterFunc(moment(), func() { s.loseEnds(i) })
	}
}

// trim drops the oldest publications of most histories.
func (s *Sim) trim(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.healed {
		return
	}
	for _, name := range s.names {
		r := source(s.seed, "trim", i, name)
		kept := droppable(s.topics[name].at(time.Now()).kept(time.Now()))
		if len(kept) == 0 || r.IntN(4) == 0 {
			continue
		}
		for _, e := range kept[:1+r.IntN(len(kept))] {
			e.Gone = time.Now()
		}
		s.note(-1, name, "trimmed")
	}
}

// reset makes most topics lose their histories.
func (s *Sim) reset(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.healed {
		return
	}
	for _, name := range s.names {
		if r := source(s.seed, "reset", i, name); r.IntN(4) > 0 {
			s.begin(s.topics[name])
			s.note(-1, name, "reset")
		}
	}
}

// loseEnds makes most histories lose their newest publications.
func (s *Sim) loseEnds(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.healed {
		return
	}
	for _, name := range s.names {
		if r := source(s.seed, "end", i, name); r.IntN(4) > 0 {
			s.loseEnd(s.topics[name], 1+r.IntN(8))
			s.note(-1, name, "end lost")
		}
	}
}

// loseEnd begins an epoch with the publications of the epoch before it, except the newest n. The
// offsets of those n are used again for later publications. mu is held.
func (s *Sim) loseEnd(t *simTopic, n int) {
	before := t.eras[len(t.eras)-1]
	now := time.Now()
	kept := before.kept(now)
	left := kept[:max(len(kept)-n, 0)]
	copies := make([]*Entry, len(left))
	for i, entry := range left {
		copies[i] = &Entry{Publication: new(broker.Publication), Gone: entry.Gone, origin: entry.first()}
		*copies[i].Publication = *entry.Publication
	}
	s.begin(t)
	e := t.eras[len(t.eras)-1]
	for _, entry := range kept[len(left):] {
		entry.first().Lost = now
	}
	if len(copies) == 0 {
		return
	}
	for _, entry := range copies {
		entry.Epoch = e.epoch
	}
	e.old, e.base = copies, copies[len(copies)-1].Offset
}

// all returns all publications of an epoch, oldest first.
func (e *era) all() []*Entry { return append(slices.Clip(e.old), e.entries...) }

// begin begins an epoch; mu is held.
func (s *Sim) begin(t *simTopic) {
	r := source(s.seed, "epoch", t.name, len(t.eras))
	e := &era{epoch: fmt.Sprintf("%x", r.Uint32()), from: time.Now()}
	if s.faults.Sparse {
		e.base = r.Uint64N(1000)
	}
	if len(t.eras) > 0 {
		old := t.eras[len(t.eras)-1]
		for _, entry := range old.kept(e.from) {
			entry.Gone = e.from
		}
		if r.IntN(2) == 0 {
			e.base = old.last() // so that the new epoch looks as if it continued the old one
		}
	}
	t.eras = append(t.eras, e)
}

// topic returns a topic, and makes it if there is none with this name; mu is held.
func (s *Sim) topic(name string) *simTopic {
	t := s.topics[name]
	if t == nil {
		t = &simTopic{name: name}
		s.topics[name] = t
		s.names = append(s.names, name)
		s.begin(t)
	}
	return t
}

// at returns the era of a time.
func (t *simTopic) at(now time.Time) *era {
	for i := len(t.eras) - 1; i > 0; i-- {
		if !t.eras[i].from.After(now) {
			return t.eras[i]
		}
	}
	return t.eras[0]
}

// last returns the newest offset.
func (e *era) last() uint64 { return e.lastAt(time.Now()) }

// lastAt returns the offset that was the newest at a time.
func (e *era) lastAt(now time.Time) uint64 {
	last := e.base
	for _, entry := range e.entries {
		if !entry.Time.After(now) {
			last = entry.Offset
		}
	}
	return last
}

// kept returns the publications that the history has at a time, oldest first.
func (e *era) kept(now time.Time) []*Entry {
	var kept []*Entry
	for _, entry := range e.all() {
		if !entry.Time.After(now) && !entry.goneAt(now) {
			kept = append(kept, entry)
		}
	}
	return kept
}

// first returns the entry in the log: e, or the entry of which e is a copy.
func (e *Entry) first() *Entry {
	if e.origin != nil {
		return e.origin
	}
	return e
}

func (e *Entry) goneAt(now time.Time) bool { return !e.Gone.IsZero() && !e.Gone.After(now) }

// take adds a publication to its topic, and gives it a position; mu is held.
func (s *Sim) take(r chances, t *simTopic, p *broker.Publication, o broker.PublishOptions) {
	t.forgetful = o.History <= 0
	if t.forgetful {
		return
	}
	e := t.eras[len(t.eras)-1]
	kept := e.kept(p.Time)
	step := uint64(1)
	if s.faults.Sparse {
		step += r.Uint64N(5)
	}
	p.Position = live.Position{Epoch: e.epoch, Offset: e.last() + step}
	if len(kept) > 0 {
		p.Prev = kept[len(kept)-1].Offset // 0 if the history keeps no publication, as a real broker would say
	}
	entry := &Entry{Publication: p}
	if o.HistoryAge > 0 {
		entry.Gone = p.Time.Add(o.HistoryAge)
	}
	e.entries = append(e.entries, entry)
	if o.Keyed {
		s.takeKey(t, entry, kept, o)
		return
	}
	for _, old := range kept[:max(0, len(kept)+1-o.History)] {
		old.Gone = p.Time
	}
}

// read returns the publications in a copy of the history that lags, and the time of that copy; mu is
// held.
func (t *simTopic) read(lag time.Duration) (*era, []*Entry, time.Time) {
	then := time.Now().Add(-lag)
	e := t.at(then)
	return e, e.kept(then), then
}

// pageOf returns entries as a page.
func (e *era) pageOf(entries []*Entry, reach uint64) broker.Page {
	page := broker.Page{Epoch: e.epoch, Upto: reach, Complete: true}
	for _, entry := range entries {
		page.Publications = append(page.Publications, entry.Publication)
	}
	return page
}

// cut returns how many publications a page has that would have all without a fault; mu is held.
func (s *Sim) cut(r chances, all int) int {
	if all < 2 || s.faults.Cut == 0 || r.Float64() >= s.faults.Cut {
		return all
	}
	return 1 + int(r.Int64N(int64(all)))
}

// atLeast returns number, or a larger number of entries, so that they have the least size of a tail
// that is cut.
func atLeast(number int, entries []*Entry) int {
	for number < len(entries) && bytesOf(entries[:number]) < broker.MinTailBytes {
		number++
	}
	return number
}

func bytesOf(entries []*Entry) (bytes int) {
	for _, e := range entries {
		bytes += len(e.Data)
	}
	return bytes
}

// complete reports whether the history has all publications between two offsets. Of a keyed topic the
// newest of each key is all.
func (e *era) complete(after, upto uint64, now time.Time) bool {
	for _, entry := range e.all() {
		if entry.Offset > after && entry.Offset <= upto && entry.goneAt(now) && !entry.replacedAt(now) {
			return false
		}
	}
	return true
}

// chances are the random numbers of one call.
type chances interface {
	Float64() float64
	Int64N(int64) int64
	Uint64N(uint64) uint64
}

// roll returns the random numbers for a node's next call of a kind about a topic;
// mu is held.
func (s *Sim) roll(kind string, node int, topic string) chances {
	key := fmt.Sprint(kind, " ", node, " ", topic)
	s.rolls[key]++
	return source(s.seed, key, s.rolls[key])
}

// upTo draws a duration of at most most, in nanoseconds, so that two are hardly ever equal.
func upTo(r chances, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return time.Duration(r.Int64N(int64(most) + 1))
}

var (
	errClosed  = errors.New("simcluster: closed")
	errCut     = errors.New("simcluster: node is cut off")
	errOutage  = errors.New("simcluster: outage")
	errRefused = errors.New("simcluster: refused")
	errUnsure  = errors.New("simcluster: no answer")
)

// sleep waits for d, or until ctx ends. The error is that of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 || ctx.Err() != nil {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
