package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// locks are the texts in which drivers say that the database is locked.
var locks = []string{
	"database is locked (5) (SQLITE_BUSY)", // modernc.org/sqlite
	"database is locked",                   // github.com/mattn/go-sqlite3
	"sqlite3: database is locked",          // github.com/ncruces/go-sqlite3
	"database table is locked: sessions",   // connections that share a cache
	"locking protocol (15)",                // many that begin to read at once
}

// calls has a call of every kind, without a deadline in its context.
var calls = map[string]func(s *Store) error{
	"find":     func(s *Store) error { _, _, err := s.Find("a"); return err },
	"commit":   func(s *Store) error { return s.Commit("a", []byte("1"), time.Now()) },
	"delete":   func(s *Store) error { return s.Delete("a") },
	"all":      func(s *Store) error { _, err := s.All(); return err },
	"update":   func(s *Store) error { _, err := s.Update(context.Background(), "a", 1, nil, time.Now()); return err },
	"expiries": func(s *Store) error { _, err := s.Expiries(context.Background(), nil); return err },
}

// With any driver, and at any statement that finds the database locked, the call succeeds when the lock
// ends.
func TestALockIsWaitedFor(t *testing.T) {
	for _, lock := range locks {
		for name, call := range calls {
			synctest.Test(t, func(t *testing.T) {
				s, d := newScripted(t)
				s.db.SetMaxIdleConns(-1) // connections are opened anew, which may fail too
				free := time.Now().Add(busyTimeout * 9 / 10)
				d.setAnswer(func(context.Context, string) error {
					if time.Now().Before(free) {
						return errors.New(lock)
					}
					return nil
				})
				if err := call(s); err != nil {
					t.Errorf("%s, %q: %v", name, lock, err)
				}
			})
		}
	}
}

// A lock that stays leads to an error after a few seconds. The error says what to do.
func TestALockThatStaysIsAnError(t *testing.T) {
	for _, lock := range locks {
		synctest.Test(t, func(t *testing.T) {
			s, d := newScripted(t)
			d.setAnswer(func(context.Context, string) error { return errors.New(lock) })
			began := time.Now()
			err := s.Commit("a", nil, time.Now())
			if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), lock) {
				t.Errorf("%q: %v", lock, err)
			}
			if took := time.Since(began); took < busyTimeout || took > busyTimeout+time.Second {
				t.Errorf("%q: after %v", lock, took)
			}
		})
	}
}

// Every call ends without a deadline in its context, if the database does not answer, and also if other
// calls wait before it.
func TestEveryCallEnds(t *testing.T) {
	for name, call := range calls {
		if name == "expiries" {
			continue // it has no tokens here, so it does not ask the database
		}
		synctest.Test(t, func(t *testing.T) {
			s, d := newScripted(t)
			d.setAnswer(func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
			began := time.Now()
			var running sync.WaitGroup
			for range 3 * maxReaders {
				running.Go(func() {
					if err := call(s); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			running.Wait()
			if took := time.Since(began); took > listLimit.total {
				t.Errorf("%s: after %v", name, took)
			}
		})
	}
}

// Every call also ends if the pool has no free connection. Its error says so.
func TestEveryCallEndsWithoutAConnection(t *testing.T) {
	for name, call := range calls {
		if name == "expiries" {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			s, _ := newScripted(t)
			s.db.SetMaxOpenConns(1)
			held, err := s.db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			began := time.Now()
			if err := call(s); !errors.Is(err, ErrNoConnection) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(began); took != connTimeout {
				t.Errorf("%s: after %v", name, took)
			}

			// Many simultaneous calls end too, with the same error.
			var running sync.WaitGroup
			for range 100 {
				running.Go(func() {
					if err := call(s); !errors.Is(err, ErrNoConnection) {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			running.Wait()
			if took := time.Since(began); took > connTimeout+listLimit.total {
				t.Errorf("%s: after %v", name, took)
			}
		})
	}
}

// If the client goes away, the error does not blame the pool.
func TestAClientThatGoesAwayIsNoFailureOfThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newScripted(t)
		s.db.SetMaxOpenConns(1)
		held, err := s.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, _, err := s.FindCtx(ctx, "a"); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoConnection) {
			t.Error(err)
		}
	})
}

// A connection that is still in a transaction is closed and does not go back to the pool.
func TestAConnectionThatCannotBeTidiedIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{}
		db := sql.OpenDB(d)
		defer db.Close()
		d.setAnswer(func(_ context.Context, query string) error {
			if query == "COMMIT" || query == "ROLLBACK" {
				return errors.New("disk I/O error")
			}
			return nil
		})
		if _, err := New(db); err == nil {
			t.Fatal("it could be committed")
		}
		if open := db.Stats().OpenConnections; open != 0 || d.opened != 1 {
			t.Errorf("%d of %d connections are open", open, d.opened)
		}
	})
}
