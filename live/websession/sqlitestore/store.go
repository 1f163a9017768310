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
// each other, and which the file remembers. Every call sets a busy timeout of five
// seconds at the connection that it uses, so that a writer elsewhere, in this program or
// another, makes it wait and does not make it fail. Writers of one Store queue up before
// they get to SQLite, whose own waiting is by sleeping.
//
// How sure a write is in a power failure is for the program to choose. With synchronous=FULL,
// modernc's default, a sign-out is on the disk when it returns. With NORMAL, mattn's in this
// mode of logging, it is faster, and the last sign-outs may be undone. A database in memory
// must have a single connection (db.SetMaxOpenConns(1)), as each has one of its own otherwise.
package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// busyTimeout is how long another's write is waited for, in milliseconds: far longer
	// than a write takes, and no longer than a person waits for a page.
	busyTimeout = 5000

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
	db      *sql.DB
	writing chan struct{} // one place: it is taken by who writes
	cleaned atomic.Int64  // when it was last cleaned, in Unix milliseconds
}

// New returns a store that keeps its sessions in the table sessions. It creates the table
// and its index if they are not there. A table of scs's sqlite3store is converted, with
// the sessions that are in it; a program that uses that cannot read it afterwards.
func New(db *sql.DB) (*Store, error) {
	if db == nil {
		return nil, errors.New("sqlitestore: the database is nil")
	}
	s := &Store{db: db, writing: make(chan struct{}, 1)}
	s.cleaned.Store(time.Now().UnixMilli())
	ctx, cancel := context.WithTimeout(context.Background(), 2*busyTimeout*time.Millisecond)
	defer cancel()
	if err := s.write(ctx, s.prepare); err != nil {
		return nil, fmt.Errorf("sqlitestore: %w", err)
	}
	return s, nil
}

const schema = `
CREATE TABLE IF NOT EXISTS sessions (
	token   TEXT PRIMARY KEY,
	data    BLOB NOT NULL,
	expiry  INTEGER NOT NULL, -- Unix time in milliseconds
	version INTEGER NOT NULL  -- begins with the time in microseconds, one more for each change
);
CREATE INDEX IF NOT EXISTS sessions_expiry_idx ON sessions(expiry);`

func (s *Store) prepare(ctx context.Context, conn *sql.Conn) error {
	if err := useWAL(ctx, conn); err != nil {
		return err
	}
	// Immediate: two programs that start at once come one after the other, and the second
	// finds everything done.
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := migrate(ctx, conn)
	if err == nil {
		_, err = conn.ExecContext(ctx, "COMMIT")
	}
	if err != nil {
		conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	}
	return err
}

// useWAL switches the journal's mode. SQLite does not wait for that, whatever the busy
// timeout: another program that starts may be switching just now. A database that cannot,
// as one in memory, keeps the mode that it has.
func useWAL(ctx context.Context, conn *sql.Conn) error {
	for {
		_, err := conn.ExecContext(ctx, "PRAGMA journal_mode = WAL")
		if err == nil || !strings.Contains(err.Error(), "locked") {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond): // some switches long
		case <-ctx.Done():
			return err
		}
	}
}

// migrate creates the table, and fills it with what is in one of sqlite3store's, whose
// expiry is a Julian day.
func migrate(ctx context.Context, conn *sql.Conn) error {
	var columns, versions int
	err := conn.QueryRowContext(ctx, `SELECT count(*), count(CASE WHEN name = 'version' THEN 1 END)
		FROM pragma_table_info('sessions')`).Scan(&columns, &versions)
	if err != nil {
		return err
	}
	if columns == 0 || versions > 0 {
		return execAll(ctx, conn, schema)
	}
	return execAll(ctx, conn, `
		DROP INDEX IF EXISTS sessions_expiry_idx;
		ALTER TABLE sessions RENAME TO sessions_before;`+schema+`
		INSERT INTO sessions (token, data, expiry, version)
			SELECT token, data, CAST(round((expiry - 2440587.5) * 86400000) AS INTEGER), 1 FROM sessions_before;
		DROP TABLE sessions_before;`)
}

// execAll carries out statements one by one: not every driver takes several at once.
func execAll(ctx context.Context, conn *sql.Conn, statements string) error {
	for statement := range strings.SplitSeq(statements, ";") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// with calls f with a connection that waits while the database is busy.
func (s *Store) with(ctx context.Context, f func(context.Context, *sql.Conn) error) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // back to the pool
	if _, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", busyTimeout)); err != nil {
		return err
	}
	return f(ctx, conn)
}

// write is with, for who writes.
func (s *Store) write(ctx context.Context, f func(context.Context, *sql.Conn) error) error {
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.with(ctx, f)
}

func (s *Store) exec(ctx context.Context, query string, args ...any) (rows int64, err error) {
	err = s.write(ctx, func(ctx context.Context, conn *sql.Conn) error {
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
	err = s.with(ctx, func(ctx context.Context, conn *sql.Conn) error {
		return conn.QueryRowContext(ctx, "SELECT data, version, expiry FROM sessions WHERE token = $1 AND expiry > $2",
			token, time.Now().UnixMilli()).Scan(&b, &version, &ms)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, 0, time.Time{}, false, nil
	case err != nil:
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
	err := s.rows(ctx, query, args, func(rows *sql.Rows) error {
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
	err := s.rows(ctx, query, []any{time.Now().UnixMilli()}, func(rows *sql.Rows) error {
		var token string
		var b []byte
		err := rows.Scan(&token, &b)
		sessions[token] = b
		return err
	})
	return sessions, err
}

// rows calls f for every row.
func (s *Store) rows(ctx context.Context, query string, args []any, f func(*sql.Rows) error) error {
	return s.with(ctx, func(ctx context.Context, conn *sql.Conn) error {
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
	now, last := time.Now().UnixMilli(), s.cleaned.Load()
	if now-last < cleanEvery.Milliseconds() || !s.cleaned.CompareAndSwap(last, now) {
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
