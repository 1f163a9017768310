package presence

import (
	"bytes"
	"maps"
	"slices"
	"time"
)

// maxEarly bounds how many deltas are kept while a delta before them is missing. An owner makes some 20
// deltas in a busy second, so 64 are three seconds. Deltas beyond that are asked for.
const maxEarly = 64

// peer is another owner, and what this server knows of its entries.
//
// If synced is true, this server knows all entries as they were after the delta applied. If not, it
// fetches chunks: then it knows the entries up to cursor as they were after the delta applied, and
// those later entries that a delta has brought.
type peer struct {
	heard   int64 // when something came from it last
	entries map[uint64]*entry
	most    int           // see shrunk
	linger  time.Duration // how long its entries are still shown when they end; 0: for the grace

	begun   bool                // the first chunk or the first delta has come, so applied and cursor are valid
	synced  bool                // all entries are known
	applied uint64              // all deltas up to this number were applied
	newest  uint64              // the greatest number of a delta of which this server has heard
	early   map[uint64]*message // deltas that came before the next one to apply, by number
	cursor  uint64              // entries up to this ref were fetched
	sync    uint32              // number of the fetch; entry.sync is the same if the fetch has confirmed the entry

	askAt int64 // the owner is not asked again before this time
}

// needs reports whether the owner must be asked for something.
func (p *peer) needs() bool { return !p.begun || !p.synced || p.applied < p.newest }

// hearOwner handles a delta, a beat or a chunk of another owner.
func (t *Table) hearOwner(m *message, now int64) {
	p := t.peers[m.from]
	if p == nil {
		if m.kind == kindBeat && m.count == 0 {
			return // it has no entries
		}
		if len(t.peers) == maxPeers {
			t.junk++
			return
		}
		p = &peer{entries: make(map[uint64]*entry), askAt: now}
		t.peers[m.from] = p
	}
	p.heard = now
	switch m.kind {
	case kindDelta:
		p.linger = m.linger
		p.newest = max(p.newest, m.seq)
		t.hearDelta(p, m, now)
	case kindBeat:
		p.linger = m.linger
		p.newest = max(p.newest, m.seq)
		if p.synced && p.applied == m.seq && uint64(len(p.entries)) != m.count {
			p.begun, p.synced, p.cursor = false, false, 0 // the known entries are wrong: all are fetched again
			p.early = nil
		}
	case kindChunk:
		p.newest = max(p.newest, m.seq)
		t.hearChunk(p, m, now)
	}
}

func (t *Table) hearDelta(p *peer, m *message, now int64) {
	if m.seq == 1 && p.sync == 0 { // the owner had no entries before its first delta, so no fetch is needed
		p.begun, p.synced, p.sync = true, true, 1
	}
	switch {
	case p.begun && m.seq <= p.applied:
	case p.begun && m.seq == p.applied+1:
		t.apply(p, m, now)
		t.applyEarly(p, now)
	case len(p.early) < maxEarly:
		if p.early == nil {
			p.early = make(map[uint64]*message)
		}
		p.early[m.seq] = m
	}
}

// applyEarly applies the deltas whose turn has come.
func (t *Table) applyEarly(p *peer, now int64) {
	for seq := range p.early {
		if seq <= p.applied {
			delete(p.early, seq)
		}
	}
	for m := p.early[p.applied+1]; m != nil; m = p.early[p.applied+1] {
		delete(p.early, m.seq)
		t.apply(p, m, now)
	}
	if len(p.early) == 0 {
		p.early = nil
	}
}

func (t *Table) apply(p *peer, m *message, now int64) {
	p.applied = m.seq
	p.askAt = now // there was progress: whatever else is missing may be asked for at once
	for i := range m.ops {
		o := &m.ops[i]
		e := p.entries[o.ref]
		switch {
		case o.code == opEnter:
			t.put(p, o, now)
		case e == nil: // the entry was not fetched yet; a later chunk has its change
		case o.code == opChange:
			t.change(e, o.info)
		case o.code == opLeave:
			delete(p.entries, o.ref)
			p.entries = shrunk(p.entries, &p.most)
			t.end(e, t.untilFor(now, p.linger))
		}
	}
}

// put adds an entry, or updates it and notes that the fetch has confirmed it.
func (t *Table) put(p *peer, o *op, now int64) {
	e := p.entries[o.ref]
	if e != nil && (e.room.topic != o.topic || e.member.id != o.member) { // a message of no real owner
		t.end(e, 0)
		e = nil
	}
	if e == nil {
		e = t.show(o.ref, o.topic, o.member, o.info)
		p.entries[o.ref] = e
	} else {
		t.change(e, o.info)
	}
	e.sync = p.sync
}

// hearChunk handles a chunk, which may be the answer to another server. A chunk is used if it begins a
// fetch, or follows the chunks before it without a hole.
func (t *Table) hearChunk(p *peer, m *message, now int64) {
	switch {
	case m.after == 0 && (!p.begun || m.seq > p.applied):
		p.begun, p.synced, p.applied = true, false, m.seq
		p.sync++
	case p.begun && !p.synced && m.after == p.cursor && m.seq == p.applied:
		if m.after == 0 {
			p.sync++
		}
	default:
		return
	}
	for i := range m.ops {
		t.put(p, &m.ops[i], now)
	}
	p.cursor = m.upto
	if m.last {
		t.synced(p, now)
	}
	p.askAt = now
	if !m.pause {
		p.askAt = now + int64(askEvery) // the next chunk is under way
	}
	t.applyEarly(p, now)
}

// synced ends a fetch. Entries that the fetch has not confirmed have ended, and this server has not
// heard of that.
func (t *Table) synced(p *peer, now int64) {
	p.synced = true
	p.most = max(p.most, len(p.entries))
	for ref, e := range p.entries {
		if e.sync != p.sync {
			delete(p.entries, ref)
			t.end(e, t.untilFor(now, p.linger))
		}
	}
	p.entries = shrunk(p.entries, &p.most)
}

// ask sends the wants that are due.
func (t *Table) ask(now int64) {
	incs := slices.SortedFunc(maps.Keys(t.peers), func(a, b Incarnation) int { return bytes.Compare(a[:], b[:]) })
	for _, inc := range incs { // sorted, so that a test can be repeated
		p := t.peers[inc]
		if !p.needs() || now < p.askAt {
			continue
		}
		want := &message{kind: kindWant, to: inc}
		switch {
		case !p.begun:
		case p.applied < p.newest:
			want.since = p.applied + 1
		default:
			want.after = p.cursor
		}
		t.send(want)
		p.askAt = now + int64(askEvery)
	}
}

// wasStopped is called when this server was stopped for a while. It gives the other servers afterStop
// to be heard, before they count as dead.
func (t *Table) wasStopped(now int64) {
	for _, p := range t.peers {
		p.heard = max(p.heard, now-int64(DeadAfter-afterStop))
	}
}

// dropSilent removes owners that have been silent for DeadAfter. Their entries are hidden at once,
// without the grace: the users have been gone for longer.
func (t *Table) dropSilent(now int64) {
	for inc, p := range t.peers {
		if now-p.heard < int64(DeadAfter) {
			continue
		}
		for _, e := range p.entries {
			t.end(e, 0)
		}
		delete(t.peers, inc)
	}
}
