package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNoConnection is wrapped by the error of a call that got no connection of the pool in
	// time. Often the handler that waits for the call holds the last connection itself: it
	// streams rows, or has a transaction open, while its response begins.
	ErrNoConnection = errors.New("sqlitestore: no connection of the pool became free: " +
		"close rows and end transactions before the response begins and before a session is used, " +
		"or allow more connections with db.SetMaxOpenConns")

	// ErrBusy is wrapped by the error of a call that failed because another connection kept the
	// database locked. The connection may belong to this program or to another one.
	ErrBusy = errors.New("sqlitestore: another connection kept the database locked: " +
		"end its transaction sooner; a request must end its own before its response begins")

	errInMemory = errors.New("sqlitestore: the database is in memory or temporary, " +
		"so every connection of the pool has its own: " +
		"call db.SetMaxOpenConns(1) first, or open a file")
)

// advice says what an operator can do about an error of SQLite. Each driver has its own error
// types, but all drivers use SQLite's texts.
var advice = []struct{ sign, text string }{
	{"readonly database", "the database is read-only: let the program write to the file and to its folder, " +
		"and take mode=ro, immutable and query_only out of the DSN"},
	{"unable to open database file", "the file cannot be opened: make its folder before sql.Open, " +
		"let the program write to the file and to the folder, and let it open enough files (ulimit -n)"},
	{"database or disk is full", "no space is left, and nothing is saved until there is some: " +
		"free some on the disk, or raise max_page_count"},
	{"disk i/o error", "the disk or its file system has failed: look in the system's log"},
	{"file is not a database", "the file is of another kind, or encrypted: name a database file in the DSN"},
	{"database disk image is malformed", "the file is damaged: stop the program and restore a backup"},
	{"no such table: sessions", "the table is gone: another program has dropped it, or the database is in memory " +
		"and its connection was closed (SetConnMaxLifetime, SetConnMaxIdleTime and SetMaxIdleConns close it)"},
}

// busySigns are SQLite's texts for a lock that another connection holds.
var busySigns = []string{
	"database is locked", // SQLITE_BUSY and its kinds
	"table is locked",    // SQLITE_LOCKED, of connections that share a cache
	"schema is locked",   // SQLITE_LOCKED too
	"locking protocol",   // SQLITE_PROTOCOL: too many connections began to read at the same time
}

func isBusy(err error) bool {
	if err == nil {
		return false
	}
	text := strings.ToLower(err.Error())
	for _, sign := range busySigns {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// withAdvice adds to an error what to do about it.
func withAdvice(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrNoConnection), errors.Is(err, errInMemory):
		return err
	case isBusy(err):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("sqlitestore: the database did not answer in time: %w", err)
	}
	text := strings.ToLower(err.Error())
	for _, a := range advice {
		if strings.Contains(text, a.sign) {
			return fmt.Errorf("sqlitestore: %s: %w", a.text, err)
		}
	}
	return fmt.Errorf("sqlitestore: %w", err)
}
