package outbox

import (
	"slices"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// A full queue drops frames to make space for a new frame. Only frames with a tag are
// dropped. They belong to topics that allow it. The peer learns where frames are missing: the
// next frame of the tag is sent after the tag's gap frame.
//
// What is said here of the frames of a tag holds for those with the same tag and key: a topic
// may have publications of many keys, and a newer value of one makes no other old.
//
// The newest frame of a tag is not dropped for frames of other tags. It steps aside: it
// leaves the queue for Box.aside, and is queued again when there is space. If a newer frame
// of its tag comes before that, the newer frame replaces it. The bytes of the frames that have
// stepped aside have a bound of their own, as large as that of the queue.
//
// A frame must not step past a frame that tells the client its position in the topic: see
// Settle. So some frames keep their place (see frame.Frame.Staying): they are only dropped,
// and their gap takes their place.
//
// All functions of this file are called with Box.mu held.

// displace makes space for a frame. It returns the frame to queue: after its gap, if frames of its
// tag were dropped. It returns nil if no space can be made. A patient caller can wait for space.
// For it, no frame that keeps its place is dropped.
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

// replaceAside drops an older frame that has stepped aside and that f replaces. It returns f: after
// its gap, if there was such a frame.
func (b *Box) replaceAside(f *frame.Frame) *frame.Frame {
	if !b.forget(f) {
		return f
	}
	b.writers.countDropped(f.Tag.Latest)
	if b.silent {
		return f
	}
	return f.AfterGap()
}

// forget drops the frame that has stepped aside and that another frame replaces. It reports whether
// there was such a frame.
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

// settleTag queues the frame with this tag that has stepped aside, even beyond the bounds. From then
// on all waiting frames with this tag keep their place.
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

// dropOwn drops waiting frames with the tag of f, oldest first: as many as f needs to fit, or all
// if the tag is Latest. The next frame of the tag that still waits then comes after the gap. If no
// such frame waits, dropOwn returns f after its gap. Else it returns f as it is.
func (b *Box) dropOwn(f *frame.Frame) *frame.Frame {
	if b.queue == nil {
		return f
	}
	waiting := b.queue.waiting()
	kept := waiting[:0]
	gapDue := false // frames were dropped, and no frame after them has the gap before it
	adding := f     // the frame to queue: after its gap while gapDue
	for _, old := range waiting {
		own := f.Replaces(old) && !old.Stays()
		if own && (f.Tag.Latest || !b.fits(adding)) {
			b.uncount(old)
			b.writers.countDropped(f.Tag.Latest)
			gapDue = true
			if !b.silent {
				adding = f.AfterGap()
			}
			continue
		}
		if own && gapDue {
			old = b.gapBefore(old)
			gapDue, adding = false, f
		}
		kept = append(kept, old)
	}
	b.truncate(len(kept))
	return adding
}

// dropOldest removes the oldest frame that has a tag from the queue. If a newer frame with the same
// tag and the same Stays waits, the oldest is dropped, and the newer frame comes after the gap. If
// there is no such frame, the oldest steps aside. If it must keep its place, it is dropped instead,
// and its gap takes that place.
//
// ok is false if the queue stays as it is. Then too many bytes have stepped aside already, or the
// caller is patient and all frames that are left keep their place.
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
		b.writers.countDropped(f.Tag.Latest)
		waiting[i+1+next] = b.gapBefore(waiting[i+1+next])
	case f.Stays():
		b.uncount(f)
		b.writers.countDropped(f.Tag.Latest)
		if gap := f.Tag.Gap; gap != nil && !b.silent {
			waiting[i] = gap // a gap frame has no tag, so it is not dropped in its turn
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
