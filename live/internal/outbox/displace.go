package outbox

import (
	"slices"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// A full queue drops frames to make space for another one. Only frames with a tag are
// dropped: those of topics that allow it. The peer learns of it in the right place: the
// next frame of the tag is sent after the tag's gap frame.
//
// The newest frame of a tag is not dropped for frames of other tags. It steps aside: it
// leaves the queue for Box.aside, and is queued again when there is space. If a newer frame
// of its tag comes first, that one replaces it. Frames in aside do not count against the
// bounds. They cost one frame for each topic, not one for each session: a topic's newest
// frame is the same for all sessions.
//
// All functions of this file are called with Box.mu held.

// displace makes space for a frame. It returns the frame, after its gap if one is due; nil
// if no space can be made.
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

// replaceAside drops the frame that has stepped aside and has the tag of f, if there is one,
// because f is newer. It returns f, after its gap if a frame was dropped.
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

// forget drops the frame that has stepped aside and has this tag. It reports whether there
// was one.
func (b *Box) forget(tag *frame.Tag) bool {
	i := slices.IndexFunc(b.aside, func(f *frame.Frame) bool { return f.Tag == tag })
	if i < 0 {
		return false
	}
	b.aside = slices.Delete(b.aside, i, i+1)
	return true
}

// comeBack queues the frames that have stepped aside, as long as they fit.
func (b *Box) comeBack() {
	for len(b.aside) > 0 && b.fits(b.aside[0]) {
		b.push(b.aside[0])
		b.aside = slices.Delete(b.aside, 0, 1)
	}
}

// dropOwn drops waiting frames with the tag of f, oldest first: as many as f needs to fit,
// or all if only the latest counts. The gap then stands before the next frame of the tag
// that still waits. If none does, dropOwn returns f after its gap, else f as it is.
func (b *Box) dropOwn(f *frame.Frame) *frame.Frame {
	if b.queue == nil {
		return f
	}
	waiting := b.queue.waiting()
	kept := waiting[:0]
	lost := false
	adding := f // after its gap, while no frame that still waits has the gap before it
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

// dropOldest removes the oldest frame that has a tag from the queue. It steps aside if no
// newer frame of its tag waits; else it is dropped.
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

// gapBefore returns a waiting frame after its gap, and counts the bytes of the gap.
func (b *Box) gapBefore(f *frame.Frame) *frame.Frame {
	if b.silent {
		return f
	}
	after := f.AfterGap()
	b.bytes += after.Len() - f.Len()
	b.droppable.bytes += after.Len() - f.Len()
	return after
}

// remove removes the i-th waiting frame from the queue. The caller has called uncount for it.
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
