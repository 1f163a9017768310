package natsbroker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// A batch of a topic that shares its stream with many is a scan: JetStream reads every message
// between the first and the last, some 15,000 in a millisecond, and stores nothing meanwhile. So
// scans come one after another and in slices. While somebody publishes here, a slice is small,
// and there is a rest after it: then a publication waits for some milliseconds at most, and
// seldom for more than one slice.

const (
	// scanSpan is how many messages of a stream a batch may lie before its end, so that it is no
	// scan: reading over all of them costs a third of a millisecond.
	scanSpan = 4 << 10

	// sliceSpan is over how many messages a slice should read while somebody publishes, and
	// calmSpan otherwise: two milliseconds, and eight.
	sliceSpan = 32 << 10
	calmSpan  = 128 << 10

	// firstSlice is how many messages the first slice has if nothing is known of the stream.
	firstSlice = 8

	// longestRest bounds the rest after a slice that took long: NATS may be far away, or busy.
	longestRest = 50 * time.Millisecond

	// busyTime is for how long after a publication others are expected.
	busyTime = 100 * time.Millisecond

	// scansEmbedded and scansElsewhere are how many scans are under way at once. An embedded
	// server carries out those of its process one after another, so more would only wait in
	// front of publications. With a server elsewhere, four hide the way there and back.
	scansEmbedded  = 1
	scansElsewhere = 4
)

// scans has slices wait for each other, and for publications.
type scans struct {
	slots       chan struct{} // holds as many as there are slices under way
	publishedAt atomic.Int64  // when a publication to a stream last began, on the clock of package clock; 0: never
}

func (s *scans) init(embedded bool) {
	n := scansElsewhere
	if embedded {
		n = scansEmbedded
	}
	s.slots = make(chan struct{}, n)
}

func (s *scans) publishing() { s.publishedAt.Store(clock.Now()) }

// busy reports whether somebody publishes.
func (s *scans) busy() bool {
	at := s.publishedAt.Load()
	return at != 0 && clock.Now()-at < int64(busyTime)
}

// slice asks for a slice, and rests as long as that took if somebody publishes.
func (s *scans) slice(ctx context.Context, ask func(context.Context) (batch, error)) (batch, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return batch{}, ctx.Err()
	}
	began := time.Now()
	got, err := ask(ctx)
	if err == nil && s.busy() {
		sleep(ctx, min(time.Since(began), longestRest))
	}
	return got, err
}

// scan reads a batch in slices. Each begins with the last message of the one before it, which
// shows that nothing was dropped between the two.
func (st *stream) scan(ctx context.Context, subject string, from uint64, count, bytes int) (batch, error) {
	var all batch
	for {
		begin, overlap, space := from, 0, bytes
		if n := len(all.messages); n > 0 {
			last := all.messages[n-1]
			begin, overlap, space = last.Sequence, 1, bytes+last.size
		}
		want := min(st.sliceLength(), count-len(all.messages)) + overlap
		got, err := st.broker.scans.slice(ctx, func(ctx context.Context) (batch, error) {
			return st.request(ctx, subject, begin, want, space)
		})
		if err != nil {
			return batch{}, err
		}
		if overlap > 0 {
			if len(got.messages) == 0 || got.messages[0].Sequence != begin {
				return all, nil // dropped meanwhile: the batch ends before that
			}
			got.messages = got.messages[1:]
		}
		all.messages = append(all.messages, got.messages...)
		all.pending = got.pending
		for _, m := range got.messages {
			bytes -= m.size
		}
		st.noteGap(all.messages[len(all.messages)-len(got.messages)-overlap:])
		if got.pending == 0 || len(got.messages)+overlap < want || len(all.messages) >= count || bytes <= 0 {
			return all, nil
		}
	}
}

// noteGap notes how far apart messages are that follow one another in a topic.
func (st *stream) noteGap(messages []message) {
	if n := len(messages); n > 1 {
		st.gap.Store((messages[n-1].Sequence - messages[0].Sequence) / uint64(n-1))
	}
}

// sliceLength returns how many messages the next slice should have, if they lie as far apart as
// those of the last one.
func (st *stream) sliceLength() int {
	gap := st.gap.Load()
	switch {
	case gap == 0:
		return firstSlice
	case st.broker.scans.busy():
		return int(max(sliceSpan/gap, 1))
	}
	return int(max(calmSpan/gap, 1))
}
