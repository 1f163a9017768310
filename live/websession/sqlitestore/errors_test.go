package sqlitestore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Other errors are returned at once, and wrap the driver's error.
func TestOtherErrorsAreNotTriedAgain(t *testing.T) {
	for text, want := range map[string]string{
		"attempt to write a readonly database":                    "read-only",
		"unable to open database file: no such file":              "make its folder",
		"unable to open database file: out of memory (14)":        "make its folder",
		"database or disk is full":                                "no space is left",
		"disk I/O error (778)":                                    "the system's log",
		"file is not a database":                                  "another kind",
		"database disk image is malformed (11)":                   "a backup",
		"SQL logic error: no such table: sessions (1)":            "the table is gone",
		"NOT NULL constraint failed: sessions.data (1299)":        "NOT NULL",
		"sqlite3: SQL logic error: near \"SELEKT\": syntax error": "SELEKT",
	} {
		synctest.Test(t, func(t *testing.T) {
			s, d := newScripted(t)
			broken, tries := errors.New(text), 0
			d.setAnswer(func(_ context.Context, query string) error {
				if !strings.HasPrefix(query, "DELETE") {
					return nil
				}
				tries++
				return broken
			})
			began := time.Now()
			err := s.Delete("a")
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "sqlitestore: ") {
				t.Errorf("%q: %v", text, err)
			}
			if tries != 1 || time.Since(began) > 0 {
				t.Errorf("%q: %d tries in %v", text, tries, time.Since(began))
			}
		})
	}
}
