package natsbroker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// stream is one of JetStream, as far as it is known here.
type stream struct {
	broker   *Broker
	config   StreamConfig
	patterns []string                   // of topics' tokens
	subjects []string                   // what it takes in
	subject  func(tokens string) string // where a topic is published to

	fullness fullness // whether it has space

	making   chan struct{}         // holds one while it is made
	maxBytes int64                 // what MaxBytes of Options.Default was lowered to; 0: it was not; guarded by making
	triedAt  time.Time             // when that was last tried; guarded by making
	makeErr  atomic.Pointer[error] // why it is not there; nil: not tried yet
	found    atomic.Bool           // it was there once, and ours

	gap atomic.Uint64 // how far apart the messages of a topic were in the last scan; 0: not known

	asking    sync.Mutex // held while the server is asked for its state; before comparing
	comparing sync.Mutex // held while the stream is compared with what is known of it; before mu

	noteFile atomic.Pointer[noteFile] // the note beside it; nil: there is none

	mu             sync.Mutex // guards what follows
	state          streamState
	newestSequence uint64 // greatest sequence seen
	proof          proof
}

// streamState is what the stream's leader said of it.
type streamState struct {
	epoch       string
	first, last uint64    // sequences; first is last+1 if it is empty
	askedAt     time.Time // before it said so; zero: never
	leaderTime  time.Time // the leader's when it said so; zero: not known
	heardAt     time.Time // when the answer was here
}

func newStream(b *Broker, c StreamConfig) *stream {
	st := &stream{broker: b, config: c, subject: b.storedSubject, making: make(chan struct{}, 1)}
	for _, s := range c.Subjects {
		patterns, err := encodePattern(s)
		if err != nil {
			panic(err) // StreamConfig.check has seen it
		}
		st.patterns = append(st.patterns, patterns...)
	}
	slices.Sort(st.patterns)
	st.patterns = slices.Compact(st.patterns)
	for _, p := range st.patterns {
		st.subjects = append(st.subjects, b.storedSubject(p))
	}
	return st
}

// learn takes note of what the leader said.
func (st *stream) learn(info *jetstream.StreamInfo, asked time.Time) streamState {
	now := streamState{
		epoch:      st.epochOf(info),
		first:      info.State.FirstSeq,
		last:       info.State.LastSeq,
		askedAt:    asked,
		leaderTime: info.TimeStamp,
		heardAt:    time.Now(),
	}
	if info.State.Msgs == 0 {
		now.first = now.last + 1
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if now.epoch != st.state.epoch {
		st.newestSequence = 0
		st.proof = proof{endedEpochs: st.proof.endedEpochs, endedAt: st.proof.endedAt}
	}
	if now.askedAt.After(st.state.askedAt) {
		st.state = now
	}
	st.newestSequence = max(st.newestSequence, now.last)
	return now
}

// stateSince returns a state of the stream that the leader gave after a moment.
func (st *stream) stateSince(ctx context.Context, moment time.Time) (streamState, error) {
	if !st.found.Load() { // nor compared with what it was
		if err := st.remake(ctx); err != nil {
			return streamState{}, err
		}
	}
	st.asking.Lock() // whoever waits here profits from the answer
	defer st.asking.Unlock()
	st.mu.Lock()
	known := st.state
	st.mu.Unlock()
	if !known.askedAt.Before(moment) && !known.askedAt.IsZero() {
		return known, nil
	}
	var seen seen
	there, err := insist(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		seen = st.newestSeen()
		return st.broker.js.Stream(ctx, st.config.Name)
	})
	if err == nil {
		err = deposed(there.CachedInfo())
	}
	if err != nil {
		return streamState{}, err
	}
	info, err := st.compare(ctx, there.CachedInfo(), seen, false)
	if err != nil {
		return streamState{}, err
	}
	return st.learn(info, seen.askedAt), nil
}

// expireState has the stream's state asked for before it is relied upon again.
func (st *stream) expireState() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.state.askedAt = time.Time{}
}

// saw takes note of a sequence, and returns the epoch that it is taken to be of. at is when
// it was stored; zero: unknown.
func (st *stream) saw(sequence uint64, at time.Time) (epoch string) {
	if n := st.noteFile.Load(); n != nil {
		n.saw(sequence, at)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.newestSequence = max(st.newestSequence, sequence)
	st.proof.saw(sequence, at)
	return st.state.epoch
}

// seen is the greatest sequence that was seen in an epoch, at a time.
type seen struct {
	epoch    string
	sequence uint64
	askedAt  time.Time
}

func (st *stream) newestSeen() seen {
	st.mu.Lock()
	defer st.mu.Unlock()
	return seen{st.state.epoch, st.newestSequence, time.Now()}
}

// gone reports whether an error may mean that the stream is not there.
func gone(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
}
