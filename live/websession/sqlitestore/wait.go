package sqlitestore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// limit bounds a call.
type limit struct {
	total time.Duration // of the whole call, with its wait for earlier calls
	busy  time.Duration // of the time in which another connection keeps the database locked
}

// busyTimeout is how long a call waits for the write of another connection. It is far longer than
// a write takes, and no longer than a person waits for a page.
const busyTimeout = 5 * time.Second

var (
	// callLimit bounds a call for one session. Hundreds of simultaneous writes take seconds on a
	// slow disk, and all of them should succeed.
	callLimit = limit{15 * time.Second, busyTimeout}

	// listLimit bounds a list of all sessions. A thousand of them take 25 ms.
	listLimit = limit{time.Minute, busyTimeout}

	// startLimit bounds New. Its busy time is longer, since other programs may start at the same
	// time.
	startLimit = limit{15 * time.Second, 2 * busyTimeout}
)

const (
	// connTimeout bounds the wait for a connection of the pool. Without it, a handler that holds
	// the last connection and waits for its session would wait for ever. It is less than the five
	// seconds of a call on a socket, so that such a call fails with ErrNoConnection.
	connTimeout = 4 * time.Second

	// maxReaders bounds the simultaneous reads. Without it, an unbounded pool would open a
	// connection for each of hundreds of requests, and each costs three open files and a schema
	// to read.
	maxReaders = 8

	// minPause and maxPause bound the pause before the next attempt at a locked database. SQLite
	// itself waits for long locks. The other locks last milliseconds.
	minPause, maxPause = 2 * time.Millisecond, 50 * time.Millisecond

	// restoreTimeout bounds restoreOrClose, which runs after the time of its call may be over.
	restoreTimeout = time.Second
)

// work uses a connection. If the database is locked, it is called again from its beginning.
type work func(ctx context.Context, conn *sql.Conn) error

// read calls f, which reads. A reader hardly ever finds the database locked, so the retries are
// enough and the connection's busy timeout is not checked.
func (s *Store) read(ctx context.Context, l limit, f work) error {
	return s.call(ctx, s.reading, l, f)
}

// write calls f, which writes. Only one call of a Store writes at a time, so that writers take
// their turns. SQLite itself would let all of them sleep and retry.
func (s *Store) write(ctx context.Context, l limit, f work) error {
	return s.call(ctx, s.writing, l, func(ctx context.Context, conn *sql.Conn) error {
		restore, err := s.makeWait(ctx, conn)
		if err != nil {
			return err
		}
		defer restore()
		return f(ctx, conn)
	})
}

// call waits for a slot and calls f with a connection. It takes the slot before the connection, so
// that calls that wait for each other leave the connections to the application.
func (s *Store) call(ctx context.Context, slots chan struct{}, l limit, f work) error {
	ctx, cancel := context.WithTimeout(ctx, l.total)
	defer cancel()
	began := time.Now()
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return s.waitError(ctx.Err(), time.Since(began))
	}
	return withAdvice(s.retryWhileLocked(ctx, l.busy, f))
}

// waitError returns the error of a call that got no slot. It says why the calls before it took so
// long.
func (s *Store) waitError(err error, waited time.Duration) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if pool := s.db.Stats(); pool.MaxOpenConnections > 0 && pool.InUse >= pool.MaxOpenConnections {
		return s.connectionError(err, waited)
	}
	return fmt.Errorf("sqlitestore: earlier calls did not finish within %v: "+
		"the disk is too slow, or another connection keeps the database locked: %w", waited.Round(time.Millisecond), err)
}

// retryWhileLocked calls f again and again while the database is locked, for at most busy. SQLite's
// own busy timeout is not enough: it does not cover a change of the journal mode, a shared cache,
// or the time in which a driver opens a connection.
func (s *Store) retryWhileLocked(ctx context.Context, busy time.Duration, f work) error {
	giveUp := time.Now().Add(busy)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := s.attempt(ctx, f)
		if !isBusy(err) || !time.Now().Before(giveUp) {
			return err
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, ctx.Err())
		}
	}
}

// attempt calls f once, with a connection of the pool.
func (s *Store) attempt(ctx context.Context, f work) error {
	conn, err := s.conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // back to the pool
	if s.inMemory {
		// A driver may close a connection if the context ends during a statement. All sessions
		// would be lost with this connection. It is the only one, so nothing can lock the
		// database and no statement waits.
		ctx = context.WithoutCancel(ctx)
	}
	return f(ctx, conn)
}

// conn takes a connection from the pool.
func (s *Store) conn(ctx context.Context) (*sql.Conn, error) {
	waiting, cancel := context.WithTimeout(ctx, connTimeout)
	defer cancel()
	began := time.Now()
	conn, err := s.db.Conn(waiting)
	if err == nil || !errors.Is(err, context.DeadlineExceeded) {
		return conn, err
	}
	return nil, s.connectionError(err, time.Since(began))
}

// connectionError returns the error of a call that got no connection.
func (s *Store) connectionError(err error, waited time.Duration) error {
	waited = waited.Round(time.Millisecond)
	pool := s.db.Stats()
	if pool.MaxOpenConnections == 0 {
		return fmt.Errorf("opening a connection took more than %v: %w", waited, err)
	}
	return fmt.Errorf("%w (waited %v; %d of %d are in use): %w", ErrNoConnection, waited, pool.InUse, pool.MaxOpenConnections, err)
}

// makeWait makes a connection wait while another one writes. A pool opens connections when it
// likes, so every write checks its own connection. A busy timeout up to busyTimeout stays as it
// is. A connection without one gets busyTimeout and keeps it, which harms nobody. A longer one is
// set to busyTimeout, and restore sets it back.
func (s *Store) makeWait(ctx context.Context, conn *sql.Conn) (restore func(), err error) {
	var before int64 // milliseconds
	if err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&before); err != nil {
		return nil, err
	}
	if before == 0 {
		s.noTimeout.Store(true)
	}
	if before > 0 && before <= busyTimeout.Milliseconds() {
		return func() {}, nil
	}
	if err := setBusyTimeout(ctx, conn, busyTimeout.Milliseconds()); err != nil {
		return nil, err
	}
	if before == 0 {
		return func() {}, nil
	}
	return func() {
		restoreOrClose(ctx, conn, func(ctx context.Context) error { return setBusyTimeout(ctx, conn, before) })
	}, nil
}

func setBusyTimeout(ctx context.Context, conn *sql.Conn, milliseconds int64) error {
	_, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", milliseconds))
	return err
}

// restoreOrClose calls f, which must succeed before the pool gets a connection back. It does so even
// if ctx has ended. If f fails, the connection is closed.
func restoreOrClose(ctx context.Context, conn *sql.Conn, f func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTimeout)
	defer cancel()
	if f(ctx) != nil {
		conn.Raw(func(any) error { return driver.ErrBadConn })
	}
}
