package natsbroker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// stream is a JetStream stream, as StreamConfig describes it. EnsureStream replaces it by
// another stream of the same name. Publications in progress may still use the old one.
type stream struct {
	broker   *Broker
	config   StreamConfig
	patterns []string // cover the tokens of its topics
	subjects []string // what it stores
	head     string   // what its subjects begin with

	fullness fullness // whether it has space

	maxBytes int64                 // the lowered MaxBytes of the default stream; 0: not lowered; guarded by making
	triedAt  time.Time             // when it was last made or tried; guarded by making
	makeErr  atomic.Pointer[error] // the result of that; nil: it was never tried

	known knownKeys // of a keyed stream

	gap atomic.Uint64 // average distance in sequences of a topic's messages, in the last scan; 0: unknown

	*memory
}

// memory is what this process knows of the stream of one name. All streams of the name share
// it, so what one has seen is no loss to another.
type memory struct {
	found atomic.Bool // it has existed, and is ours

	making    turn // held while the stream is made or changed
	asking    turn // held while the leader is asked for the state
	comparing turn // held while the stream is compared with what is known of it

	noteFile  atomic.Pointer[noteFile] // the note beside the stream; nil: it has none
	noteEpoch string                   // the epoch to which the note belongs; guarded by comparing
	onlyHere  atomic.Bool              // the stream has a note, and the embedded server has the only copy
	noteBegan time.Time                // when the note began with that epoch; guarded by comparing

	mu             sync.Mutex // guards the fields below
	state          streamState
	expiredAt      time.Time // answers that were asked for until then are too old
	created        time.Time // when the stream was made, on the clock of NATS
	newestSequence uint64    // the greatest sequence that was seen
	ends           ends      // of a keyed stream
	proof          proof
}

func newMemory() *memory {
	return &memory{making: make(turn, 1), asking: make(turn, 1), comparing: make(turn, 1)}
}

// turn is a lock for which a caller waits no longer than its context lasts. It may be held
// while NATS answers, which takes seconds if there is no leader.
type turn chan struct{}

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) leave() { <-t }

// streamState is the state of a stream, as its leader told it.
type streamState struct {
	epoch       string
	first, last uint64    // sequences; first is last+1 if the stream is empty
	maxPerTopic int64     // publications of one topic; 0 or less: no bound
	maxBytes    int64     // size of the stream; 0 or less: no bound
	askedAt     time.Time // when the leader was asked; zero: never
	leaderTime  time.Time // the time on the leader's clock; zero: unknown
	heardAt     time.Time // when the answer arrived
}

func newStream(b *Broker, c StreamConfig) *stream {
	st := &stream{broker: b, config: c, head: headStored, memory: b.streams.memoryOf(c.Name)}
	if c.Keyed {
		st.head = headKeyed
	}
	for _, s := range c.Subjects {
		patterns, err := encodePattern(s)
		if err != nil {
			panic(err) // StreamConfig.check has refused such patterns
		}
		st.patterns = append(st.patterns, patterns...)
	}
	slices.Sort(st.patterns)
	st.patterns = slices.Compact(st.patterns)
	for _, p := range st.patterns {
		st.subjects = append(st.subjects, st.subject(p))
	}
	return st
}

// subject returns the subject under which the stream has a topic, or the topics of a pattern. Of a
// keyed topic it covers all keys.
func (st *stream) subject(tokens string) string {
	subject := st.broker.opts.Prefix + "." + st.head + "." + tokens
	if st.config.Keyed && !strings.HasSuffix(tokens, ">") {
		return subject + ".*"
	}
	return subject
}

// publishSubject returns the subject to which a topic is published. key is the publication's, for a
// keyed topic.
func (st *stream) publishSubject(tokens, key string) string {
	subject := st.subject(tokens)
	if st.config.Keyed {
		return strings.TrimSuffix(subject, "*") + encodeKey(key)
	}
	return subject
}

// deliverySubject returns the subject on which the stream sends a topic to the subscribers.
func (st *stream) deliverySubject(tokens string) string {
	if st.config.Keyed {
		return st.broker.keyedSubject(tokens)
	}
	return st.broker.deliverySubject(tokens)
}

// learn stores the state that the leader has told. An answer that comes after the answer to a
// later question changes nothing: it may be of an epoch that has ended.
func (st *stream) learn(info *jetstream.StreamInfo, asked time.Time) streamState {
	now := streamState{
		epoch:       st.epochOf(info),
		first:       info.State.FirstSeq,
		last:        info.State.LastSeq,
		maxPerTopic: info.Config.MaxMsgsPerSubject,
		maxBytes:    info.Config.MaxBytes,
		askedAt:     asked,
		leaderTime:  info.TimeStamp,
		heardAt:     time.Now(),
	}
	if info.State.Msgs == 0 {
		now.first = now.last + 1
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.config.Keyed {
		st.ends.note(now.epoch, now.last)
	}
	if now.epoch != st.state.epoch {
		if !now.askedAt.After(st.state.askedAt) {
			return now
		}
		if slices.Contains(st.proof.endedEpochs, now.epoch) {
			return now // a comparison has yet to tell whether this epoch is back
		}
		st.beginEpoch(st.state.epoch, asked)
	}
	if now.askedAt.After(st.state.askedAt) {
		st.state, st.created = now, info.Created
	}
	st.newestSequence = max(st.newestSequence, now.last)
	return now
}

// stateSince returns a state of the stream for which the leader was asked at a moment or later.
func (st *stream) stateSince(ctx context.Context, moment time.Time) (streamState, error) {
	if !st.found.Load() { // then it is not yet compared either
		if err := st.remake(ctx); err != nil {
			return streamState{}, err
		}
	}
	if known, ok := st.knownSince(moment); ok {
		return known, nil
	}
	if err := st.asking.take(ctx); err != nil { // the next in line can use the same answer
		return streamState{}, err
	}
	defer st.asking.leave()
	if known, ok := st.knownSince(moment); ok {
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
	info, err := st.compare(ctx, there.CachedInfo(), &seen, false)
	if err != nil {
		return streamState{}, err
	}
	return st.learn(info, seen.askedAt), nil
}

// knownSince returns the known state, if the leader was asked for it at a moment or later and
// it has not expired.
func (st *stream) knownSince(moment time.Time) (known streamState, ok bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	asked := st.state.askedAt
	return st.state, !asked.Before(moment) && asked.After(st.expiredAt)
}

// expireState makes the next user of the stream's state ask for it again. An answer that is on
// its way does not count.
func (st *stream) expireState() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.expiredAt = time.Now()
}

// saw notes a sequence, and returns the epoch to which it is taken to belong. at is when the
// message was stored; zero: unknown. A message that is older than the stream is from a deleted
// stream of the same name, and says nothing of this one.
func (st *stream) saw(sequence uint64, at time.Time) (epoch string) {
	st.mu.Lock()
	epoch = st.state.epoch
	isOurs := at.IsZero() || !at.Before(st.created)
	if isOurs {
		st.newestSequence = max(st.newestSequence, sequence)
		st.proof.saw(sequence, at)
	}
	st.mu.Unlock()
	if n := st.noteFile.Load(); n != nil && isOurs {
		n.saw(sequence, at)
	}
	return epoch
}

// seen is the greatest sequence that was seen in an epoch until a time.
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

// gone reports whether an error may mean that the stream does not exist.
func gone(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
}
