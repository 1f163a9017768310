package sqlitestore

import (
	"context"
	"database/sql"
	"strings"
)

const schema = `
CREATE TABLE IF NOT EXISTS sessions (
	token   TEXT PRIMARY KEY,
	data    BLOB NOT NULL,
	expiry  INTEGER NOT NULL, -- Unix time in milliseconds
	version INTEGER NOT NULL  -- Unix time in microseconds at first, plus 1 for each change
);
CREATE INDEX IF NOT EXISTS sessions_expiry_idx ON sessions(expiry);`

// prepare makes the database ready, and finds out whether sessions can be kept in it.
func (s *Store) prepare(ctx context.Context, conn *sql.Conn) error {
	// The file keeps this mode. A database that cannot have it, such as one in memory, keeps its
	// own mode.
	var mode string
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	// With IMMEDIATE, two programs that start together do this one after the other, and the
	// second program finds the table ready.
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := migrate(ctx, conn)
	if err == nil {
		err = tryWriting(ctx, conn)
	}
	if err == nil {
		_, err = conn.ExecContext(ctx, "COMMIT")
	}
	if err != nil {
		restoreOrClose(ctx, conn, func(ctx context.Context) error {
			_, err := conn.ExecContext(ctx, "ROLLBACK")
			return err
		})
		return err
	}
	return s.checkFile(ctx, conn, mode)
}

// migrate creates the table if it is not there. A table of sqlite3store is converted with its
// sessions. Their expiry is a Julian day there.
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

// tryWriting fails if the database is read-only. If the table was there already, nothing before
// it has tried to write. It changes no row.
func tryWriting(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "UPDATE sessions SET version = version WHERE token = ''")
	return err
}

// checkFile refuses a database in memory if each connection of the pool has its own. mode is the
// journal mode of the file.
func (s *Store) checkFile(ctx context.Context, conn *sql.Conn, mode string) error {
	var file string
	err := conn.QueryRowContext(ctx, "SELECT coalesce(max(file), '') FROM pragma_database_list WHERE name = 'main'").Scan(&file)
	if err != nil {
		return err
	}
	if file != "" {
		s.fileMode = mode
		return nil
	}
	if s.db.Stats().MaxOpenConnections == 1 {
		s.inMemory = true
		return nil
	}
	other, err := s.conn(ctx)
	if err != nil {
		return err
	}
	defer other.Close()
	var tables int
	err = other.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'sessions'").Scan(&tables)
	if err == nil && tables == 0 {
		return errInMemory
	}
	return err
}

// execAll executes statements one by one, since not every driver takes several in one call.
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
