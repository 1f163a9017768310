package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
)

// EnsureStream creates a stream, or changes the one of that name to what c says. It
// is for streams that Options.Streams cannot name yet, and is called before the
// topics that it covers have subscribers. The error wraps live.ErrUnavailable if
// JetStream cannot be reached or has no majority, and ErrNotOurs if a stream of that name
// is somebody else's.
func (b *Broker) EnsureStream(ctx context.Context, c StreamConfig) error {
	if b.closed.Load() {
		return live.ErrServerClosed
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
	for _, st := range *b.streams.list.Load() {
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
	for _, st := range *b.streams.list.Load() {
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
		if wait > 500*time.Millisecond && err.Error() != warned && st.broker.logLimit.due("stream "+st.config.Name) {
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
	if why := st.makeErr.Load(); pause > 0 && why != nil && time.Since(st.triedAt) < pause {
		return *why
	}
	st.triedAt = time.Now()
	first := st == st.broker.streams.fallback && !st.found.Load()
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
			there, err = js.Stream(ctx, st.config.Name) // another node was faster
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
			return st.explainNotMade(ctx, err)
		}
		info = there.CachedInfo()
		st.broker.logger.Info("natsbroker: stream changed", "stream", st.config.Name)
	}
	st.learn(info, seen.askedAt)
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
	if st.maxBytes > 0 {
		want.MaxBytes = min(want.MaxBytes, st.maxBytes)
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

// leastDefault is how far the default stream is made smaller to fit into NATS. With less
// than that it would keep next to nothing.
const leastDefault = 1 << 20

// fit makes or changes a stream. The default one is made smaller until NATS has that
// much, unless the application has said how large it is to be.
func (st *stream) fit(is jetstream.StreamConfig, do func(want jetstream.StreamConfig) (jetstream.Stream, error)) (jetstream.Stream, error) {
	yields := st == st.broker.streams.fallback && st.broker.opts.shrinkDefault
	for {
		want := st.wanted(is)
		there, err := do(want)
		if !yields || err == nil || !errors.Is(explain(err), errNotThatMuch) || want.MaxBytes/2 < leastDefault {
			return there, err
		}
		st.maxBytes = want.MaxBytes / 2
		if is.MaxBytes > st.maxBytes && is.MaxBytes < want.MaxBytes {
			st.maxBytes = is.MaxBytes // which NATS has already
		}
	}
}

// explainNotMade adds to an error of NATS what it leaves out.
func (st *stream) explainNotMade(ctx context.Context, err error) error {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode == codeOverlap:
		for _, subject := range st.subjects {
			if name, failed := st.broker.js.StreamNameBySubject(ctx, subject); failed == nil && name != st.config.Name {
				return &explained{errOverlap, fmt.Sprintf("stream %s takes in what %s covers; give each topic one stream, and each application a Prefix of its own",
					name, subject), err}
			}
		}
	case errors.Is(err, nats.ErrNoResponders) && st.broker.server == nil:
		domain, nc := st.broker.opts.Domain, st.broker.nc
		if domain != "" {
			return fmt.Errorf("%w: see that Options.Domain %q is right and that there is a way to it", err, domain)
		}
		if has, _ := nc.ConnectedServerJetStream(); !has && nc.ConnectedClusterName() == "" && !st.found.Load() {
			return &explained{errNoJetStream, adviceEnable, err}
		}
		return fmt.Errorf("%w: %s; a cluster may have no leader yet", err, adviceEnable)
	}
	return err
}
