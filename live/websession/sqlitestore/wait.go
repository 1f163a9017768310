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
	total time.Duration // with the wait for the calls before it
	busy  time.Duration // the part of it in which another connection has the database locked
}

// busyTimeout is how long another's write is waited for: far longer than a write takes, and
// no longer than a person waits for a page.
const busyTimeout = 5 * time.Second

var (
	// callLimit is of one session. Hundreds of writes that come at once take seconds on a
	// slow disk, and all of them are to succeed.
	callLimit = limit{15 * time.Second, busyTimeout}

	// listLimit is of a list of sessions: 25 ms for a thousand of them.
	listLimit = limit{time.Minute, busyTimeout}

	// startLimit is of New: other programs may be starting too.
	startLimit = limit{15 * time.Second, 2 * busyTimeout}
)

const (
	// connTimeout is how long a connection of the pool is waited for. A handler that holds
	// the last one while it waits for its session would wait for ever. It is less than the
	// five seconds of a call on a socket, whose error is then this one.
	connTimeout = 4 * time.Second

	// maxReaders is how many sessions are read at once. Without it a pool without a bound would
	// open a connection for each of hundreds of requests: three files and a schema to read.
	maxReaders = 8

	// minPause and maxPause are between two attempts at a database that is locked. SQLite waits
	// by itself where that takes long; the other cases are over in milliseconds.
	minPause, maxPause = 2 * time.Millisecond, 50 * time.Millisecond

	// tidyTimeout bounds what must be done to a connection although its call is over.
	tidyTimeout = time.Second
)

// work is done with a connection. It is done again from its beginning if the database was locked.
type work func(ctx context.Context, conn *sql.Conn) error

// read does work that reads. A reader hardly ever finds the database locked, so that trying
// again is enough.
func (s *Store) read(ctx context.Context, l limit, f work) error {
	return s.call(ctx, s.reading, l, f)
}

// write does work that writes. One call of a Store writes at a time: they come in order then,
// where SQLite lets all of them sleep and try.
func (s *Store) write(ctx context.Context, l limit, f work) error {
	return s.call(ctx, s.writing, l, func(ctx context.Context, conn *sql.Conn) error {
		restore, err := s.patient(ctx, conn)
		if err != nil {
			return err
		}
		defer restore()
		return f(ctx, conn)
	})
}

// call waits for a place and does the work. The place comes before the connection: calls that
// wait for each other leave the pool to the application.
func (s *Store) call(ctx context.Context, places chan struct{}, l limit, f work) error {
	ctx, cancel := context.WithTimeout(ctx, l.total)
	defer cancel()
	began := time.Now()
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	case <-ctx.Done():
		return s.noPlace(ctx.Err(), time.Since(began))
	}
	return explained(s.untilFree(ctx, l.busy, f))
}

// noPlace says why the calls before this one took so long.
func (s *Store) noPlace(err error, waited time.Duration) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if pool := s.db.Stats(); pool.MaxOpenConnections > 0 && pool.InUse >= pool.MaxOpenConnections {
		return s.noConnection(err, waited)
	}
	return fmt.Errorf("sqlitestore: the calls before this one were not done in %v: "+
		"the disk is too slow, or another connection keeps the database locked: %w", waited.Round(time.Millisecond), err)
}

// untilFree does the work, again and again while the database is locked. SQLite's own busy
// timeout is not enough: it does not hold for a change of the journal's mode, for a shared
// cache, or while a driver opens a connection.
func (s *Store) untilFree(ctx context.Context, patience time.Duration, f work) error {
	giveUp := time.Now().Add(patience)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := s.once(ctx, f)
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

// once does the work with a connection of its own.
func (s *Store) once(ctx context.Context, f work) error {
	conn, err := s.conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // back to the pool
	if s.fragile {
		// A driver may close a connection whose context ended during a statement, and all
		// sessions would be gone with this one. Nobody else is there who could lock it.
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
	return nil, s.noConnection(err, time.Since(began))
}

func (s *Store) noConnection(err error, waited time.Duration) error {
	waited = waited.Round(time.Millisecond)
	pool := s.db.Stats()
	if pool.MaxOpenConnections == 0 {
		return fmt.Errorf("opening a connection took more than %v: %w", waited, err)
	}
	return fmt.Errorf("%w (waited %v; %d of %d are in use): %w", ErrNoConnection, waited, pool.InUse, pool.MaxOpenConnections, err)
}

// patient has a connection wait while another one writes. A pool opens connections when it
// likes, so every write sees to the one that it got. A connection that waits by itself is left as
// it is, and one that does not is so from now on: that harms nobody. One that waits
// longer than a call may is set back by restore.
func (s *Store) patient(ctx context.Context, conn *sql.Conn) (restore func(), err error) {
	var was int64 // milliseconds
	if err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&was); err != nil {
		return nil, err
	}
	if was == 0 {
		s.impatient.Store(true)
	}
	if was > 0 && was <= busyTimeout.Milliseconds() {
		return func() {}, nil
	}
	if err := setBusyTimeout(ctx, conn, busyTimeout.Milliseconds()); err != nil {
		return nil, err
	}
	if was == 0 {
		return func() {}, nil
	}
	return func() {
		tidy(ctx, conn, func(ctx context.Context) error { return setBusyTimeout(ctx, conn, was) })
	}, nil
}

func setBusyTimeout(ctx context.Context, conn *sql.Conn, milliseconds int64) error {
	_, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", milliseconds))
	return err
}

// tidy does what must be done before the pool gets a connection back, although ctx may have
// ended. A connection at which it fails is closed.
func tidy(ctx context.Context, conn *sql.Conn, f func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	if f(ctx) != nil {
		conn.Raw(func(any) error { return driver.ErrBadConn })
	}
}
