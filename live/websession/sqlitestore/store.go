// Package sqlitestore keeps sessions of scs in an SQLite database. Its Store is a
// websession.Store, whose Update never brings a deleted session back.
//
// It works with any driver for database/sql and imports no driver. It is tested with
// modernc.org/sqlite, which is written in Go only:
//
//	import _ "modernc.org/sqlite"
//	db, err := sql.Open("sqlite", "file:app.db")
//
// With github.com/mattn/go-sqlite3, which needs cgo, write instead:
//
//	import _ "github.com/mattn/go-sqlite3"
//	db, err := sql.Open("sqlite3", "file:app.db")
//
// # What is set at the database
//
// New switches the file to write-ahead logging. In this mode, readers and a writer do not wait for
// each other. The file keeps the mode. New fails if the file cannot be written.
//
// A pool opens a connection when it likes, and a new connection has none of the settings that were
// made on the others. Therefore every write checks the busy timeout of its connection, and this
// package needs no settings in the DSN. A connection without a busy timeout gets one of five
// seconds and keeps it. A longer busy timeout is shortened to five seconds during the call. If
// SQLite still says that the database is locked, the call is tried again. After five seconds in all
// it fails with ErrBusy.
//
// The program's own queries are not tried again. For them, the DSN should give every connection a
// busy timeout: _pragma=busy_timeout(5000) for modernc.org/sqlite, _busy_timeout=5000 for
// go-sqlite3. Warnings tells you if it does not.
//
// # What a call waits for
//
// Every call ends after about 15 seconds, and a list of all sessions after a minute, even without a
// context. At most one call of a Store writes at the same time, and at most eight read. So hundreds
// of requests do not open hundreds of connections.
//
// A call waits four seconds for a connection of the pool, and then fails with ErrNoConnection.
// This happens if a handler holds the last connection when its response begins, since its session
// is saved at that moment. With db.SetMaxOpenConns(1), one open sql.Rows is enough. The remedy is
// to read the rows before the first byte of the response is written, or to allow more
// connections. An open transaction that has written blocks the call for any number of connections,
// because SQLite has one writer. The call then fails with ErrBusy.
//
// # What it refuses
//
// A database in memory needs a pool of one connection (db.SetMaxOpenConns(1)), since otherwise each
// connection has a database of its own. New returns an error if the pool may have more. It also
// returns an error if the file is read-only or its folder is missing. These errors say what to do,
// and so do later ones, for example when the disk is full. Do not use cache=shared in the DSN of a
// file: with it, a driver may wait without a bound.
//
// The program chooses how safe a write is in a power failure. With synchronous=FULL, the default of
// modernc.org/sqlite, a sign-out is on the disk when the call returns. With NORMAL, the default of
// go-sqlite3 with write-ahead logging, a sign-out is faster, but a power failure may undo the last
// ones.
package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

const (
	// cleanEvery is the time between two deletions of expired sessions. They only keep the file
	// small: an expired session is never found.
	cleanEvery = 5 * time.Minute

	// cleanBatch is how many sessions one statement deletes, so that other writers wait only about
	// a millisecond.
	cleanBatch = 500

	// cleanTimeout bounds a deletion of expired sessions. The next one deletes what is left.
	cleanTimeout = 30 * time.Second
)

// Store is an scs.CtxStore and a websession.Store. Make it with New. Its methods may be called from
// any goroutine. A Store has no permanent goroutine and need not be closed. It deletes expired
// sessions when a session is saved, at most once in five minutes.
type Store struct {
	db        *sql.DB
	writing   chan struct{} // a slot for each call that may write
	reading   chan struct{} // a slot for each call that may read
	cleaned   atomic.Int64  // when expired sessions were last deleted, on the clock of package clock
	noTimeout atomic.Bool   // the pool has given a write a connection without a busy timeout

	// Set by New, and then constant.
	inMemory bool   // the database is in the memory of the pool's only connection
	fileMode string // journal mode of the file; "" if there is no file
}

// New returns a store that keeps its sessions in the table sessions. It creates the table and its
// index if they are not there. It converts a table of scs's sqlite3store and the sessions in it.
// After that, a program with sqlite3store can no longer read the table.
//
// The error says what to do if the file cannot be opened or written, or if the database is in
// memory and the pool may have several connections. If another program has locked the file, New
// waits at most ten seconds.
func New(db *sql.DB) (*Store, error) {
	if db == nil {
		return nil, errors.New("sqlitestore: the database is nil")
	}
	s := &Store{db: db, writing: make(chan struct{}, 1), reading: make(chan struct{}, maxReaders)}
	s.cleaned.Store(clock.Now())
	if err := s.write(context.Background(), startLimit, s.prepare); err != nil {
		return nil, err
	}
	return s, nil
}

// Warnings tells an operator what to improve in the setup of the database and its pool, one
// sentence for each point. It returns nil if there is nothing to improve. websession.New logs the
// warnings.
func (s *Store) Warnings() []string {
	var warnings []string
	if s.noTimeout.Load() {
		warnings = append(warnings, "connections of the pool do not wait while the database is locked, so that the program's own "+
			"queries can fail with SQLITE_BUSY: add _pragma=busy_timeout(5000) to the DSN of modernc.org/sqlite, "+
			"or _busy_timeout=5000 to that of github.com/mattn/go-sqlite3")
	}
	if s.fileMode != "" && s.db.Stats().MaxOpenConnections == 1 {
		warnings = append(warnings, "the pool has one connection, so a session cannot be saved while a handler has rows "+
			"or a transaction open: close them before the response begins, or allow more connections with db.SetMaxOpenConns")
	}
	if s.fileMode != "" && s.fileMode != "wal" {
		warnings = append(warnings, "the file could not be switched to write-ahead logging, so readers and writers wait for "+
			"each other: keep it on a local disk, and set no other journal_mode in the DSN")
	}
	return warnings
}

// exec executes one statement that writes, and returns the number of rows that it has changed.
func (s *Store) exec(ctx context.Context, query string, args ...any) (rows int64, err error) {
	err = s.write(ctx, callLimit, func(ctx context.Context, conn *sql.Conn) error {
		result, err := conn.ExecContext(ctx, query, args...)
		if err == nil {
			rows, err = result.RowsAffected()
		}
		return err
	})
	return rows, err
}

// FindCtx implements scs.CtxStore.
func (s *Store) FindCtx(ctx context.Context, token string) (b []byte, found bool, err error) {
	b, _, _, found, err = s.FindVersion(ctx, token)
	return b, found, err
}

// FindVersion implements websession.Store.
func (s *Store) FindVersion(ctx context.Context, token string) (b []byte, version int64, expiry time.Time, found bool, err error) {
	var ms int64
	err = s.read(ctx, callLimit, func(ctx context.Context, conn *sql.Conn) error {
		err := conn.QueryRowContext(ctx, "SELECT data, version, expiry FROM sessions WHERE token = $1 AND expiry > $2",
			token, time.Now().UnixMilli()).Scan(&b, &version, &ms)
		found = err == nil
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil || !found {
		return nil, 0, time.Time{}, false, err
	}
	return b, version, time.UnixMilli(ms), true, nil
}

// CommitCtx implements scs.CtxStore. It writes the session even if the session was not there.
func (s *Store) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) error {
	_, err := s.exec(ctx, `INSERT INTO sessions (token, data, expiry, version) VALUES ($1, $2, $3, $4)
		ON CONFLICT (token) DO UPDATE SET data = excluded.data, expiry = excluded.expiry, version = version + 1`,
		token, b, milliseconds(expiry), time.Now().UnixMicro())
	s.cleanIfDue()
	return err
}

// Update implements websession.Store.
func (s *Store) Update(ctx context.Context, token string, version int64, b []byte, expiry time.Time) (ok bool, err error) {
	rows, err := s.exec(ctx, `UPDATE sessions SET data = $1, expiry = $2, version = version + 1
		WHERE token = $3 AND version = $4 AND expiry > $5`,
		b, milliseconds(expiry), token, version, time.Now().UnixMilli())
	return rows == 1, err
}

// DeleteCtx implements scs.CtxStore.
func (s *Store) DeleteCtx(ctx context.Context, token string) error {
	_, err := s.exec(ctx, "DELETE FROM sessions WHERE token = $1", token)
	return err
}

// Expiries implements websession.Store. Old versions of SQLite take at most 998 tokens in one call.
func (s *Store) Expiries(ctx context.Context, tokens []string) (map[string]time.Time, error) {
	expiries := make(map[string]time.Time, len(tokens))
	if len(tokens) == 0 {
		return expiries, nil
	}
	args := make([]any, 0, len(tokens)+1)
	args = append(args, time.Now().UnixMilli())
	for _, token := range tokens {
		args = append(args, token)
	}
	query := "SELECT token, expiry FROM sessions WHERE expiry > ? AND token IN (?" + strings.Repeat(",?", len(tokens)-1) + ")"
	err := s.rows(ctx, callLimit, query, args, func(rows *sql.Rows) error {
		var token string
		var ms int64
		err := rows.Scan(&token, &ms)
		expiries[token] = time.UnixMilli(ms)
		return err
	})
	return expiries, err
}

// AllCtx implements scs.IterableCtxStore.
func (s *Store) AllCtx(ctx context.Context) (map[string][]byte, error) {
	sessions := make(map[string][]byte)
	query := "SELECT token, data FROM sessions WHERE expiry > ?"
	err := s.rows(ctx, listLimit, query, []any{time.Now().UnixMilli()}, func(rows *sql.Rows) error {
		var token string
		var b []byte
		err := rows.Scan(&token, &b)
		sessions[token] = b
		return err
	})
	return sessions, err
}

// rows calls f for every row. It holds the connection until the last row, so f must not use the
// store.
func (s *Store) rows(ctx context.Context, l limit, query string, args []any, f func(*sql.Rows) error) error {
	return s.read(ctx, l, func(ctx context.Context, conn *sql.Conn) error {
		rows, err := conn.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := f(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// Find implements scs.Store.
func (s *Store) Find(token string) ([]byte, bool, error) {
	return s.FindCtx(context.Background(), token)
}

// Commit implements scs.Store.
func (s *Store) Commit(token string, b []byte, expiry time.Time) error {
	return s.CommitCtx(context.Background(), token, b, expiry)
}

// Delete implements scs.Store.
func (s *Store) Delete(token string) error { return s.DeleteCtx(context.Background(), token) }

// All implements scs.IterableStore.
func (s *Store) All() (map[string][]byte, error) { return s.AllCtx(context.Background()) }

// milliseconds returns a time as Unix time, rounded up: a session must not expire before its cookie.
func milliseconds(t time.Time) int64 {
	return t.Add(time.Millisecond - time.Nanosecond).UnixMilli()
}

// cleanIfDue deletes expired sessions in the background, at most once in cleanEvery.
func (s *Store) cleanIfDue() {
	now, last := clock.Now(), s.cleaned.Load()
	if now-last < int64(cleanEvery) || !s.cleaned.CompareAndSwap(last, now) {
		return
	}
	go func() { // ends after cleanTimeout
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		s.clean(ctx) // a lasting error also fails the next Commit, which returns it
	}()
}

func (s *Store) clean(ctx context.Context) error {
	for {
		rows, err := s.exec(ctx, `DELETE FROM sessions WHERE token IN
			(SELECT token FROM sessions WHERE expiry <= $1 LIMIT $2)`, time.Now().UnixMilli(), cleanBatch)
		if err != nil || rows < cleanBatch {
			return err
		}
	}
}
