package natsbroker

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live"
)

// fullFor is how long Ready says no after a stream has refused a publication for want of
// space. If it said so until one is stored, a load balancer that sends nobody to
// a node that is not ready would keep it so for ever.
const fullFor = 10 * time.Second

// fullness is whether a stream refuses publications for want of space.
type fullness struct {
	isSet atomic.Bool // why is set

	mu        sync.Mutex // guards what follows
	cause     error      // nil: the stream is not full, as far as is known
	refusedAt time.Time  // when a publication was refused last
	isLogged  bool       // it was logged that the stream is full
}

// current returns why the stream refuses publications; nil: it does not, or has not been
// asked for a while.
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

// refused takes note that the stream had no space for a publication.
func (st *stream) refused(err error) {
	b, f := st.broker, &st.fullness
	f.mu.Lock()
	f.cause, f.refusedAt = err, time.Now()
	f.isSet.Store(true)
	if !f.isLogged && b.logLimit.due("full "+st.config.Name) {
		f.isLogged = true
		b.logger.Warn("natsbroker: publications are not stored", "stream", st.config.Name, "err", err)
	}
	f.mu.Unlock()
	b.mender.limitReached()
}

// stored takes note that the stream had space for a publication.
func (st *stream) stored() {
	f := &st.fullness
	if !f.isSet.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cause = nil
	f.isSet.Store(false)
	if f.isLogged {
		f.isLogged = false
		st.broker.logger.Info("natsbroker: publications are stored again", "stream", st.config.Name)
	}
}

// notStored returns the error of a publication that NATS had no space for, or that was under way
// when the store broke: NATS has acknowledged what it stored before that, and stores nothing
// after it. If an earlier attempt had no answer it may have been stored all the same.
func (st *stream) notStored(why error, unanswered bool) error {
	if unanswered {
		return fmt.Errorf("natsbroker: stream %s: %w: an earlier attempt may have stored the publication: %v", st.config.Name, live.ErrUnavailable, why)
	}
	return fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, why)
}

// overhead is what NATS stores of a publication besides its data: the subject, headers and
// numbers, or a little more.
const overhead = 256

// fits returns an error for data that the stream could not keep even alone: NATS would
// acknowledge it and drop it at once.
func (st *stream) fits(data []byte) error {
	if most := st.config.MaxBytes; most > 0 && int64(len(data))+overhead > most {
		return fmt.Errorf("%w: it has %d bytes, and the MaxBytes of stream %s are %d", live.ErrTooLarge, len(data), st.config.Name, most)
	}
	return nil
}
