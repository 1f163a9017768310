package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// fullFor is how long Ready fails after a stream has refused a publication for lack of space, or
// because it is sealed.
// If Ready failed until the next publication is stored, a load balancer that sends no client to
// the node would keep the node out for ever.
const fullFor = 10 * time.Second

// fullness tells whether a stream refuses all publications, as a rule for lack of space.
type fullness struct {
	isSet atomic.Bool // cause is set

	mu        sync.Mutex // guards the fields below
	cause     error      // nil: the stream is not known to be full
	refusedAt time.Time  // when the last publication was refused
	isLogged  bool       // the log says that the stream is full
}

// current returns why the stream refuses publications; nil: it takes them, or has refused none
// for fullFor.
func (f *fullness) current() error {
	if !f.isSet.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.refusedAt) > fullFor {
		return nil
	}
	return f.cause
}

// refused notes that the stream had no space for a publication, or takes none at all.
func (st *stream) refused(err error) {
	b, f := st.broker, &st.fullness
	f.mu.Lock()
	f.cause, f.refusedAt = err, time.Now()
	f.isSet.Store(true)
	log := !f.isLogged && b.logLimit.due("full "+st.config.Name)
	f.isLogged = f.isLogged || log
	f.mu.Unlock()
	if log { // without the lock, because a slog.Handler may publish
		b.logger.Warn("natsbroker: publications are not stored", "stream", st.config.Name, "err", err)
	}
	if errors.Is(err, ErrFull) {
		b.mender.limitReached()
	}
}

// stored notes that the stream had space for a publication.
func (st *stream) stored() {
	f := &st.fullness
	if !f.isSet.Load() {
		return
	}
	f.mu.Lock()
	log := f.isLogged
	f.cause, f.isLogged = nil, false
	f.isSet.Store(false)
	f.mu.Unlock()
	if log {
		st.broker.logger.Info("natsbroker: publications are stored again", "stream", st.config.Name)
	}
}

// notStored returns the error for a publication that was refused, or that was in progress when
// the store broke. NATS has acknowledged everything that it stored before that, and stores
// nothing afterwards. But an earlier attempt without an answer may have been stored.
func (st *stream) notStored(why error, unanswered bool) error {
	if unanswered {
		return fmt.Errorf("natsbroker: stream %s: %w: an earlier attempt may have stored the publication: %v", st.config.Name, broker.ErrUnavailable, why)
	}
	return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, why)
}

// overhead is the most that NATS stores of a publication in addition to its data: the subject,
// headers and numbers.
const overhead = 256

// fits returns an error for data that is larger than the whole stream. NATS would acknowledge
// it and drop it at once. The size at NATS decides: the default stream may have been lowered,
// and another instance may have changed the stream. Before an error the leader is asked again.
func (st *stream) fits(ctx context.Context, data []byte) error {
	st.mu.Lock()
	state := st.state
	st.mu.Unlock()
	if !state.isOver(data) {
		return nil
	}
	state, err := st.stateSince(ctx, time.Now().Add(-stateAge))
	if err == nil && state.isOver(data) {
		err = fmt.Errorf("%w: it has %d bytes, and the MaxBytes of stream %s are %d", broker.ErrTooLarge, len(data), st.config.Name, state.maxBytes)
	}
	return err
}

func (s streamState) isOver(data []byte) bool {
	return s.maxBytes > 0 && int64(len(data))+overhead > s.maxBytes
}
