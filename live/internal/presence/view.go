package presence

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
)

// entry is a session that is present in a topic.
type entry struct {
	ref    uint64 // the owner's number for it; later entries have greater numbers
	room   *room
	member *member // nil: the entry is hidden
	info   []byte  // JSON; nil: none. The bytes are never changed
	until  int64   // the entry has ended, and is shown until this time; 0: the session is present
	sync   uint32  // see peer.sync
}

// member is a user in a topic.
type member struct {
	id      string
	entries []*entry // the entries that are shown, in a stable order
	shown   [][]byte // the infos as Flush told them last; only in a watched room
	order   uint64   // grows with each member that Flush tells of; 0: Flush has not told of this one
	marked  bool     // the member is in room.marked
}

// room is a topic.
type room struct {
	topic    string
	members  map[string]*member
	count    int // members that have entries
	watchers int // how many times Watch was called, less Unwatch

	// The fields below are for a watched room.
	marked []*member // members that may differ from what Flush told last
	order  uint64    // the greatest order of a member
	told   int       // how many members Flush has told of
}

// Member is a user in a topic.
type Member struct {
	ID       string
	Sessions [][]byte // the info of each session; nil: the session has none. The bytes must not be changed
	Order    uint64   // see Table.Shown; Members leaves it 0
}

// Diff is what has changed in a topic.
type Diff struct {
	Joined, Changed []Member
	Left            []string // IDs
}

// IsEmpty reports whether nothing has changed.
func (d *Diff) IsEmpty() bool {
	return len(d.Joined) == 0 && len(d.Changed) == 0 && len(d.Left) == 0
}

// Count returns how many members a topic has.
func (t *Table) Count(topic string) int {
	if r := t.rooms[topic]; r != nil {
		return r.count
	}
	return 0
}

// Members returns the members of a topic, in the order of their IDs.
func (t *Table) Members(topic string) []Member {
	r := t.rooms[topic]
	if r == nil {
		return nil
	}
	all := make([]Member, 0, r.count)
	for _, m := range r.members {
		if len(m.entries) > 0 {
			all = append(all, Member{ID: m.id, Sessions: m.infos()})
		}
	}
	slices.SortFunc(all, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Watch makes Flush tell of changes in a topic, until Unwatch. The members that are there now count as
// told of.
func (t *Table) Watch(topic string) {
	r := t.room(topic)
	r.watchers++
	if r.watchers > 1 {
		return
	}
	for _, m := range r.members {
		r.tell(m, m.infos())
	}
}

// Unwatch undoes one Watch. After the last one Flush tells nothing of the topic.
func (t *Table) Unwatch(topic string) {
	r := t.rooms[topic]
	r.watchers--
	if r.watchers > 0 {
		return
	}
	r.marked, r.order, r.told = nil, 0, 0
	for _, m := range r.members {
		m.shown, m.order, m.marked = nil, 0, false
		if len(m.entries) == 0 {
			delete(r.members, m.id)
		}
	}
	t.tidy(r)
}

// Marked returns the topics for which Flush may have something to tell, each once.
func (t *Table) Marked() []string {
	all := t.marked
	t.marked = nil
	return all
}

// Flush returns what has changed in a watched topic since the last Flush.
func (t *Table) Flush(topic string) (d Diff) {
	r := t.rooms[topic]
	if r == nil {
		return d
	}
	for _, m := range r.marked {
		m.marked = false
		now := m.infos()
		switch {
		case len(now) == 0:
			if m.order != 0 {
				d.Left = append(d.Left, m.id)
				r.told--
			}
			delete(r.members, m.id)
		case m.order == 0:
			r.tell(m, now)
			d.Joined = append(d.Joined, Member{m.id, now, m.order})
		case !slices.EqualFunc(now, m.shown, bytes.Equal):
			m.shown = now
			d.Changed = append(d.Changed, Member{m.id, now, m.order})
		}
	}
	r.marked = nil
	if len(r.members) == 0 {
		r.members = make(map[string]*member) // see shrunk
	}
	return d
}

// Shown returns members of a watched topic as Flush told of them last, in the order in which Flush
// first told of them. Their Order grows in that order. Only members with an Order greater than after
// are returned.
func (t *Table) Shown(topic string, after uint64) []Member {
	r := t.rooms[topic]
	if r == nil {
		return nil
	}
	var all []Member
	for _, m := range r.members {
		if m.order > after {
			all = append(all, Member{m.id, m.shown, m.order})
		}
	}
	slices.SortFunc(all, func(a, b Member) int { return cmp.Compare(a.Order, b.Order) })
	return all
}

// ShownCount returns how many members of a watched topic Flush has told of.
func (t *Table) ShownCount(topic string) int {
	if r := t.rooms[topic]; r != nil {
		return r.told
	}
	return 0
}

// tell notes that watchers are told of a member.
func (r *room) tell(m *member, infos [][]byte) {
	r.order++
	r.told++
	m.order, m.shown = r.order, infos
}

func (m *member) infos() [][]byte {
	infos := make([][]byte, len(m.entries))
	for i, e := range m.entries {
		infos[i] = e.info
	}
	return infos
}

func (t *Table) room(topic string) *room {
	r := t.rooms[topic]
	if r == nil {
		r = &room{topic: topic, members: make(map[string]*member)}
		t.rooms[topic] = r
	}
	return r
}

// tidy drops a room that nobody needs.
func (t *Table) tidy(r *room) {
	if len(r.members) == 0 && r.watchers == 0 {
		delete(t.rooms, r.topic)
		t.rooms = shrunk(t.rooms, &t.most)
	}
}

// shrunk is called after entries of m were deleted. It returns m, or a copy of m if m once had four
// times as many entries. A map keeps the space of the most entries that it ever had, and the copy
// does not. most is that number, since the last copy.
func shrunk[K comparable, V any](m map[K]V, most *int) map[K]V {
	*most = max(*most, len(m)+1)
	if *most < minShrunk || len(m) > *most/4 {
		return m
	}
	fresh := make(map[K]V, len(m))
	maps.Copy(fresh, m)
	*most = len(m)
	return fresh
}

// minShrunk is the size from which maps are copied. A smaller map keeps at most some tens of
// kilobytes.
const minShrunk = 1000

// mark notes that a member may have changed.
func (t *Table) mark(m *member, r *room) {
	if r.watchers == 0 || m.marked {
		return
	}
	if len(r.marked) == 0 {
		t.marked = append(t.marked, r.topic)
	}
	m.marked = true
	r.marked = append(r.marked, m)
}

// show adds an entry to the view. If an entry of the same member has ended, the new one takes its
// place. An ended entry with the same info is preferred, because then nobody sees a change.
func (t *Table) show(ref uint64, topic, id string, info []byte) *entry {
	r := t.room(topic)
	m := r.members[id]
	if m == nil {
		m = &member{id: id}
		r.members[id] = m
	}
	e := &entry{ref: ref, room: r, member: m, info: info}
	if len(m.entries) == 0 {
		r.count++
	}
	if i := m.endedLike(info); i >= 0 {
		m.entries[i].member = nil
		m.entries[i] = e
	} else {
		m.entries = append(m.entries, e)
	}
	t.mark(m, r)
	return e
}

// endedLike returns the index of an entry that has ended, if possible of one with this info; -1: no
// entry has ended.
func (m *member) endedLike(info []byte) int {
	found := -1
	for i, e := range m.entries {
		if e.until == 0 {
			continue
		}
		if bytes.Equal(e.info, info) {
			return i
		}
		if found < 0 {
			found = i
		}
	}
	return found
}

// change gives an entry another info.
func (t *Table) change(e *entry, info []byte) {
	if !bytes.Equal(e.info, info) {
		e.info = info
		t.mark(e.member, e.room)
	}
}

// end notes that the session of an entry is not present any more. The entry is shown until a time; 0:
// it is hidden at once.
func (t *Table) end(e *entry, until int64) {
	if until == 0 {
		t.hide(e)
		return
	}
	e.until = until
	t.lingering = append(t.lingering, e)
	if t.lingerNext == 0 || until < t.lingerNext {
		t.lingerNext = until
	}
}

// hide removes an entry from the view.
func (t *Table) hide(e *entry) {
	m, r := e.member, e.room
	e.member = nil
	i := slices.Index(m.entries, e)
	m.entries = slices.Delete(m.entries, i, i+1)
	t.mark(m, r)
	if len(m.entries) > 0 {
		return
	}
	r.count--
	if r.watchers == 0 {
		delete(r.members, m.id)
		t.tidy(r)
	}
}

// expire hides the entries that have been shown for long enough.
func (t *Table) expire(now int64) {
	if t.lingerNext == 0 || now < t.lingerNext {
		return
	}
	kept := t.lingering[:0]
	t.lingerNext = 0
	for _, e := range t.lingering {
		switch {
		case e.member == nil: // another entry has taken its place
		case e.until <= now:
			t.hide(e)
		default:
			kept = append(kept, e)
			if t.lingerNext == 0 || e.until < t.lingerNext {
				t.lingerNext = e.until
			}
		}
	}
	clear(t.lingering[len(kept):])
	t.lingering = kept
	if len(kept) == 0 {
		t.lingering = nil
	}
}
