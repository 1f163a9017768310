package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// After one write has failed, a NATS server never writes to that stream again, and does not
// answer its publications. A node of a cluster then stops JetStream. Both last until the server
// restarts. The mender of an embedded server notices this and refuses publications. When the
// disk takes data again, it replaces the server by a new one on the same store. The broker
// reconnects within some tenths of a second, with its subscriptions, and topics are compared
// with their streams.

const (
	// answersWithin is how long publications in progress still wait after a write has failed.
	// Within this time NATS has acknowledged all that it stored before.
	answersWithin = 250 * time.Millisecond

	// mendFirst and mendLast are how long the mender waits before it tries the disk: the first
	// time, and at most. mendFirst is longer than answersWithin.
	mendFirst = 500 * time.Millisecond
	mendLast  = 5 * time.Second

	// mendedFor is how long a store must have worked before the mender starts again with
	// mendFirst. A disk with little more space than probeBytes breaks the store again at once.
	mendedFor = time.Minute

	// probeBytes is how much the disk must take before the server restarts. With less space it
	// would soon be full again.
	probeBytes = 1 << 20

	// leadersWithin is how long publications in a cluster wait for another node when this node
	// has no JetStream. It is the time in which the others elect another leader.
	leadersWithin = 10 * time.Second

	// limitEvery is how often the limit of all streams is compared with the space on the disk,
	// while the limit is reached.
	limitEvery = 2 * time.Second
)

var errMended = errors.New("natsbroker: the embedded server was restarted")

// mender watches the store of an embedded server. nil: there is no store on a disk. Its
// goroutine runs from Start to Close.
type mender struct {
	broker *Broker
	server *embedded
	alone  bool // the server is in no cluster, so no other node can answer for its streams

	broken   atomic.Pointer[explained] // why nothing is stored; nil: the store works
	brokenAt atomic.Int64              // when broken was set, on the clock of package clock; 0: never
	window   atomic.Pointer[window]

	wait     time.Duration // the next wait before the disk is tried; used by watch only
	mendedAt time.Time     // when the store was last mended; used by watch only

	limitedAt atomic.Int64 // when the limit of all streams was last reached, on the clock of package clock; 0: not lately
}

// window is a period in which publications are taken. Its context ends soon after the store has
// broken.
type window struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// newMender returns the mender of a broker; nil: its streams are elsewhere or in memory.
func newMender(b *Broker) *mender {
	if b.server == nil || !b.opts.storesOnDisk() {
		return nil
	}
	m := &mender{broker: b, server: b.server, alone: b.opts.Cluster == nil}
	m.openWindow()
	os.Remove(m.probeFile()) // a process that was killed may have left it
	return m
}

func (m *mender) openWindow() {
	ctx, cancel := context.WithCancel(m.broker.ctx)
	m.window.Store(&window{ctx, cancel})
}

// context returns the context for publications to streams. It ends with Close. If only this
// server can answer, it also ends soon after the store has broken.
func (m *mender) context(b *Broker) context.Context {
	if m == nil || !m.alone {
		return b.ctx
	}
	return m.window.Load().ctx
}

// refuses returns why NATS cannot store publications or answer for streams; nil: NATS may be
// asked.
func (m *mender) refuses() error {
	if m == nil || !m.alone {
		return nil
	}
	return m.current()
}

// deserted returns why nothing can be stored when no node of a cluster has answered; nil:
// another node may still answer.
func (m *mender) deserted() error {
	if m == nil || clock.Now()-m.brokenAt.Load() < int64(leadersWithin) {
		return nil
	}
	return m.current()
}

// current returns why this node stores nothing; nil: it does.
func (m *mender) current() error {
	if m == nil {
		return nil
	}
	if why := m.broken.Load(); why != nil {
		return why
	}
	return nil
}

// checkStore makes the mender look at the store, because NATS does not answer.
func (m *mender) checkStore() {
	if m != nil {
		m.server.poke()
	}
}

// limitReached makes the mender look at the limit of all streams.
func (m *mender) limitReached() {
	if m != nil && m.limitedAt.Swap(clock.Now()) == 0 {
		m.server.poke()
	}
}

func (m *mender) watch() {
	for {
		select {
		case <-m.broker.ctx.Done():
			return
		case <-m.server.trouble:
		case <-m.whileLimited():
		}
		if why := m.look(); why != nil {
			m.mend(why)
		} else if m.limitedAt.Load() != 0 {
			m.raiseLimit()
		}
	}
}

// look returns why the store cannot be written to; nil: it can. The reason becomes visible a
// moment after NATS has logged the problem, so look tries three times.
func (m *mender) look() error {
	for _, wait := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond} {
		if !sleep(m.broker.ctx, wait) {
			return nil
		}
		if why := m.server.writeError(); why != nil {
			return why
		}
	}
	return nil
}

// mend refuses publications until JetStream takes them again.
func (m *mender) mend(why error) {
	m.stopPublications(explainBroken(why))
	if time.Since(m.mendedAt) > mendedFor {
		m.wait = mendFirst
	}
	told := false
	for ; ; m.wait = min(2*m.wait, mendLast) {
		if !told && m.broker.logLimit.due("broken") {
			told = true
			m.broker.logger.Warn("natsbroker: streams cannot be written to", "store", m.server.store.dir, "err", m.broken.Load())
		}
		if !sleep(m.broker.ctx, m.wait) {
			return
		}
		err := m.probe()
		if err == nil {
			err = m.restart()
		}
		if err == nil {
			break
		}
		m.broken.Store(explainBroken(err))
	}
	took := time.Duration(clock.Now() - m.brokenAt.Load())
	m.wait, m.mendedAt = min(2*m.wait, mendLast), time.Now()
	m.resumePublications()
	if told {
		m.broker.logger.Info("natsbroker: streams are written to again", "store", m.server.store.dir, "after", took.Round(time.Millisecond))
	}
}

// restart replaces the server. It waits until the broker is connected to the new server, and until
// watchConnection has handled that. The client of NATS may notice the end of the old server only after
// the new one runs, and watchConnection may notice it later still. If restart had returned by then, the
// end of the old server would be logged as a loss of the connection.
func (m *mender) restart() error {
	if err := m.server.restart(m.broker.ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(m.broker.ctx, readyTimeout)
	defer cancel()
	for !m.broker.isWatched(m.server.running().ID()) {
		if !sleep(ctx, 5*time.Millisecond) {
			return errors.New("the broker is not connected again")
		}
	}
	return m.server.writeError()
}

// stopPublications refuses publications from now on. Those in progress may still be answered.
func (m *mender) stopPublications(why *explained) {
	m.brokenAt.Store(clock.Now())
	m.broken.Store(why)
	time.AfterFunc(answersWithin, m.window.Load().cancel)
}

// resumePublications takes publications again, and makes the live server compare topics with
// their streams.
func (m *mender) resumePublications() {
	m.openWindow()
	m.broken.Store(nil)
	m.broker.streams.lookAgain(m.broker.ctx)
	m.broker.lost("", errMended)
}

// unlessRestarting returns level, or slog.LevelDebug while the embedded server restarts and
// such messages are normal.
func (b *Broker) unlessRestarting(level slog.Level) slog.Level {
	if b.mender.current() != nil {
		return slog.LevelDebug
	}
	return level
}

func explainBroken(why error) *explained {
	if isNoSpace(why) {
		return &explained{errNoSpace, "free space on the disk of StoreDir, or keep less with MaxBytes and MaxAge; then it goes on by itself", why}
	}
	return &explained{broker.ErrUnavailable, "StoreDir cannot be written to; when it can, it goes on by itself", why}
}

func (m *mender) probeFile() string { return filepath.Join(m.server.store.dir, "probe") }

// probe writes probeBytes to the disk, and returns the error.
func (m *mender) probe() error {
	f, err := os.OpenFile(m.probeFile(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, probeBytes))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(m.probeFile()))
}

// whileLimited returns a channel that fires after limitEvery while the limit of all streams is
// reached; nil: it is not reached.
func (m *mender) whileLimited() <-chan time.Time {
	last := m.limitedAt.Load()
	if last == 0 {
		return nil
	}
	if clock.Now()-last > int64(fullFor) {
		m.limitedAt.CompareAndSwap(last, 0)
		return nil
	}
	return time.After(limitEvery)
}

// raiseLimit restarts the server if that gives it a higher limit. NATS sets the limit when it
// starts, to three quarters of the free space and of what the streams have. So a process that
// starts with a full disk has a limit below what its streams have. Without streams the limit is
// then 0.
func (m *mender) raiseLimit() {
	limit, used, running := m.server.storage()
	free, ok := freeBytes(m.server.store.dir)
	if !ok || !running {
		return
	}
	later := free/4*3 + used/4*3
	if later < limit+limit/20 || later < used+probeBytes || used < limit-limit/20 {
		return // the limit of memory may be reached instead
	}
	if m.probe() != nil {
		return
	}
	m.limitedAt.Store(0)
	m.stopPublications(&explained{ErrFull, "the limit of all streams is being raised", fmt.Errorf("it was %d bytes", limit)})
	if !sleep(m.broker.ctx, mendFirst) {
		return
	}
	if err := m.restart(); err != nil {
		m.mend(err)
		return
	}
	m.resumePublications()
	m.broker.logger.Info("natsbroker: the disk has space again, so the limit of all streams is raised", "before", limit, "now", later)
}

// writeError returns why the server cannot write to its streams; nil: it can.
func (e *embedded) writeError() error {
	srv := e.running()
	if !srv.JetStreamEnabled() {
		return errors.New("NATS has stopped JetStream")
	}
	if failed := e.writeFailure.Load(); failed != nil { // in a cluster, Healthz reports nothing of a stream with one replica
		return errors.New(*failed)
	}
	const mark = "write error: "
	for _, problem := range srv.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if _, why, ok := strings.Cut(problem.Error, mark); ok {
			return errors.New(why)
		}
	}
	return nil
}

// stopsWithin is how long the server may take to stop JetStream, which it does in the
// background.
const stopsWithin = 10 * time.Second

// restart replaces the server by another server on the same store. It would suffice to restart
// JetStream, as NATS does when it reloads its configuration, and the connections would stay.
// But nats-server 2.15.2 then answers every request to JetStream once more for each restart,
// and has a data race with the requests that come meanwhile.
func (e *embedded) restart(ctx context.Context) error {
	e.restarting.Store(true)
	defer e.restarting.Store(false)
	srv := e.running()
	stopping, cancel := context.WithTimeout(ctx, stopsWithin)
	defer cancel()
	for !srv.JetStreamEnabled() && srv.JetStreamConfig() != nil && sleep(stopping, 10*time.Millisecond) {
	}
	srv.Shutdown()
	srv.WaitForShutdown()
	if err := ctx.Err(); err != nil {
		return err
	}
	e.writeFailure.Store(nil)
	return e.launch()
}

// storage returns how many bytes all streams on the disk may have together, and how many they
// have. ok is false if JetStream does not run.
func (e *embedded) storage() (limit, used int64, ok bool) {
	srv := e.running()
	c := srv.JetStreamConfig()
	info, err := srv.Jsz(nil)
	if c == nil || err != nil {
		return 0, 0, false
	}
	return c.MaxStore, int64(info.Store), true
}
