// Package sqlitestore keeps sessions of scs in an SQLite database. It is a
// websession.Store: what compares before it writes never brings a deleted session back.
//
// It works with any driver for database/sql and imports none. Tested is it with
// modernc.org/sqlite, which is Go alone:
//
//	import _ "modernc.org/sqlite"
//	db, err := sql.Open("sqlite", "file:app.db")
//
// With github.com/mattn/go-sqlite3, which needs cgo, it is
//
//	import _ "github.com/mattn/go-sqlite3"
//	db, err := sql.Open("sqlite3", "file:app.db")
//
// # What is set at the database
//
// New switches the file to write-ahead logging, in which readers and a writer do not wait for
// each other, and which the file remembers. It fails if the file cannot be written.
//
// A pool opens connections when it likes, and a new one has none of the settings of the
// others. So nothing needs to stand in the DSN for this package: every write looks at the busy timeout of
// its connection. A connection that would not wait at all waits five seconds from then on. One that
// would wait longer than that does so again after the call. If SQLite still says that the
// database is locked, the call is tried again, for five seconds in all, and then fails with ErrBusy.
//
// The program's own queries are not tried again. For them the DSN should tell every connection to wait,
// with _pragma=busy_timeout(5000) for modernc.org/sqlite and _busy_timeout=5000 for
// go-sqlite3. Warnings tells if it does not.
//
// # What a call waits for
//
// Every call ends, also without a context: after some 15 seconds, and after a minute for
// a list of all sessions. One call of a Store writes at a time, and eight read, so that hundreds of
// requests do not open hundreds of connections.
//
// A call waits four seconds for a connection of the pool, and then fails with ErrNoConnection.
// This happens where a handler keeps the last connection while its response begins, which is
// when its session is saved. With db.SetMaxOpenConns(1), one open sql.Rows is enough. The
// remedy is to read the rows before the first byte of the response is written, or to allow more
// connections. A transaction that has written has the same effect whatever the number of
// connections: SQLite has one writer. The call then fails with ErrBusy.
//
// # What it refuses
//
// A database in memory must have a single connection (db.SetMaxOpenConns(1)), as each has one of
// its own otherwise; New returns an error. So it does for a file that is read-only, or whose folder is
// not there. Errors say what to do, at New and later, as when the disk is full. A file with
// cache=shared in its DSN is not for this package: there a driver may wait without a bound.
//
// How sure a write is in a power failure is for the program to choose. With synchronous=FULL,
// modernc's default, a sign-out is on the disk when it returns. With NORMAL, mattn's in this
// mode of logging, it is faster, and the last sign-outs may be undone.
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
	// cleanEvery is how often expired sessions are deleted. They are not found any more
	// before that; this is for the size of the file alone.
	cleanEvery = 5 * time.Minute

	// cleanBatch is how many are deleted at once, so that others wait a millisecond or so.
	cleanBatch = 500

	// cleanTimeout bounds a cleaning: what is left is for the next.
	cleanTimeout = 30 * time.Second
)

// Store is an scs.CtxStore and a websession.Store. It is made with New; its methods may be
// called from any goroutine. It has no goroutine and need not be closed: expired sessions are
// deleted now and then, after one was saved.
type Store struct {
	db        *sql.DB
	writing   chan struct{} // a place for each call that may write
	reading   chan struct{} // a place for each call that may read
	cleaned   atomic.Int64  // when it was last cleaned, on the clock of package clock
	impatient atomic.Bool   // a connection of the pool came that does not wait for a lock

	// What follows is as New found it.
	fragile  bool // the sessions are in the memory of one connection
	fileMode string
}

// New returns a store that keeps its sessions in the table sessions. It creates the table
// and its index if they are not there. A table of scs's sqlite3store is converted, with
// the sessions that are in it; a program that uses that cannot read it afterwards.
//
// The error says what to do if the file cannot be opened or written, or if the
// database is in memory and the pool may have several connections. A file that another program has
// locked is waited for, ten seconds at most.
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

// Warnings returns what could be set up better at the database and its pool, a sentence each,
// for an operator; nil if nothing could. websession.New logs them.
func (s *Store) Warnings() []string {
	var warnings []string
	if s.impatient.Load() {
		warnings = append(warnings, "connections of the pool do not wait while the database is locked, so that the program's own "+
			"queries can fail with SQLITE_BUSY: add _pragma=busy_timeout(5000) to the DSN of modernc.org/sqlite, "+
			"or _busy_timeout=5000 to that of github.com/mattn/go-sqlite3")
	}
	if s.fileMode != "" && s.db.Stats().MaxOpenConnections == 1 {
		warnings = append(warnings, "the pool has one connection, so that a session cannot be saved while a handler has rows "+
			"or a transaction open: close them before the response begins, or allow more connections with db.SetMaxOpenConns")
	}
	if s.fileMode != "" && s.fileMode != "wal" {
		warnings = append(warnings, "the file could not be switched to write-ahead logging, so that readers and writers wait for "+
			"each other: keep it on a local disk, and set no other journal_mode in the DSN")
	}
	return warnings
}

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

// CommitCtx implements scs.CtxStore: it writes whether the session was there or not.
func (s *Store) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) error {
	_, err := s.exec(ctx, `INSERT INTO sessions (token, data, expiry, version) VALUES ($1, $2, $3, $4)
		ON CONFLICT (token) DO UPDATE SET data = excluded.data, expiry = excluded.expiry, version = version + 1`,
		token, b, milliseconds(expiry), time.Now().UnixMicro())
	s.cleanNowAndThen()
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

// Expiries implements websession.Store. 500 tokens at once are enough.
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

// rows calls f for every row. The connection is held until the last one: f must not use the
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

// milliseconds rounds up: a session must not be gone before its cookie is.
func milliseconds(t time.Time) int64 {
	return t.Add(time.Millisecond - time.Nanosecond).UnixMilli()
}

// cleanNowAndThen has expired sessions deleted if that is due.
func (s *Store) cleanNowAndThen() {
	now, last := clock.Now(), s.cleaned.Load()
	if now-last < int64(cleanEvery) || !s.cleaned.CompareAndSwap(last, now) {
		return
	}
	go func() { // ends after cleanTimeout
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		s.clean(ctx) // an error there is one for the next Commit too
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
