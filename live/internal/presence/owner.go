package presence

import (
	"bytes"
	"slices"
	"time"
)

const (
	// maxLog and maxLogBytes bound the deltas that an owner keeps to send them again. In a busy
	// minute a server makes some hundred deltas. A server that has missed more asks for chunks.
	maxLog      = 512
	maxLogBytes = 1 << 20

	// maxResent bounds how many deltas are sent again at a time, and chunkBurst how many chunks.
	// Every server gets them, whether it has asked or not. Eight chunks are a quarter of a
	// megabyte, and so are 64 deltas of 4 KB.
	maxResent  = 64
	chunkBurst = 8

	// speakOn is how long an owner without entries still sends beats. So a server that has missed
	// the end of the last entry learns of it. In ten seconds there are five beats.
	speakOn = 10 * time.Second
)

// owner is this server as the owner of its entries.
type owner struct {
	entries []owned // by ref, ascending
	count   int     // entries that have not ended
	lastRef uint64

	pending []uint64          // refs of entries with a change that was not sent yet
	changes map[uint64]opCode // the change of each of these; 0: nothing need be sent
	flushAt int64             // when pending is sent
	seq     uint64            // number of the newest delta
	log     []logged          // the newest deltas, oldest first
	logged  int               // bytes of log

	beatAt   int64         // when the next beat is due
	activeAt int64         // when there last were entries; 0: never
	linger   time.Duration // how long other servers still show entries that end; 0: for the grace

	resend uint64            // number of the first delta that other servers want again; 0: none
	chunks map[uint64]uint64 // refs after which other servers want chunks; a key and its value are equal
}

// owned is a place for an entry. The entry is nil if it has ended.
type owned struct {
	ref   uint64
	entry *entry
}

// logged is a delta.
type logged struct {
	seq   uint64
	bytes []byte
}

// Enter notes that a session of this server is present in a topic. It returns a number that names the
// entry from now on. Topic and member must be UTF-8, and must not be empty. info is JSON, or nil for
// none. It is not copied. All three together may have MaxEntry bytes.
func (t *Table) Enter(topic, member string, info []byte, now int64) (ref uint64) {
	o := &t.own
	o.lastRef++
	o.entries = append(o.entries, owned{o.lastRef, t.show(o.lastRef, topic, member, info)})
	o.count++
	o.activeAt = now
	t.note(o.lastRef, opEnter, now)
	return o.lastRef
}

// Change gives an entry of this server another info. It does nothing if the entry has ended.
func (t *Table) Change(ref uint64, info []byte, now int64) {
	i, ok := t.own.find(ref)
	if ok && !bytes.Equal(t.own.entries[i].entry.info, info) {
		t.change(t.own.entries[i].entry, info)
		t.note(ref, opChange, now)
	}
}

// Info returns the info of an entry of this server; nil: it has none, or has ended.
func (t *Table) Info(ref uint64) []byte {
	if i, ok := t.own.find(ref); ok {
		return t.own.entries[i].entry.info
	}
	return nil
}

// Leave notes that the session of an entry of this server is not present any more. It does nothing if
// the entry has ended.
func (t *Table) Leave(ref uint64, now int64) {
	o := &t.own
	i, ok := o.find(ref)
	if !ok {
		return
	}
	t.end(o.entries[i].entry, t.untilFor(now, 0))
	o.entries[i].entry = nil
	o.count--
	o.activeAt = now
	t.note(ref, opLeave, now)
	if o.count < (len(o.entries)+1)/2 {
		o.compact()
	}
}

// compact frees the places of entries that have ended.
func (o *owner) compact() {
	kept := make([]owned, 0, o.count)
	for _, e := range o.entries {
		if e.entry != nil {
			kept = append(kept, e)
		}
	}
	o.entries = kept
}

// Drain tells other servers how long to show entries that end from now on. This server shuts down,
// and has told its clients to come back to another server. More than a minute counts as a minute.
func (t *Table) Drain(linger time.Duration) {
	t.own.linger = min(linger, maxLinger)
	t.own.beatAt = 0
}

func (o *owner) find(ref uint64) (i int, ok bool) {
	i, ok = slices.BinarySearchFunc(o.entries, ref, func(e owned, ref uint64) int {
		switch {
		case e.ref < ref:
			return -1
		case e.ref > ref:
			return 1
		}
		return 0
	})
	return i, ok && o.entries[i].entry != nil
}

// note adds a change to the next delta. Several changes of one entry become one.
func (t *Table) note(ref uint64, code opCode, now int64) {
	o := &t.own
	if t.config.Alone {
		return
	}
	if o.changes == nil {
		o.changes = make(map[uint64]opCode)
	}
	before, known := o.changes[ref]
	switch {
	case !known:
		if len(o.pending) == 0 {
			o.flushAt = now + int64(batchEvery)
		}
		o.pending = append(o.pending, ref)
	case code == opLeave && before == opEnter:
		code = 0 // no other server has heard of the entry
	case code == opChange && before == opEnter:
		code = opEnter
	}
	o.changes[ref] = code
}

// flushDeltas sends the changes that are due.
func (t *Table) flushDeltas(now int64) {
	o := &t.own
	if len(o.pending) == 0 || now < o.flushAt {
		return
	}
	t.sendPending()
}

// sendPending sends all changes, in as few deltas as MaxMessage allows.
func (t *Table) sendPending() {
	o := &t.own
	m := &message{}
	size := 0
	for _, ref := range o.pending {
		change := op{code: o.changes[ref], ref: ref}
		switch change.code {
		case 0:
			continue
		case opEnter, opChange:
			i, _ := o.find(ref)
			e := o.entries[i].entry
			change.topic, change.member, change.info = e.room.topic, e.member.id, e.info
		}
		if size > 0 && size+change.size() > MaxMessage {
			t.sendDelta(m.ops)
			m.ops, size = nil, 0
		}
		m.ops = append(m.ops, change)
		size += change.size()
	}
	if len(m.ops) > 0 {
		t.sendDelta(m.ops)
	}
	o.pending, o.changes = nil, nil
}

func (t *Table) sendDelta(ops []op) {
	o := &t.own
	o.seq++
	t.send(&message{kind: kindDelta, seq: o.seq, linger: o.linger, ops: ops})
	b := bytes.Clone(t.out[len(t.out)-1]) // the message was made in a larger array, which the log would keep
	o.log = append(o.log, logged{o.seq, b})
	o.logged += len(b)
	for len(o.log) > maxLog || o.logged > maxLogBytes {
		o.logged -= len(o.log[0].bytes)
		o.log[0] = logged{}
		o.log = o.log[1:]
	}
}

// speaks reports whether the owner sends beats.
func (o *owner) speaks(now int64) bool {
	return o.count > 0 || o.activeAt != 0 && now-o.activeAt < int64(speakOn)
}

// beat sends a beat if one is due.
func (t *Table) beat(now int64) {
	o := &t.own
	if o.count > 0 {
		o.activeAt = now
	}
	if !o.speaks(now) || now < o.beatAt || len(o.pending) > 0 {
		return // with changes pending, seq and count would not fit together
	}
	t.send(&message{kind: kindBeat, seq: o.seq, count: uint64(o.count), linger: o.linger})
	o.beatAt = now + int64(beatEvery)
}

// wanted notes a want of another server. Servers that want the same get one answer.
func (o *owner) wanted(m *message) {
	switch {
	case m.since == 0:
		if o.chunks == nil {
			o.chunks = make(map[uint64]uint64)
		}
		if len(o.chunks) < maxPeers {
			o.chunks[m.after] = m.after
		}
	case o.resend == 0 || m.since < o.resend:
		o.resend = m.since
	}
}

func (o *owner) hasWants() bool { return o.resend != 0 || len(o.chunks) > 0 }

// answerWants sends what other servers want: deltas if the log still has them, else chunks.
func (t *Table) answerWants() {
	o := &t.own
	if !o.hasWants() {
		return
	}
	t.sendPending() // a chunk is as of the newest delta
	since, chunks := o.resend, o.chunks
	o.resend, o.chunks = 0, nil
	if since != 0 && since <= o.seq {
		if len(o.log) > 0 && o.log[0].seq <= since {
			first := since - o.log[0].seq
			for _, l := range o.log[first:min(first+maxResent, uint64(len(o.log)))] {
				t.out = append(t.out, l.bytes)
			}
		} else {
			if chunks == nil {
				chunks = make(map[uint64]uint64)
			}
			chunks[0] = 0
		}
	}
	afters := make([]uint64, 0, len(chunks))
	for after := range chunks {
		afters = append(afters, after)
	}
	slices.Sort(afters)
	sent := uint64(0) // up to this ref
	for i, after := range afters {
		if i > 0 && after < sent {
			continue // what was sent overlaps this want; the server that wants it asks again for the rest
		}
		sent = t.sendChunks(after)
	}
}

// sendChunks sends chunkBurst chunks, or fewer if there are no more entries. It returns the ref up to
// which they reach.
func (t *Table) sendChunks(after uint64) (upto uint64) {
	o := &t.own
	i, _ := slices.BinarySearchFunc(o.entries, after+1, func(e owned, ref uint64) int {
		if e.ref < ref {
			return -1
		}
		return 1
	})
	for n := range chunkBurst {
		m := &message{kind: kindChunk, seq: o.seq, after: after}
		size := 0
		for ; i < len(o.entries); i++ {
			e := o.entries[i].entry
			if e == nil {
				continue
			}
			enter := op{opEnter, e.ref, e.room.topic, e.member.id, e.info}
			if size > 0 && size+enter.size() > MaxMessage {
				break
			}
			m.ops = append(m.ops, enter)
			size += enter.size()
			m.upto = e.ref
		}
		m.last = i == len(o.entries)
		m.pause = n == chunkBurst-1 && !m.last
		if m.last {
			m.upto = max(o.lastRef, after)
		}
		t.send(m)
		after = m.upto
		if m.last {
			break
		}
	}
	return after
}
