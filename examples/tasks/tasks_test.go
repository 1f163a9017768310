package main

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	_ "modernc.org/sqlite"
)

func openList(t *testing.T) *List {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "db")+options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	l, err := OpenList(db)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Revs are given in the order in which changes are committed, with many writers too: a state has
// every change up to its Rev, and none after it.
func TestStateHasEveryChangeUpToItsRev(t *testing.T) {
	l := openList(t)
	const writers, each = 4, 50
	var mu sync.Mutex
	saved := make(map[int64]Task)
	var all sync.WaitGroup
	states := make(chan State, 1000)
	for w := range writers {
		all.Go(func() {
			for i := range each {
				task := Task{ID: fmt.Sprint(w, "-", i%5), Text: fmt.Sprint(i), Deleted: i%7 == 0}
				if err := l.Save(t.Context(), &task); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				saved[task.Rev] = task
				mu.Unlock()
				if s, err := l.State(t.Context()); err != nil {
					t.Error(err)
				} else {
					states <- s
				}
			}
		})
	}
	all.Wait()
	close(states)
	if len(saved) != writers*each {
		t.Fatalf("%d different revs", len(saved))
	}
	for s := range states {
		want := make(map[string]Task)
		for rev := int64(1); rev <= s.Rev; rev++ {
			if task := saved[rev]; task.Deleted {
				delete(want, task.ID)
			} else {
				want[task.ID] = task
			}
		}
		if len(want) != len(s.Tasks) {
			t.Fatalf("at rev %d there are %d tasks, want %d", s.Rev, len(s.Tasks), len(want))
		}
		for _, task := range s.Tasks {
			if task != want[task.ID] {
				t.Fatalf("at rev %d: %v, want %v", s.Rev, task, want[task.ID])
			}
		}
	}
}

func TestTaskIsChecked(t *testing.T) {
	for _, c := range []struct {
		task Task
		good bool
	}{
		{Task{ID: "a", Text: "milk"}, true},
		{Task{ID: "a", Deleted: true}, true},
		{Task{Text: "milk"}, false},
		{Task{ID: "a"}, false},
	} {
		if err := c.task.check(); (err == nil) != c.good {
			t.Errorf("%v: %v", c.task, err)
		}
	}
}
