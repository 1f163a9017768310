package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live/broker"
)

// EnsureStream creates a stream, or changes the stream of that name to what c says. It is for
// streams that are not known yet when New is called. Call it before the topics of the stream
// have subscribers. The error wraps live.ErrUnavailable if JetStream cannot be reached or has
// no majority. It wraps ErrNotOurs if the stream of that name belongs to another program.
func (b *Broker) EnsureStream(ctx context.Context, c StreamConfig) error {
	if b.closed.Load() {
		return broker.ErrServerClosed
	}
	if err := c.check(); err != nil {
		return err
	}
	if c.Name == b.opts.Default.Name || c.Name == b.opts.DefaultKeyed.Name {
		return fmt.Errorf("natsbroker: %q is the name of a default stream", c.Name)
	}
	st := newStream(b, c)
	if err := st.ensure(ctx, 0); err != nil {
		return err
	}
	b.streams.set(st)
	b.hub.assignStreams(st)
	return nil
}

// startTimeout is how long New waits for a NATS elsewhere to tell who owns the streams. After
// that the question goes on in the background.
const startTimeout = time.Second

// ensureAtStart makes the streams of Options. A server that is alone makes them at once.
// Otherwise they are made in the background, but a NATS elsewhere that is connected is first
// asked who owns them.
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
	for _, st := range *b.streams.list.Load() {
		err := st.ensure(ctx, 0)
		switch {
		case err == nil:
		case errors.Is(err, ErrNotOurs), errors.Is(err, errOverlap):
			return err
		case alone && !errors.Is(err, errNoSpace): // with a full disk the stored publications can still be read
			return err
		default:
			b.tasks.Go(st.ensureInBackground) // ends when the stream exists, or with Close
		}
	}
	return nil
}

// ensureInBackground makes the streams while other nodes may have to come first.
func (b *Broker) ensureInBackground() {
	for _, st := range *b.streams.list.Load() {
		b.tasks.Go(st.ensureInBackground) // ends when the stream exists, or with Close
	}
}

// ensureInBackground makes the stream. It gives up when EnsureStream has replaced the stream,
// since it would undo what EnsureStream has changed.
func (st *stream) ensureInBackground() {
	warned := ""
	// A cluster without a leader does not answer at all, so the first attempts are short.
	for wait := 20 * time.Millisecond; st.broker.streams.has(st); wait = min(2*wait, 2*time.Second) {
		ctx, cancel := context.WithTimeout(st.broker.ctx, 200*time.Millisecond+2*wait)
		err := st.ensure(ctx, 0)
		cancel()
		if err == nil {
			return
		}
		// A cluster may need half a second to start. Only a longer wait is logged.
		if wait > 500*time.Millisecond && err.Error() != warned && st.broker.logLimit.due("stream "+st.config.Name) {
			warned = err.Error()
			st.broker.logger.Warn("natsbroker: stream cannot be made yet, trying again", "stream", st.config.Name, "err", err)
		}
		if !sleep(st.broker.ctx, wait) {
			return
		}
	}
}

// sleep waits, and reports whether it waited to the end: false if ctx ended first.
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

// remake makes a stream that is missing. It takes a second at most, since a cluster without a
// leader does not answer, and does so at most once a second. It does not change a stream that
// exists: another instance of the application may have changed it, with newer options.
func (st *stream) remake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return st.ensure(ctx, time.Second)
}

// ensure makes the stream, unless that was tried less than pause ago. With pause 0 it also
// changes the stream to what it should be. It does so too when the default stream is first
// needed.
func (st *stream) ensure(ctx context.Context, pause time.Duration) error {
	if err := st.broker.mender.refuses(); err != nil {
		// A server that restarts JetStream knows no stream yet. The stream would be made again
		// in the place of the stored one.
		return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, err)
	}
	if err := st.making.take(ctx); err != nil {
		return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	defer st.making.leave()
	if why := st.makeErr.Load(); pause > 0 && why != nil && time.Since(st.triedAt) < pause {
		return *why
	}
	st.triedAt = time.Now()
	first := st.broker.streams.fallbackOf(st) != nil && !st.found.Load()
	err := st.make(ctx, pause == 0 || first)
	if err != nil {
		err = fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	st.makeErr.Store(&err)
	if err == nil {
		st.found.Store(true)
	} else if pause > 0 && endsPublish(err) && !errors.Is(err, ErrFull) && st.broker.logLimit.due("stream "+st.config.Name) {
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
			there, err = js.Stream(ctx, st.config.Name) // another node has made it meanwhile
		}
	}
	if err != nil {
		return st.explainNotMade(ctx, err)
	}
	if err := st.checkOwner(there.CachedInfo().Config); err != nil {
		return err
	}
	info := there.CachedInfo()
	if err := deposed(info); err != nil {
		return err
	}
	if info, err = st.compare(ctx, info, &seen, made); err != nil {
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
			return st.explainNotMade(ctx, err)
		}
		info = there.CachedInfo()
		if n := st.noteFile.Load(); n != nil {
			n.counted(st.countOf(info)) // a lower bound has deleted messages
		}
		st.broker.logger.Info("natsbroker: stream changed", "stream", st.config.Name)
	}
	st.learn(info, seen.askedAt)
	return nil
}

// wanted returns the configuration that the stream should have. It starts from is, and sets
// what StreamConfig and this package decide.
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
	if b.streams.fallbackOf(st) != nil && b.server != nil {
		want.MaxBytes = min(want.MaxBytes, b.server.room(b.opts.StoreDir != "")/2)
	}
	if st.maxBytes > 0 {
		want.MaxBytes = min(want.MaxBytes, st.maxBytes)
	}
	want.MaxAge = c.MaxAge
	want.Duplicates = dedupe
	if c.MaxAge > 0 {
		want.Duplicates = min(dedupe, c.MaxAge) // NATS refuses a longer time
	}
	want.Storage = c.Storage
	if b.server != nil && b.opts.StoreDir == "" {
		want.Storage = jetstream.MemoryStorage
	}
	switch {
	case c.Replicas > 0:
		want.Replicas = c.Replicas
	case is.Replicas > 0: // the number with which it was made
	case b.opts.Cluster != nil:
		want.Replicas = 3
	default:
		want.Replicas = 1
	}
	want.AllowDirect = true
	want.RePublish = &jetstream.RePublish{Source: st.subject(">"), Destination: st.deliverySubject(">")}
	if c.Keyed {
		want.MaxMsgsPerSubject = 1
		want.Discard = jetstream.DiscardNew // no client would be told of a key that makes space for another
		want.AllowMsgTTL, want.AllowRollup, want.DenyPurge = true, true, false
		want.SubjectDeleteMarkerTTL = removalTTL
	}
	return want
}

func orUnbounded(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// leastDefault is the smallest size of the default stream. A smaller stream would keep next to
// nothing.
const leastDefault = 1 << 20

// fit makes or changes a stream. If NATS has too little storage for the default stream, fit
// halves its size until it fits, unless the application has set the size.
func (st *stream) fit(is jetstream.StreamConfig, do func(want jetstream.StreamConfig) (jetstream.Stream, error)) (jetstream.Stream, error) {
	f := st.broker.streams.fallbackOf(st)
	yields := f != nil && f.shrinks
	for {
		want := st.wanted(is)
		there, err := do(want)
		if !yields || err == nil || !errors.Is(explain(err), errTooLittleStorage) || want.MaxBytes/2 < leastDefault {
			return there, err
		}
		st.maxBytes = want.MaxBytes / 2
		if is.MaxBytes > st.maxBytes && is.MaxBytes < want.MaxBytes {
			st.maxBytes = is.MaxBytes // NATS has reserved this much already
		}
	}
}

// explainNotMade adds to an error of NATS what its text leaves out.
func (st *stream) explainNotMade(ctx context.Context, err error) error {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode == codeOverlap:
		for _, subject := range st.subjects {
			if name, failed := st.broker.js.StreamNameBySubject(ctx, subject); failed == nil && name != st.config.Name {
				return &explained{errOverlap, fmt.Sprintf("stream %s stores subjects that %s covers; give each topic one stream, and each application its own Prefix",
					name, subject), err}
			}
		}
	case errors.Is(err, nats.ErrNoResponders) && st.broker.server == nil:
		domain, nc := st.broker.opts.Domain, st.broker.nc
		if domain != "" {
			return fmt.Errorf("%w: check that Options.Domain %q is right and can be reached", err, domain)
		}
		if has, _ := nc.ConnectedServerJetStream(); !has && nc.ConnectedClusterName() == "" && !st.found.Load() {
			return &explained{errNoJetStream, adviceEnable, err}
		}
		return fmt.Errorf("%w: %s; a cluster may have no leader yet", err, adviceEnable)
	}
	return err
}
