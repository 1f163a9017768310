package natsbroker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// In a stream with many topics, JetStream reads every message between the first and the last
// message of a batch. This is a scan. It reads about 15,000 messages in a millisecond, and the
// stream stores nothing meanwhile. So scans are divided into slices, and the slices take turns.
// While publications come from this process, a slice is small and a pause follows it. Then a
// publication waits for a few milliseconds at most, and seldom for more than one slice.

const (
	// scanSpan is the distance from the end of a stream, in messages, within which a batch is
	// not a scan. To read over all of these messages takes a third of a millisecond.
	scanSpan = 4 << 10

	// sliceSpan is how many messages of the stream a slice should read over while publications
	// come, which takes two milliseconds. calmSpan is the number at other times, which takes
	// eight.
	sliceSpan = 32 << 10
	calmSpan  = 128 << 10

	// firstSlice is the number of messages in the first slice of a stream of which nothing is
	// known.
	firstSlice = 8

	// longestRest bounds the pause after a slow slice, since NATS may be far away or busy.
	longestRest = 50 * time.Millisecond

	// busyTime is how long after a publication others are expected.
	busyTime = 100 * time.Millisecond

	// scansEmbedded and scansElsewhere are how many slices may be read at the same time. An
	// embedded server reads the slices of its process one after another, so more of them would
	// only delay publications. With a server elsewhere, four slices make up for the time on the
	// network.
	scansEmbedded  = 1
	scansElsewhere = 4
)

// scans makes slices wait for each other, and leave time for publications.
type scans struct {
	slots       chan struct{} // holds one for each slice that is being read
	span        uint64        // sliceSpan; the tests have streams with fewer messages
	publishedAt atomic.Int64  // when the last publication to a stream began, on the clock of package clock; 0: never
}

func (s *scans) init(embedded bool) {
	n := scansElsewhere
	if embedded {
		n = scansEmbedded
	}
	s.slots, s.span = make(chan struct{}, n), sliceSpan
}

func (s *scans) publishing() { s.publishedAt.Store(clock.Now()) }

// busy reports whether publications are expected.
func (s *scans) busy() bool {
	at := s.publishedAt.Load()
	return at != 0 && clock.Now()-at < int64(busyTime)
}

// slice calls ask to read a slice. While publications are expected, it then pauses as long as
// ask took.
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

// scan reads a batch in slices. Each slice begins with the last message of the slice before it,
// which shows that nothing was dropped in between.
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
				return all, nil // messages were dropped meanwhile, so the batch ends here
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

// noteGap notes the average distance of a topic's messages in the stream.
func (st *stream) noteGap(messages []message) {
	if n := len(messages); n > 1 {
		st.gap.Store((messages[n-1].Sequence - messages[0].Sequence) / uint64(n-1))
	}
}

// sliceLength returns how many messages the next slice should have, if the distance between
// them stays the same.
func (st *stream) sliceLength() int {
	gap := st.gap.Load()
	switch {
	case gap == 0:
		return firstSlice
	case st.broker.scans.busy():
		return int(max(st.broker.scans.span/gap, 1))
	}
	return int(max(calmSpan/gap, 1))
}
