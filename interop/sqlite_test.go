package interop

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live/websession"
	"github.com/livetopic/livetopic/live/websession/sqlitestore"
)

// atMost is when a call must have failed that could wait for ever.
const atMost = 12 * time.Second

// page is a program with sessions in SQLite, whose handlers a test gives it.
type page struct {
	t      testing.TB
	db     *sql.DB
	m      *websession.Manager
	mux    *http.ServeMux
	url    string
	mu     sync.Mutex
	logs   bytes.Buffer // guarded by mu
	failed error        // the last error of a request's session, guarded by mu
}

func newPage(t testing.TB, db *sql.DB) *page {
	t.Helper()
	sm, err := websession.NewSQLiteSessionManager(db)
	if err != nil {
		t.Fatal(err)
	}
	p := &page{t: t, db: db, mux: http.NewServeMux()}
	sm.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.failed = err
		http.Error(w, "the session failed", http.StatusInternalServerError)
	}
	p.m = websession.New(sm, websession.Options{Logger: slog.New(slog.NewTextHandler(p, nil))})
	p.handle("/set", func(_ http.ResponseWriter, _ *http.Request, s *websession.Session) error { return s.Set("a", "1") })
	p.handle("/get", func(w http.ResponseWriter, _ *http.Request, s *websession.Session) error {
		_, err := io.WriteString(w, s.GetString("a"))
		return err
	})
	server := httptest.NewServer(p.m.Middleware(p.mux))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// Write takes a line of the log.
func (p *page) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logs.Write(line)
}

func (p *page) logged(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Contains(p.logs.String(), text)
}

func (p *page) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// handle adds a handler, whose error is answered with 500.
func (p *page) handle(path string, h func(http.ResponseWriter, *http.Request, *websession.Session) error) {
	p.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r, websession.FromRequest(r)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// newVisitor returns a browser of a page.
func newVisitor(t testing.TB) *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, Timeout: time.Minute}
}

func (p *page) get(c *http.Client, path string) (status int, body string, err error) {
	resp, err := c.Get(p.url + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), err
}

// streamRows calls each for the rows that a handler streams.
func streamRows(db *sql.DB, each func(n int) error) error {
	rows, err := db.Query("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT i FROM n")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var n int
		if err := errors.Join(rows.Scan(&n), each(n)); err != nil {
			return err
		}
	}
	return rows.Err()
}

// A handler that holds the pool's only connection while its session is saved fails soon, says why, and
// leaves a program that works.
func TestSQLiteAPoolOfOneDoesNotHang(t *testing.T) {
	for name, h := range map[string]func(db *sql.DB, w http.ResponseWriter, s *websession.Session) error{
		"rows": func(db *sql.DB, w http.ResponseWriter, s *websession.Session) error {
			if err := s.Set("a", "2"); err != nil {
				return err
			}
			return streamRows(db, func(n int) error { _, err := fmt.Fprintln(w, n); return err })
		},
		"rows and a sign-in": func(db *sql.DB, w http.ResponseWriter, s *websession.Session) error {
			if err := errors.Join(s.RenewToken(), s.Set("a", "2")); err != nil {
				return err
			}
			return streamRows(db, func(n int) error { _, err := fmt.Fprintln(w, n); return err })
		},
		"rows and a sign-out": func(db *sql.DB, _ http.ResponseWriter, s *websession.Session) error {
			return streamRows(db, func(int) error { return s.Destroy() })
		},
		"rows, after the head": func(db *sql.DB, w http.ResponseWriter, s *websession.Session) error {
			w.WriteHeader(http.StatusInternalServerError)
			if s.ID() == "" {
				return nil // there is no session that could be changed
			}
			return streamRows(db, func(int) error {
				err := s.Set("a", "2")
				if !errors.Is(err, sqlitestore.ErrNoConnection) {
					t.Errorf("Set returned %v", err)
				}
				return err
			})
		},
		"a transaction": func(db *sql.DB, w http.ResponseWriter, s *websession.Session) error {
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if err := s.Set("a", "2"); err != nil {
				return err
			}
			_, err = io.WriteString(w, "x")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := openDB(t, appDB(t))
			db.SetMaxOpenConns(1)
			p, c := newPage(t, db), newVisitor(t)
			p.handle("/hold", func(w http.ResponseWriter, _ *http.Request, s *websession.Session) error { return h(db, w, s) })
			for _, first := range []bool{true, false} { // a new session, and one that is there
				began := time.Now()
				status, body, err := p.get(c, "/hold")
				if took := time.Since(began); took > atMost {
					t.Errorf("it took %v", took)
				}
				if err != nil || status != http.StatusInternalServerError {
					if !(first && status == http.StatusOK) { // there is nothing to sign out of
						t.Errorf("answered with %d %q, %v", status, body, err)
					}
				}
				if status, _, err := p.get(c, "/set"); status != http.StatusOK || err != nil {
					t.Fatalf("after it, a session is not saved: %d, %v, %v", status, err, p.failure())
				}
			}
			if !p.logged("no connection of the pool became free") {
				t.Error("the log does not say why")
			}
		})
	}
}

// A pool whose connections are all held by handlers that wait for their sessions lets go of all of them.
func TestSQLiteAPoolThatIsUsedUpDoesNotHang(t *testing.T) {
	t.Parallel()
	db := openDB(t, appDB(t))
	db.SetMaxOpenConns(4)
	p := newPage(t, db)
	var holding sync.WaitGroup
	holding.Add(4)
	p.handle("/hold", func(w http.ResponseWriter, _ *http.Request, s *websession.Session) error {
		if err := s.Set("a", "2"); err != nil {
			return err
		}
		return streamRows(db, func(n int) error {
			if n == 1 {
				holding.Done()
				holding.Wait()
			}
			_, err := fmt.Fprintln(w, n)
			return err
		})
	})
	began := time.Now()
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			if _, _, err := p.get(newVisitor(t), "/hold"); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if took := time.Since(began); took > atMost {
		t.Errorf("it took %v", took)
	}
	if !errors.Is(p.failure(), sqlitestore.ErrNoConnection) || !strings.Contains(p.failure().Error(), "4 of 4") {
		t.Errorf("the error is %v", p.failure())
	}
}

// A handler whose own transaction has written keeps its session from being saved, whatever the pool.
func TestSQLiteAnOpenTransactionIsTold(t *testing.T) {
	t.Parallel()
	db := openDB(t, appDB(t))
	p, c := newPage(t, db), newVisitor(t)
	if _, err := db.Exec("CREATE TABLE orders (n INTEGER)"); err != nil {
		t.Fatal(err)
	}
	p.handle("/hold", func(w http.ResponseWriter, _ *http.Request, s *websession.Session) error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.Exec("INSERT INTO orders VALUES (1)"); err != nil {
			return err
		}
		if err := s.Set("a", "2"); err != nil {
			return err
		}
		_, err = io.WriteString(w, "x")
		return err
	})
	began := time.Now()
	if status, body, err := p.get(c, "/hold"); status != http.StatusInternalServerError || err != nil {
		t.Errorf("answered with %d %q, %v", status, body, err)
	}
	if took := time.Since(began); took > atMost {
		t.Errorf("it took %v", took)
	}
	if !errors.Is(p.failure(), sqlitestore.ErrBusy) || !p.logged("end its transaction sooner") {
		t.Errorf("the error is %v", p.failure())
	}
	if status, _, err := p.get(c, "/set"); status != http.StatusOK || err != nil {
		t.Errorf("after it, a session is not saved: %d, %v", status, err)
	}
}

// No write fails because there are many, with nothing in the DSN but the file.
func TestSQLiteFiveHundredWritesAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		connections, programs, writes int
		query                         string
	}{
		"a pool without a bound":    {0, 1, 500, ""},
		"a pool of one":             {1, 1, 500, ""},
		"two programs":              {0, 2, 500, ""},
		"four programs":             {2, 4, 500, ""},
		"a short timeout in it":     {0, 2, 500, "?_pragma=busy_timeout(1)"},
		"nothing stays in the pool": {-1, 1, 50, ""}, // each opens the file, and no write may wait longer than the store does
	} {
		t.Run(name, func(t *testing.T) {
			file := appDB(t)
			var pages []*page
			for range c.programs {
				db := openDB(t, file+c.query)
				if c.connections < 0 {
					db.SetMaxIdleConns(-1)
				} else {
					db.SetMaxOpenConns(c.connections)
				}
				pages = append(pages, newPage(t, db))
			}
			began := time.Now()
			var running sync.WaitGroup
			for i := range c.writes {
				p := pages[i%len(pages)]
				running.Go(func() { // as a store, without a deadline
					token := fmt.Sprint("token", i)
					if err := p.m.SCS().Store.Commit(token, make([]byte, 300), time.Now().Add(time.Hour)); err != nil {
						t.Error(err)
					}
				})
				if i%5 > 0 {
					continue
				}
				running.Go(func() { // and as a browser
					c := newVisitor(t)
					for _, path := range []string{"/set", "/set", "/get"} {
						if status, body, err := p.get(c, path); status != http.StatusOK || err != nil {
							t.Errorf("%s was answered with %d %q, %v: %v", path, status, body, err, p.failure())
						}
					}
				})
			}
			running.Wait()
			t.Logf("%d writes and %d browsers in %v", c.writes, c.writes/5, time.Since(began))
			found, err := pages[0].m.SCS().Store.(interface {
				AllCtx(context.Context) (map[string][]byte, error)
			}).AllCtx(t.Context())
			if len(found) != c.writes*6/5 || err != nil {
				t.Errorf("%d sessions, %v", len(found), err)
			}
		})
	}
}

// Hundreds of requests at once do not open hundreds of connections.
func TestSQLiteOpensFewConnections(t *testing.T) {
	db := openDB(t, appDB(t))
	s, err := sqlitestore.New(db)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for i := range 500 {
		running.Go(func() {
			if _, _, err := s.Find(fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
			if open := db.Stats().OpenConnections; open > 12 {
				t.Errorf("%d connections", open)
			}
		})
	}
	running.Wait()
}

// The program's own patience is as it was, if it had any.
func TestSQLiteLeavesTheProgramsTimeout(t *testing.T) {
	for dsn, want := range map[string]int{
		"?_pragma=busy_timeout(20000)": 20000,
		"?_pragma=busy_timeout(100)":   100,
		"":                             5000,
	} {
		db := openDB(t, appDB(t)+dsn)
		db.SetMaxOpenConns(1)
		s, err := sqlitestore.New(db)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Commit("a", []byte("1"), time.Now().Add(time.Hour)); err != nil {
			t.Error(err)
		}
		var got int
		if err := db.QueryRow("PRAGMA busy_timeout").Scan(&got); err != nil || got != want {
			t.Errorf("%q: %d ms, %v", dsn, got, err)
		}
	}
}

// What cannot keep sessions is refused at once, in words that say what to do.
func TestSQLiteRefusesWhatCannotKeepSessions(t *testing.T) {
	folder := t.TempDir()
	ready := filepath.Join(folder, "ready.db")
	if _, err := sqlitestore.New(openDB(t, ready)); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(folder, "fresh.db")
	if _, err := openDB(t, fresh).Exec("CREATE TABLE orders (n INTEGER)"); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(folder, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for dsn, want := range map[string]string{
		"file:" + filepath.Join(folder, "missing", "app.db"):  "make its folder",
		"file:" + filepath.Join(folder, "missing.db?mode=rw"): "make its folder",
		"file:" + folder:                           "cannot be opened",
		"file:" + ready + "?mode=ro":               "read-only",
		"file:" + ready + "?immutable=1":           "read-only",
		"file:" + ready + "?_pragma=query_only(1)": "read-only",
		"file:" + fresh + "?mode=ro":               "read-only",
		"file:" + text:                             "another kind",
		":memory:":                                 "SetMaxOpenConns(1)",
		"file::memory:":                            "SetMaxOpenConns(1)",
		"file:x?mode=memory":                       "SetMaxOpenConns(1)",
		"":                                         "SetMaxOpenConns(1)",
	} {
		db, err := sql.Open("sqlite", dsn)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := websession.NewSQLiteSessionManager(db); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", dsn, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%q: refused after %v", dsn, took)
		}
		db.Close()
	}
}

// A database in memory serves a pool of one, and a pool that shares it.
func TestSQLiteInMemory(t *testing.T) {
	for dsn, connections := range map[string]int{
		":memory:":                             1,
		"":                                     1,
		"file:shared?mode=memory&cache=shared": 0,
		"file:/shared-by-name.db?vfs=memdb":    3,
		"file:also-shared?mode=memory&cache=shared": 1,
	} {
		t.Run(dsn, func(t *testing.T) {
			db, err := sql.Open("sqlite", dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			db.SetMaxOpenConns(connections)
			s, err := sqlitestore.New(db)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Commit("a", []byte("1"), time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			var running sync.WaitGroup
			for i := range 200 { // clients that go away
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*10*time.Microsecond)
				running.Go(func() { s.CommitCtx(ctx, fmt.Sprint(i), make([]byte, 300), time.Now().Add(time.Hour)) })
				running.Go(func() { defer cancel(); s.AllCtx(ctx) })
			}
			running.Wait()
			if _, found, err := s.Find("a"); !found || err != nil {
				t.Errorf("found %v, %v", found, err)
			}
		})
	}
}

// A database in memory that is lost while the program runs is told.
func TestSQLiteALostTableIsTold(t *testing.T) {
	db := openDB(t, appDB(t))
	p := newPage(t, db)
	if _, err := db.Exec("DROP TABLE sessions"); err != nil {
		t.Fatal(err)
	}
	if status, _, err := p.get(newVisitor(t), "/set"); status != http.StatusInternalServerError || err != nil {
		t.Errorf("answered with %d, %v", status, err)
	}
	if !p.logged("the table is gone") {
		t.Errorf("the error is %v", p.failure())
	}
}

// A disk that is full is told, and what is there can still be read.
func TestSQLiteAFullDiskIsTold(t *testing.T) {
	p, c := newPage(t, openDB(t, appDB(t)+"?_pragma=max_page_count(12)")), newVisitor(t)
	p.handle("/fill", func(_ http.ResponseWriter, _ *http.Request, s *websession.Session) error {
		return s.Set("b", make([]byte, 100_000))
	})
	if status, _, err := p.get(c, "/set"); status != http.StatusOK || err != nil {
		t.Fatalf("answered with %d, %v", status, err)
	}
	if status, _, err := p.get(c, "/fill"); status != http.StatusInternalServerError || err != nil {
		t.Errorf("answered with %d, %v", status, err)
	}
	if !p.logged("no space is left") {
		t.Errorf("the error is %v", p.failure())
	}
	if _, body, err := p.get(c, "/get"); body != "1" || err != nil {
		t.Errorf("read %q, %v", body, err)
	}
}

// An operator reads at the start what could be set up better, and nothing where all is well.
func TestSQLiteWarnsOfItsPool(t *testing.T) {
	for dsn, c := range map[string]struct {
		connections int
		want        string
	}{
		"":                            {0, "busy_timeout(5000)"},
		"?_pragma=busy_timeout(1000)": {1, "has one connection"},
		"?_pragma=busy_timeout(5000)": {0, ""},
	} {
		db := openDB(t, appDB(t)+dsn)
		db.SetMaxOpenConns(c.connections)
		p := newPage(t, db)
		if c.want == "" && p.logged("websession") || !p.logged(c.want) {
			t.Errorf("%q: logged %q", dsn, p.logs.String())
		}
	}
}
