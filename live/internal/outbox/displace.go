package outbox

import (
	"slices"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// What a full queue drops to make space. Only frames with a tag are dropped: those of
// topics that say so. The peer learns of it in the right place: the next frame of the
// tag is sent after the tag's gap frame.
//
// The newest frame of a tag is not dropped for others. It steps aside, and comes back when
// there is space, unless a newer one comes before. What has stepped aside is beyond the
// bounds, and costs its topic one frame, not each session: all whose newest steps aside
// have the same one. All of it is called with Box.mu held.

// displace makes space for a frame and returns it, perhaps with its gap; nil if there is
// no space to be made.
func (b *Box) displace(f *frame.Frame) *frame.Frame {
	if f.Tag != nil {
		f = b.dropOwn(f)
	}
	for !b.fits(f) {
		if b.droppable.frames == 0 {
			return nil
		}
		b.dropOldest()
	}
	return f
}

// replaceAside has a frame take the place of one that has stepped aside.
func (b *Box) replaceAside(f *frame.Frame) *frame.Frame {
	if !b.forget(f.Tag) {
		return f
	}
	b.writers.dropped.Add(1)
	if b.silent {
		return f
	}
	return f.AfterGap()
}

// forget drops the frame of a tag that has stepped aside. It reports whether there was one.
func (b *Box) forget(tag *frame.Tag) bool {
	i := slices.IndexFunc(b.aside, func(f *frame.Frame) bool { return f.Tag == tag })
	if i < 0 {
		return false
	}
	b.aside = slices.Delete(b.aside, i, i+1)
	return true
}

// comeBack queues what has stepped aside, as far as there is space.
func (b *Box) comeBack() {
	for len(b.aside) > 0 && b.fits(b.aside[0]) {
		b.push(b.aside[0])
		b.aside = slices.Delete(b.aside, 0, 1)
	}
}

// dropOwn drops waiting frames with the tag of f: as many as must be, oldest first, or
// all if only the latest counts.
func (b *Box) dropOwn(f *frame.Frame) *frame.Frame {
	if b.queue == nil {
		return f
	}
	waiting := b.queue.waiting()
	kept := waiting[:0]
	lost := false
	adding := f // with the gap, while that has no other place
	for _, old := range waiting {
		own := old.Tag == f.Tag
		if own && (f.Tag.Latest || !b.fits(adding)) {
			b.uncount(old)
			b.writers.dropped.Add(1)
			lost = true
			if !b.silent {
				adding = f.AfterGap()
			}
			continue
		}
		if own && lost {
			old = b.gapBefore(old)
			lost, adding = false, f
		}
		kept = append(kept, old)
	}
	b.truncate(len(kept))
	return adding
}

// dropOldest takes the oldest frame that may be dropped out of the queue.
func (b *Box) dropOldest() {
	waiting := b.queue.waiting()
	i := slices.IndexFunc(waiting, func(f *frame.Frame) bool { return f.Tag != nil })
	f := waiting[i]
	b.uncount(f)
	next := slices.IndexFunc(waiting[i+1:], func(later *frame.Frame) bool { return later.Tag == f.Tag })
	if next < 0 {
		b.aside = append(b.aside, f)
	} else {
		waiting[i+1+next] = b.gapBefore(waiting[i+1+next])
		b.writers.dropped.Add(1)
	}
	b.remove(i)
}

// gapBefore returns a waiting frame with its gap, and counts what that adds.
func (b *Box) gapBefore(f *frame.Frame) *frame.Frame {
	if b.silent {
		return f
	}
	after := f.AfterGap()
	b.bytes += after.Len() - f.Len()
	b.droppable.bytes += after.Len() - f.Len()
	return after
}

// remove takes the i-th waiting frame, which is not counted any more, out of the queue.
func (b *Box) remove(i int) {
	waiting := b.queue.waiting()
	copy(waiting[i:], waiting[i+1:])
	b.truncate(len(waiting) - 1)
}

// truncate drops the waiting frames after the first n.
func (b *Box) truncate(n int) {
	b.queue.keep(n)
	if n == 0 {
		b.queue.release()
		b.queue = nil
	}
}
