package live

import (
	"cmp"
	"slices"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// defaultKeys is the History of a keyed topic that does not say how many keys it may have.
const defaultKeys = 1000

// A keyed topic remembers as many removals as it has keys, for clients that come back or read slowly.
// A client that has missed more removals than that is sent all keys instead, because that is less. A
// small topic remembers minRemoved removals, since it may have been larger a moment ago. A large topic
// remembers at most maxRemoved. One removal takes up to 500 bytes, so all together take 5 MB at most.
const (
	minRemoved = 256
	maxRemoved = 10_000
)

// keyTable holds the newest publication of each key of a topic, and the latest removals. The lock of
// its owner guards it: topic.mu or history.mu. A key keeps its slot, so that a client can be sent the
// table part by part while it changes.
type keyTable struct {
	slots      []keySlot
	index      map[string]int // from a key to its slot
	emptySlots []int          // slots without a key
	removed    []keySlotAt    // the latest removals, oldest first; some are void
	keys       int            // how many keys have a value
	bytes      int            // of all slots, as sizeInTable counts
	changes    uint64         // number of the newest change; grows with each publication, and is never 0

	forgottenUpto   uint64 // the table may have forgotten removals up to this offset
	forgottenChange uint64 // number of the newest change that is a forgotten removal; 0: there is none
}

// keySlot is the place of one key.
type keySlot struct {
	newest *broker.Publication // a value or a removal; nil: the slot has no key
	change uint64              // number of the change that put newest there
}

// keySlotAt is a slot as it was after a change. It is void if the slot was changed since.
type keySlotAt struct {
	slot   int
	change uint64
}

// newKeyTable returns an empty table. The removals up to an offset count as forgotten.
func newKeyTable(upto uint64) *keyTable {
	return &keyTable{index: make(map[string]int), changes: 1, forgottenUpto: upto}
}

// put makes a publication the newest of its key.
func (k *keyTable) put(p *broker.Publication) {
	i, known := k.index[p.Key]
	if known {
		k.uncount(k.slots[i].newest)
	} else {
		i = k.takeSlot()
		k.index[p.Key] = i
	}
	k.changes++
	k.slots[i] = keySlot{p, k.changes}
	k.bytes += sizeInTable(p)
	if !p.Removed {
		k.keys++
		return
	}
	k.removed = append(k.removed, keySlotAt{i, k.changes})
	most := k.maxRemovals()
	for k.removals() > most {
		k.forgetRemoval()
	}
	if len(k.removed) > 2*most { // at most half of these still stand: the other keys have come back
		k.removed = slices.DeleteFunc(k.removed, k.isVoid)
	}
}

// removals returns how many removals the table remembers.
func (k *keyTable) removals() int { return len(k.index) - k.keys }

// maxRemovals returns how many removals the table may remember.
func (k *keyTable) maxRemovals() int { return min(max(k.keys, minRemoved), maxRemoved) }

func (k *keyTable) isVoid(at keySlotAt) bool { return k.slots[at.slot].change != at.change }

// takeSlot returns a slot for a new key.
func (k *keyTable) takeSlot() int {
	if n := len(k.emptySlots); n > 0 {
		i := k.emptySlots[n-1]
		k.emptySlots = k.emptySlots[:n-1]
		return i
	}
	k.slots = append(k.slots, keySlot{})
	return len(k.slots) - 1
}

// uncount takes a publication that leaves its slot out of keys and bytes.
func (k *keyTable) uncount(p *broker.Publication) {
	k.bytes -= sizeInTable(p)
	if !p.Removed {
		k.keys--
	}
}

// forgetRemoval forgets the oldest removal.
func (k *keyTable) forgetRemoval() {
	oldest := k.removed[0]
	k.removed = k.removed[1:]
	if !k.isVoid(oldest) {
		k.forgottenUpto, k.forgottenChange = max(k.forgottenUpto, k.slots[oldest.slot].newest.Offset), oldest.change
		k.drop(oldest.slot)
	}
}

// makeSpace reports whether the table takes at most so many bytes after a publication is put in it.
// To make that true it forgets removals, the oldest first. A publication that is not larger than the
// one before of its key is always allowed.
func (k *keyTable) makeSpace(p *broker.Publication, most int) bool {
	for {
		grows := sizeInTable(p)
		if before := k.find(p.Key); before != nil {
			grows -= sizeInTable(before)
		}
		if grows <= 0 || k.bytes+grows <= most {
			return true
		}
		if len(k.removed) == 0 {
			return false
		}
		k.forgetRemoval()
	}
}

// learn adds removals that the table had forgotten. found has all removals of the history after an
// offset, oldest first. If the table has no space for all of them, it takes the newest. No removal that
// the table remembers makes space for them: those are newer still.
func (k *keyTable) learn(offset uint64, found []*broker.Publication) {
	if offset >= k.forgottenUpto {
		return
	}
	var missing []*broker.Publication
	for _, p := range found {
		if p.Removed && k.find(p.Key) == nil {
			missing = append(missing, p)
		}
	}
	space := max(k.maxRemovals()-k.removals(), 0)
	if tooMany := len(missing) - space; tooMany > 0 {
		offset, missing = missing[tooMany-1].Offset, missing[tooMany:]
	}
	k.forgottenUpto = min(k.forgottenUpto, offset)
	for _, p := range missing {
		k.put(p)
	}
}

// drop empties a slot.
func (k *keyTable) drop(i int) {
	p := k.slots[i].newest
	k.uncount(p)
	delete(k.index, p.Key)
	k.slots[i] = keySlot{}
	k.emptySlots = append(k.emptySlots, i)
}

// find returns the newest publication of a key, which may be a removal; nil: the table has none.
func (k *keyTable) find(key string) *broker.Publication {
	if i, known := k.index[key]; known {
		return k.slots[i].newest
	}
	return nil
}

// hasValue reports whether a key has a value.
func (k *keyTable) hasValue(key string) bool {
	p := k.find(key)
	return p != nil && !p.Removed
}

// between returns the values and removals after one offset and up to another, oldest first.
func (k *keyTable) between(after, upto uint64) []*broker.Publication {
	var found []*broker.Publication
	for _, s := range k.slots {
		if p := s.newest; p != nil && p.Offset > after && p.Offset <= upto {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b *broker.Publication) int { return cmp.Compare(a.Offset, b.Offset) })
	return found
}

// values returns the newest values, limit at most, oldest first.
func (k *keyTable) values(limit int) []*broker.Publication {
	all := slices.DeleteFunc(k.between(0, 1<<64-1), func(p *broker.Publication) bool { return p.Removed })
	return all[max(len(all)-limit, 0):]
}

// olderThan returns the keys whose value was published longer ago than an age. It also forgets the
// removals that were published longer ago.
func (k *keyTable) olderThan(age time.Duration, now time.Time) (keys []string) {
	for _, s := range k.slots {
		if p := s.newest; p != nil && !p.Removed && now.Sub(p.Time) > age {
			keys = append(keys, p.Key)
		}
	}
	for len(k.removed) > 0 {
		oldest := k.removed[0]
		if !k.isVoid(oldest) && now.Sub(k.slots[oldest.slot].newest.Time) <= age {
			break
		}
		k.forgetRemoval()
	}
	return keys
}

// oldest returns when the oldest value or removal was published; false: the table is empty.
func (k *keyTable) oldest() (at time.Time, ok bool) {
	for _, s := range k.slots {
		if s.newest != nil && (!ok || s.newest.Time.Before(at)) {
			at, ok = s.newest.Time, true
		}
	}
	return at, ok
}

// sizeInTable is what a publication takes in a table, in bytes: its data, its key in the publication
// and in index, and the structs around them.
func sizeInTable(p *broker.Publication) int {
	return len(p.Data) + 2*len(p.Key) + publicationBytes
}
