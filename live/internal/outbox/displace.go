package outbox

import "github.com/livetopic/livetopic/live/internal/frame"

// What a full queue drops to make space. Only frames with a tag are dropped: those of
// topics that say so. The peer learns of it in the right place: the next frame of the
// tag that is left is sent after the tag's gap frame, or the gap frame alone stays
// where the dropped one was. All of it is called with Box.mu held.

// displace makes space for a frame and returns it, perhaps with its gap; nil if there is
// no space to be made.
func (b *Box) displace(f *frame.Frame) *frame.Frame {
	if f.Tag == nil && b.droppable.frames == 0 {
		return nil
	}
	if f.Tag != nil {
		f = b.dropOwn(b.takeGap(f))
	}
	for !b.fits(f) {
		if b.droppable.frames == 0 {
			return nil
		}
		b.dropOldest()
	}
	return f
}

// takeGap has a frame sent after a gap that waits alone, if no frame of the tag waits
// behind that: the gap then needs no place of its own.
func (b *Box) takeGap(f *frame.Frame) *frame.Frame {
	waiting := b.queue.waiting()
	for i := len(waiting) - 1; i >= 0; i-- {
		switch {
		case waiting[i].Tag == f.Tag:
			return f
		case waiting[i] == f.Tag.Gap && f.Tag.Gap != nil:
			b.uncount(waiting[i])
			b.remove(i)
			return f.AfterGap()
		}
	}
	return f
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

// dropOldest drops the oldest frame that may be dropped.
func (b *Box) dropOldest() {
	waiting := b.queue.waiting()
	i := 0
	for waiting[i].Tag == nil {
		i++
	}
	tag := waiting[i].Tag
	b.uncount(waiting[i])
	b.writers.dropped.Add(1)
	if b.silent || tag.Gap == nil {
		b.remove(i)
		return
	}
	for j := i + 1; j < len(waiting); j++ {
		if waiting[j].Tag == tag {
			waiting[j] = b.gapBefore(waiting[j])
			b.remove(i)
			return
		}
	}
	for j := i - 1; j >= 0; j-- {
		if waiting[j] == tag.Gap { // nothing of the tag is between
			b.remove(i)
			return
		}
	}
	waiting[i] = tag.Gap // which has no tag, so that it is not dropped in its turn
	b.frames += tag.Gap.Messages()
	b.bytes += tag.Gap.Len()
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
