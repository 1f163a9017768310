package interop

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	_ "modernc.org/sqlite"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
	"github.com/livetopic/livetopic/live/websession/sqlitestore"
)

// openDB opens an SQLite file, as one more program would.
func openDB(t testing.TB, file string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// newSQLite returns an scs manager on a file.
func newSQLite(t testing.TB, file string) *scs.SessionManager {
	t.Helper()
	sm, err := websession.NewSQLiteSessionManager(openDB(t, file))
	if err != nil {
		t.Fatal(err)
	}
	return sm
}

func appDB(t testing.TB) string { return filepath.Join(t.TempDir(), "app.db") }

func storeOf(sm *scs.SessionManager) websession.Store { return sm.Store.(websession.Store) }

func TestSQLiteKeepsItsPromises(t *testing.T) {
	ctx := context.Background()
	file := appDB(t)
	s := storeOf(newSQLite(t, file))
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, found, err := s.FindCtx(ctx, "none"); found || err != nil {
		t.Errorf("found what is not there, %v", err)
	}
	must(s.DeleteCtx(ctx, "none"))
	must(s.CommitCtx(ctx, "a", []byte("1"), soon))
	must(s.CommitCtx(ctx, "old", []byte("1"), past))
	b, version, expiry, found, err := s.FindVersion(ctx, "a")
	if string(b) != "1" || !found || err != nil || expiry.Sub(soon).Abs() > time.Millisecond {
		t.Errorf("found %q, expiry %v instead of %v, %v", b, expiry, soon, err)
	}
	if ok, err := s.Update(ctx, "a", version, []byte("2"), soon); !ok || err != nil {
		t.Errorf("not updated, %v", err)
	}
	for what, u := range map[string]struct {
		token   string
		version int64
	}{"an old version": {"a", version}, "what is not there": {"none", 1}, "what has expired": {"old", 1}} {
		if ok, err := s.Update(ctx, u.token, u.version, []byte("3"), soon); ok || err != nil {
			t.Errorf("updated %s, %v", what, err)
		}
	}
	if b, next, _, _, _ := s.FindVersion(ctx, "a"); string(b) != "2" || next != version+1 {
		t.Errorf("found %q of version %d after %d", b, next, version)
	}
	expiries, err := s.Expiries(ctx, []string{"a", "old", "none"})
	if len(expiries) != 1 || !expiries["a"].Equal(expiry) || err != nil {
		t.Errorf("expiries %v, %v", expiries, err)
	}
	if all, err := s.(*sqlitestore.Store).All(); len(all) != 1 || string(all["a"]) != "2" || err != nil {
		t.Errorf("all %v, %v", all, err)
	}
	must(s.DeleteCtx(ctx, "a"))
	if ok, err := s.Update(ctx, "a", version+1, []byte("4"), soon); ok || err != nil {
		t.Errorf("the dead were updated, %v", err)
	}
	must(s.CommitCtx(ctx, "a", []byte("new"), soon))
	if _, again, _, _, _ := s.FindVersion(ctx, "a"); again <= version+1 {
		t.Errorf("version %d was used before", again)
	}

	var mode string
	must(openDB(t, file).QueryRow("PRAGMA journal_mode").Scan(&mode))
	if mode != "wal" {
		t.Errorf("the journal's mode is %s", mode)
	}
	if _, err := sqlitestore.New(nil); err == nil {
		t.Error("nil was taken for a database")
	}
}

// Sessions of scs's own sqlite3store go on.
func TestSQLiteTakesOverAnotherStoresTable(t *testing.T) {
	file := appDB(t)
	db := openDB(t, file)
	for _, statement := range []string{
		"CREATE TABLE sessions (token TEXT PRIMARY KEY, data BLOB NOT NULL, expiry REAL NOT NULL)",
		"CREATE INDEX sessions_expiry_idx ON sessions(expiry)",
		"INSERT INTO sessions VALUES ('alive', 'data', julianday('now', '+1 hour')), ('expired', 'data', julianday('now', '-1 hour'))",
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing to do
		s := storeOf(newSQLite(t, file))
		b, _, expiry, found, err := s.FindVersion(context.Background(), "alive")
		if string(b) != "data" || !found || err != nil || (time.Until(expiry)-time.Hour).Abs() > time.Minute {
			t.Errorf("found %q, expiry %v, %v", b, expiry, err)
		}
		if _, found, err := s.Find("expired"); found || err != nil {
			t.Errorf("found what has expired, %v", err)
		}
	}
}

func TestSQLiteProgramsThatStartAtOnce(t *testing.T) {
	file := appDB(t)
	var running sync.WaitGroup
	for range 8 {
		db := openDB(t, file)
		running.Go(func() {
			if _, err := sqlitestore.New(db); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
}

// Another program that holds the file while this one starts is waited for.
func TestSQLiteWaitsForWhoHoldsTheFile(t *testing.T) {
	file := appDB(t)
	ctx := context.Background()
	other, err := openDB(t, file).Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, statement := range []string{"PRAGMA busy_timeout = 5000", "CREATE TABLE orders (n INTEGER)", "BEGIN IMMEDIATE", "INSERT INTO orders VALUES (1)"} {
		if _, err := other.ExecContext(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	made := make(chan error, 1)
	go func() {
		_, err := sqlitestore.New(openDB(t, file))
		made <- err
	}()
	select {
	case err := <-made:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond): // for what must not happen
	}
	if _, err := other.ExecContext(ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err != nil {
		t.Error(err)
	}
}

// Eight writers, in one program and in two, and somebody else who writes to the same file.
func TestSQLiteIsNeverBusy(t *testing.T) {
	for _, programs := range []int{1, 2} {
		t.Run(fmt.Sprint(programs), func(t *testing.T) {
			file := appDB(t)
			var stores []websession.Store
			for range programs {
				stores = append(stores, storeOf(newSQLite(t, file)))
			}
			other := openDB(t, file)
			if _, err := other.Exec("CREATE TABLE orders (n INTEGER)"); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			expiry := began.Add(time.Hour)
			stop := make(chan bool)
			var writers, others sync.WaitGroup
			others.Go(func() {
				for took := time.Duration(0); ; {
					select {
					case <-stop:
						return
					case <-time.After(took): // half of the time the file is free
						writes := time.Now()
						other.Exec("PRAGMA busy_timeout = 5000; INSERT INTO orders VALUES (1)")
						took = time.Since(writes)
					}
				}
			})
			for w := range 8 {
				writers.Go(func() {
					s := stores[w%programs]
					for i := range 50 / programs {
						if err := s.Commit(fmt.Sprint(w, "-", i%5), make([]byte, 300), expiry); err != nil {
							t.Error(err)
						}
						if _, _, err := s.Find(fmt.Sprint(w, "-", i%5)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			writers.Wait()
			t.Logf("%d commits of 8 writers in %v", 400/programs, time.Since(began))
			close(stop)
			others.Wait()
			for _, s := range stores {
				if all, err := s.(*sqlitestore.Store).All(); len(all) != 40 || err != nil {
					t.Errorf("%d sessions, %v", len(all), err)
				}
			}
		})
	}
}

// programWith returns one of two programs that share a file: the sessions of one user in it.
func programWith(t *testing.T, file string) *websession.Manager {
	return websession.New(newSQLite(t, file), websession.Options{})
}

func only(t *testing.T, m *websession.Manager) *websession.Session {
	t.Helper()
	found, err := m.Find(context.Background(), func(map[string]any) bool { return true })
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	return found[0]
}

// Two programs that know of each other by nothing but the database: no session that one
// ends does the other bring back, and no change of one does the other undo.
func TestSQLiteBringsNothingBackBetweenPrograms(t *testing.T) {
	file := appDB(t)
	here, there := programWith(t, file), programWith(t, file)
	for i := range 100 { // of each some milliseconds, in SQLite with the race detector
		sm := here.SCS()
		ctx, err := sm.Load(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		sm.Put(ctx, "username", "ana")
		if _, _, err := sm.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		ours, theirs := only(t, here), only(t, there)

		var running sync.WaitGroup
		begin := make(chan bool)
		running.Go(func() {
			<-begin
			var err error
			for n := 0; err == nil; n++ {
				err = theirs.Set("n", n)
			}
			if !errors.Is(err, websession.ErrNoSession) {
				t.Error(err)
			}
		})
		running.Go(func() {
			<-begin
			if err := errors.Join(ours.Set("here", i), ours.Destroy()); err != nil {
				t.Error(err)
			}
		})
		close(begin)
		running.Wait()
		for _, m := range []*websession.Manager{here, there} {
			if all, err := m.Find(context.Background(), func(map[string]any) bool { return true }); len(all) > 0 || err != nil {
				t.Fatalf("round %d: %v is back, %v", i, all, err)
			}
		}
	}
}

func TestSQLiteKeepsEveryProgramsChanges(t *testing.T) {
	file := appDB(t)
	here, there := programWith(t, file), programWith(t, file)
	sm := here.SCS()
	ctx, err := sm.Load(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	sm.Put(ctx, "username", "ana")
	if _, _, err := sm.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for _, s := range []*websession.Session{only(t, here), only(t, there)} {
		for range 4 {
			running.Go(func() {
				for range 25 {
					err := s.Update(func(values map[string]any) error {
						n, _ := values["n"].(int)
						values["n"] = n + 1
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	running.Wait()
	if got := only(t, here).GetInt("n"); got != 200 {
		t.Errorf("counted %d of 200", got)
	}
}

// After a restart a session is there again, and a socket ends when another program has
// deleted its row.
func TestSQLiteSurvivesARestartAndSeesDeletedRows(t *testing.T) {
	file := appDB(t)
	serveOnce := func(t *testing.T) (at livetest.Endpoint, server *live.Server) {
		m := websession.New(newSQLite(t, file), websession.Options{Revalidate: 50 * time.Millisecond})
		var sessions sync.Map
		server = m.NewServer(live.Options{
			OnAuth: websession.Authenticate("username"),
			OnConnect: func(_ context.Context, s *live.Session) error {
				sessions.Store(s.ID(), s)
				return server.Subscribe(s, "t")
			},
		})
		mux := http.NewServeMux()
		mux.Handle("/live", server.Handler())
		mux.HandleFunc("/login", func(_ http.ResponseWriter, r *http.Request) {
			s := websession.FromRequest(r)
			if err := errors.Join(s.RenewToken(), s.Set("username", "ana")); err != nil {
				t.Error(err)
			}
		})
		return livetest.Serve(t, m.Middleware(mux)), server
	}
	var header http.Header
	t.Run("before", func(t *testing.T) {
		at, _ := serveOnce(t)
		resp, err := http.Get(at.HTTP() + "/login")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		header = http.Header{"Cookie": {strings.Split(resp.Header.Get("Set-Cookie"), ";")[0]}}
	})
	at, server := serveOnce(t)
	at.URL += "/live"
	c := livetest.Connect(t, at, livetest.Dialing{Header: header}).Attend()
	livetest.Eventually(t, "the session", func() bool { return server.Stats().Subscriptions == 1 })
	server.Publish("t", []byte(`1`))
	livetest.Check(t, "the client", c.Read(), `{"topic":"t","data":1}`)

	if _, err := openDB(t, file).Exec("PRAGMA busy_timeout = 5000; DELETE FROM sessions"); err != nil {
		t.Fatal(err)
	}
	livetest.Eventually(t, "the end", func() bool { return server.Stats().Sessions == 0 })
}

func TestSQLiteForgetsWhatHasExpired(t *testing.T) {
	sm := newSQLite(t, appDB(t))
	keys := []string{"a", "b", "c"}
	for _, key := range keys {
		if err := sm.Store.Commit(key, []byte("x"), time.Now().Add(20*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	s := storeOf(sm)
	livetest.Eventually(t, "the expiry", func() bool {
		expiries, err := s.Expiries(context.Background(), slices.Clone(keys))
		return err == nil && len(expiries) == 0
	})
}

func BenchmarkSQLite(b *testing.B) {
	s := storeOf(newSQLite(b, appDB(b)))
	ctx, data, expiry := context.Background(), make([]byte, 300), time.Now().Add(time.Hour)
	if err := s.CommitCtx(ctx, "a", data, expiry); err != nil {
		b.Fatal(err)
	}
	_, version, _, _, _ := s.FindVersion(ctx, "a")
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			if _, found, err := s.FindCtx(ctx, "a"); !found || err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("update", func(b *testing.B) {
		for b.Loop() {
			if ok, err := s.Update(ctx, "a", version, data, expiry); !ok || err != nil {
				b.Fatal(err)
			}
			version++
		}
	})
	b.Run("commit", func(b *testing.B) {
		for b.Loop() {
			if err := s.CommitCtx(ctx, "b", data, expiry); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkFindAUsersSessions(b *testing.B) {
	sm := newSQLite(b, appDB(b))
	m := websession.New(sm, websession.Options{})
	for i := range 1000 {
		ctx, _ := sm.Load(context.Background(), "")
		sm.Put(ctx, "username", fmt.Sprint("user", i))
		if _, _, err := sm.Commit(ctx); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		found, err := m.Find(context.Background(), func(v map[string]any) bool { return v["username"] == "user7" })
		if len(found) != 1 || err != nil {
			b.Fatal(found, err)
		}
	}
}
