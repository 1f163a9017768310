package outbox

import (
	"slices"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// A full queue drops frames to make space for another one. Only frames with a tag are
// dropped: those of topics that allow it. The peer learns of it in the right place: the
// next frame of the tag is sent after the tag's gap frame.
//
// What is said here of the frames of a tag holds for those with the same tag and key: a topic
// may have publications of many keys, and a newer value of one makes no other old.
//
// The newest frame of a tag is not dropped for frames of other tags. It steps aside: it
// leaves the queue for Box.aside, and is queued again when there is space. If a newer frame
// of its tag comes first, that one replaces it. What has stepped aside counts for itself, and
// is bounded like the bytes of the queue.
//
// A frame must not step past what answers the client about its topic: see Settle.
//
// All functions of this file are called with Box.mu held.

// displace makes space for a frame. It returns the frame, after its gap if one is due; nil
// if no space can be made. What keeps its place is not dropped for a patient caller, who can
// wait for space.
func (b *Box) displace(f *frame.Frame, patient bool) *frame.Frame {
	if f.Tag != nil {
		f = b.dropOwn(f)
	}
	for !b.fits(f) {
		if b.droppable.frames == 0 || !b.dropOldest(patient) {
			return nil
		}
	}
	return f
}

// replaceAside drops the frame that has stepped aside and that f replaces, if there is one. It returns f, after its gap if a frame was dropped.
func (b *Box) replaceAside(f *frame.Frame) *frame.Frame {
	if !b.forget(f) {
		return f
	}
	b.writers.dropped.Add(1)
	if b.silent {
		return f
	}
	return f.AfterGap()
}

// forget drops the frame that has stepped aside and that another replaces. It reports whether
// there was one.
func (b *Box) forget(by *frame.Frame) bool {
	i := slices.IndexFunc(b.aside, by.Replaces)
	if i < 0 {
		return false
	}
	b.takeAside(i)
	return true
}

// takeAside removes the i-th frame that has stepped aside.
func (b *Box) takeAside(i int) *frame.Frame {
	f := b.aside[i]
	b.asideBytes -= f.Len()
	b.aside = slices.Delete(b.aside, i, i+1)
	if len(b.aside) == 0 {
		b.aside = nil
	}
	return f
}

// settleTag queues what has stepped aside of a tag, beyond the bounds, and has all that waits of
// it keep its place.
func (b *Box) settleTag(tag *frame.Tag) {
	ofTag := func(f *frame.Frame) bool { return f.Tag == tag }
	for i := slices.IndexFunc(b.aside, ofTag); i >= 0; i = slices.IndexFunc(b.aside, ofTag) {
		b.push(b.takeAside(i))
	}
	if b.queue == nil {
		return
	}
	waiting := b.queue.waiting()
	for i, f := range waiting {
		if f.Tag == tag && !f.Stays() {
			waiting[i] = f.Staying()
		}
	}
}

// comeBack queues the frames that have stepped aside, as long as they fit.
func (b *Box) comeBack() {
	for len(b.aside) > 0 && b.fits(b.aside[0]) {
		b.push(b.takeAside(0))
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
		own := f.Replaces(old) && !old.Stays()
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

// dropOldest removes the oldest frame that has a tag from the queue. If no newer frame of its
// tag waits it steps aside, or leaves its gap where it stood; else it is dropped. ok is false
// if that cannot be: too much has stepped aside already, or the caller is patient and only
// what keeps its place is left.
func (b *Box) dropOldest(patient bool) (ok bool) {
	waiting := b.queue.waiting()
	i := slices.IndexFunc(waiting, func(f *frame.Frame) bool { return f.Tag != nil && !(patient && f.Stays()) })
	if i < 0 {
		return false
	}
	f := waiting[i]
	next := slices.IndexFunc(waiting[i+1:], func(later *frame.Frame) bool {
		return later.Replaces(f) && later.Stays() == f.Stays()
	})
	switch {
	case next >= 0:
		b.uncount(f)
		b.writers.dropped.Add(1)
		waiting[i+1+next] = b.gapBefore(waiting[i+1+next])
	case f.Stays():
		b.uncount(f)
		b.writers.dropped.Add(1)
		if gap := f.Tag.Gap; gap != nil && !b.silent {
			waiting[i] = gap // which has no tag, so that it is not dropped in its turn
			b.frames += gap.Messages()
			b.bytes += gap.Len()
			return true
		}
	case len(b.aside) > 0 && b.asideBytes+f.Len() > b.writers.limits.Bytes:
		return false
	default:
		b.uncount(f)
		b.aside = append(b.aside, f)
		b.asideBytes += f.Len()
	}
	b.remove(i)
	return true
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
