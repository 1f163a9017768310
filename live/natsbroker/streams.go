package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live/broker"
)

// streamTable knows which stream covers a topic.
type streamTable struct {
	broker   *Broker
	fallback *stream     // Options.Default
	needed   atomic.Bool // a topic is kept in fallback

	mu  sync.Mutex // held while all is replaced
	all atomic.Pointer[[]*stream]
}

func (x *streamTable) init(b *Broker) {
	x.broker = b
	x.fallback = newStream(b, b.opts.Default)
	x.fallback.subjects = []string{b.defaultSubject(">")}
	x.fallback.subject = b.defaultSubject
	all := make([]*stream, len(b.opts.Streams))
	for i, c := range b.opts.Streams {
		all[i] = newStream(b, c)
	}
	x.all.Store(&all)
}

// of returns the stream that covers a topic; nil: none.
func (x *streamTable) of(topic, tokens string) *stream {
	for _, st := range *x.all.Load() {
		for _, pattern := range st.patterns {
			if matches(pattern, tokens) {
				return st
			}
		}
	}
	if x.broker.rules == nil {
		return nil
	}
	if size, _ := x.broker.rules.History(topic); size <= 0 {
		return nil
	}
	if !x.needed.Load() {
		x.needed.Store(true)
	}
	return x.fallback
}

// every returns all streams, with the default one.
func (x *streamTable) every() []*stream { return append(slices.Clone(*x.all.Load()), x.fallback) }

// required returns the streams that must be there: the default one once a topic needs it.
func (x *streamTable) required() []*stream {
	if x.needed.Load() {
		return x.every()
	}
	return *x.all.Load()
}

// set adds a stream, or replaces the one of its name.
func (x *streamTable) set(st *stream) {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(*x.all.Load()), func(other *stream) bool {
		return other.config.Name == st.config.Name
	})
	all = append(all, st)
	x.all.Store(&all)
}

// lookAgain asks for the streams that were there, but could not be reached when last asked
// for, and for the default one: nobody else may ask while an application waits to be ready.
func (x *streamTable) lookAgain(ctx context.Context) {
	for _, st := range x.required() {
		if why := st.why.Load(); st == x.fallback && why == nil || (st == x.fallback || st.found.Load()) && *why != nil {
			st.remake(ctx)
		}
	}
}

// missing returns why not all streams are there, or not all take publications.
func (x *streamTable) missing() error {
	for _, st := range x.required() {
		switch why := st.why.Load(); {
		case why == nil:
			return fmt.Errorf("natsbroker: stream %s: %w: not looked for yet", st.config.Name, broker.ErrUnavailable)
		case *why != nil:
			return *why
		}
		if why := st.full.current(); why != nil {
			return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, why)
		}
	}
	return nil
}

// stream is one of JetStream, as far as it is known here.
type stream struct {
	broker   *Broker
	config   StreamConfig
	patterns []string                   // of topics' tokens
	subjects []string                   // what it takes in
	subject  func(tokens string) string // where a topic is published to

	full fullness // whether it has space

	making chan struct{}         // holds one while it is made
	atMost int64                 // what MaxBytes of Options.Default was lowered to; 0: it was not; guarded by making
	made   time.Time             // when that was last tried; guarded by making
	why    atomic.Pointer[error] // why it is not there; nil: not tried yet
	found  atomic.Bool           // it was there once, and ours

	gap atomic.Uint64 // how far apart the messages of a topic were in the last scan; 0: not known

	asking    sync.Mutex // held while the server is asked for its state; before comparing
	comparing sync.Mutex // held while the stream is compared with what is known of it; before mu

	end atomic.Pointer[end] // the note beside it; nil: there is none

	mu     sync.Mutex // guards what follows
	state  streamState
	newest uint64 // greatest sequence seen
	proof  proof
}

// streamState is what the stream's leader said of it.
type streamState struct {
	epoch       string
	first, last uint64    // sequences; first is last+1 if it is empty
	asked       time.Time // before it said so; zero: never
	clock       time.Time // the leader's when it said so; zero: not known
	heard       time.Time // when the answer was here
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

// EnsureStream creates a stream, or changes the one of that name to what c says. It
// is for streams that Options.Streams cannot name yet, and is called before the
// topics that it covers have subscribers. The error wraps live.ErrUnavailable if
// JetStream cannot be reached or has no majority, and ErrNotOurs if a stream of that name
// is somebody else's.
func (b *Broker) EnsureStream(ctx context.Context, c StreamConfig) error {
	if b.closed.Load() {
		return broker.ErrServerClosed
	}
	if err := c.check(); err != nil {
		return err
	}
	if c.Name == b.opts.Default.Name {
		return fmt.Errorf("natsbroker: %q is the name of the default stream", c.Name)
	}
	st := newStream(b, c)
	if err := st.ensure(ctx, 0); err != nil {
		return err
	}
	b.streams.set(st)
	return nil
}

// startTimeout is how long New waits for a NATS elsewhere to say whose the streams are. One
// that does not say so within it is asked in the background.
const startTimeout = time.Second

// ensureAtStart has the streams of the options made: at once by a server that is
// alone, by others in the background. A NATS elsewhere that can be asked is asked
// at once whether they can be ours at all.
func (b *Broker) ensureAtStart() error {
	alone := b.server != nil && b.opts.Cluster == nil
	if !alone && (b.server != nil || !b.nc.IsConnected()) {
		b.ensureInBackground()
		return nil
	}
	timeout := b.opts.PublishTimeout
	if !alone {
		timeout = min(timeout, startTimeout)
	}
	ctx, cancel := context.WithTimeout(b.ctx, timeout)
	defer cancel()
	for _, st := range *b.streams.all.Load() {
		err := st.ensure(ctx, 0)
		switch {
		case err == nil:
		case errors.Is(err, ErrNotOurs), errors.Is(err, errOverlap):
			return err
		case alone && !errors.Is(err, errNoSpace): // with a full disk what was stored can be read still
			return err
		default:
			b.tasks.Go(st.ensureInBackground) // ends when it is there, or with Close
		}
	}
	return nil
}

// ensureInBackground has them made when that has to wait for others.
func (b *Broker) ensureInBackground() {
	for _, st := range *b.streams.all.Load() {
		b.tasks.Go(st.ensureInBackground) // ends when it is there, or with Close
	}
}

func (st *stream) ensureInBackground() {
	warned := ""
	// A cluster without a leader does not answer at all: short attempts at first.
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		ctx, cancel := context.WithTimeout(st.broker.ctx, 200*time.Millisecond+2*wait)
		err := st.ensure(ctx, 0)
		cancel()
		if err == nil {
			return
		}
		// After half a second that is no longer the moment a cluster needs.
		if wait > 500*time.Millisecond && err.Error() != warned && st.broker.says.due("stream "+st.config.Name) {
			warned = err.Error()
			st.broker.logger.Warn("natsbroker: stream not there, trying on", "stream", st.config.Name, "err", err)
		}
		if !sleep(st.broker.ctx, wait) {
			return
		}
	}
}

// sleep waits, and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// remake has a stream made that is missing: in brief, since a cluster without a leader does
// not answer, and not more than once a second. One that is there is left as it is: another
// instance of the application may have changed it, with options that are newer.
func (st *stream) remake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return st.ensure(ctx, time.Second)
}

// ensure has the stream made, unless that was tried within pause. Without a pause it is
// also changed to what it should be; so is the default stream when it is first needed.
func (st *stream) ensure(ctx context.Context, pause time.Duration) error {
	if err := st.broker.mender.refuses(); err != nil {
		// A server that is starting JetStream knows no stream yet: one that is asked for
		// would be made anew, in the place of what it has stored.
		return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, err)
	}
	select {
	case st.making <- struct{}{}:
		defer func() { <-st.making }()
	case <-ctx.Done():
		return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(ctx.Err()))
	}
	if why := st.why.Load(); pause > 0 && why != nil && time.Since(st.made) < pause {
		return *why
	}
	st.made = time.Now()
	first := st == st.broker.streams.fallback && !st.found.Load()
	err := st.make(ctx, pause == 0 || first)
	if err != nil {
		err = fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	st.why.Store(&err)
	if err == nil {
		st.found.Store(true)
	} else if pause > 0 && endsPublish(err) && !errors.Is(err, ErrFull) && st.broker.says.due("stream "+st.config.Name) {
		st.broker.logger.Warn("natsbroker: stream cannot be used", "stream", st.config.Name, "err", err)
	}
	return err
}

func (st *stream) make(ctx context.Context, change bool) error {
	js := st.broker.js
	seen := st.newestSeen()
	made := false
	there, err := js.Stream(ctx, st.config.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		there, err = st.fit(jetstream.StreamConfig{}, func(want jetstream.StreamConfig) (jetstream.Stream, error) {
			st.markServer(&want)
			return js.CreateStream(ctx, want)
		})
		if err == nil {
			made = true
			st.broker.logger.Info("natsbroker: stream made", "stream", st.config.Name)
		} else if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			there, err = js.Stream(ctx, st.config.Name) // another node was faster
		}
	}
	if err != nil {
		return st.whyNotMade(ctx, err)
	}
	if err := st.checkOwner(there.CachedInfo().Config); err != nil {
		return err
	}
	info := there.CachedInfo()
	if err := deposed(info); err != nil {
		return err
	}
	if info, err = st.compare(ctx, info, seen, made); err != nil {
		return err
	}
	is := info.Config
	if change && !reflect.DeepEqual(is, st.wanted(is)) {
		there, err = st.fit(is, func(want jetstream.StreamConfig) (jetstream.Stream, error) {
			if reflect.DeepEqual(is, want) {
				return there, nil
			}
			return js.UpdateStream(ctx, want)
		})
		if err != nil {
			return st.whyNotMade(ctx, err)
		}
		info = there.CachedInfo()
		st.broker.logger.Info("natsbroker: stream changed", "stream", st.config.Name)
	}
	st.learn(info, seen.asked)
	return nil
}

// wanted returns the stream's configuration: is, with what StreamConfig and this
// package have a say in.
func (st *stream) wanted(is jetstream.StreamConfig) jetstream.StreamConfig {
	c, b := st.config, st.broker
	want := is
	want.Name = c.Name
	want.Metadata = marked(is.Metadata, b.opts.Prefix)
	want.Subjects = st.subjects
	want.Retention, want.Discard = jetstream.LimitsPolicy, jetstream.DiscardOld
	want.MaxMsgs = orUnbounded(c.MaxMsgs)
	want.MaxMsgsPerSubject = orUnbounded(c.MaxMsgsPerTopic)
	want.MaxBytes = orUnbounded(c.MaxBytes)
	if st == b.streams.fallback && b.server != nil {
		want.MaxBytes = min(want.MaxBytes, b.server.room(b.opts.StoreDir != "")/2)
	}
	if st.atMost > 0 {
		want.MaxBytes = min(want.MaxBytes, st.atMost)
	}
	want.MaxAge = c.MaxAge
	want.Duplicates = dedupe
	if c.MaxAge > 0 {
		want.Duplicates = min(dedupe, c.MaxAge) // NATS refuses a longer one
	}
	want.Storage = c.Storage
	if b.server != nil && b.opts.StoreDir == "" {
		want.Storage = jetstream.MemoryStorage
	}
	switch {
	case c.Replicas > 0:
		want.Replicas = c.Replicas
	case is.Replicas > 0: // as it was made
	case b.opts.Cluster != nil:
		want.Replicas = 3
	default:
		want.Replicas = 1
	}
	want.AllowDirect = true
	want.RePublish = &jetstream.RePublish{Source: st.subject(">"), Destination: b.deliverySubject(">")}
	return want
}

func orUnbounded(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// learn takes note of what the leader said.
func (st *stream) learn(info *jetstream.StreamInfo, asked time.Time) streamState {
	now := streamState{
		epoch: st.epochOf(info),
		first: info.State.FirstSeq,
		last:  info.State.LastSeq,
		asked: asked,
		clock: info.TimeStamp,
		heard: time.Now(),
	}
	if info.State.Msgs == 0 {
		now.first = now.last + 1
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if now.epoch != st.state.epoch {
		st.newest = 0
		st.proof = proof{ended: st.proof.ended, endedAt: st.proof.endedAt}
	}
	if now.asked.After(st.state.asked) {
		st.state = now
	}
	st.newest = max(st.newest, now.last)
	return now
}

// since returns a state of the stream that the leader gave after a moment.
func (st *stream) since(ctx context.Context, moment time.Time) (streamState, error) {
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
	if !known.asked.Before(moment) && !known.asked.IsZero() {
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
	return st.learn(info, seen.asked), nil
}

// doubt has the stream's state asked for before it is relied upon again.
func (st *stream) doubt() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.state.asked = time.Time{}
}

// saw takes note of a sequence, and returns the epoch that it is taken to be of. at is when
// it was stored; zero: unknown.
func (st *stream) saw(sequence uint64, at time.Time) (epoch string) {
	if n := st.end.Load(); n != nil {
		n.saw(sequence, at)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.newest = max(st.newest, sequence)
	st.proof.saw(sequence, at)
	return st.state.epoch
}

// seen is the greatest sequence that was seen in an epoch, at a time.
type seen struct {
	epoch    string
	sequence uint64
	asked    time.Time
}

func (st *stream) newestSeen() seen {
	st.mu.Lock()
	defer st.mu.Unlock()
	return seen{st.state.epoch, st.newest, time.Now()}
}

// gone reports whether an error may mean that the stream is not there.
func gone(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
}
