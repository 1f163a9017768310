package main

import (
	"context"
	"database/sql"
	"errors"
)

// Task is one line of the list. Of two tasks with one ID a page shows that with the greater Rev, in whatever
// order they come.
type Task struct {
	ID      string `json:"id"` // the page that adds a task chooses it
	Text    string `json:"text"`
	Done    bool   `json:"done"`
	By      string `json:"by"` // who changed it last
	Rev     int64  `json:"rev"`
	Deleted bool   `json:"deleted,omitempty"`
}

// State is the whole list, with every change up to Rev.
type State struct {
	Tasks []Task `json:"tasks"`
	Rev   int64  `json:"rev"`
}

// List is the tasks in a database.
type List struct{ db *sql.DB }

// OpenList makes the tables if they are not there.
func OpenList(db *sql.DB) (*List, error) {
	_, err := db.Exec(`
		CREATE TABLE IF NOT EXISTS tasks (id TEXT PRIMARY KEY, text TEXT, done BOOL, by TEXT, rev INTEGER);
		CREATE TABLE IF NOT EXISTS revision (rev INTEGER);
		INSERT INTO revision SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM revision)`)
	return &List{db}, err
}

// State reads the list in one transaction.
func (l *List) State(ctx context.Context) (s State, err error) {
	tx, err := l.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return s, err
	}
	defer tx.Rollback()
	if err := tx.QueryRowContext(ctx, "SELECT rev FROM revision").Scan(&s.Rev); err != nil {
		return s, err
	}
	rows, err := tx.QueryContext(ctx, "SELECT id, text, done, by, rev FROM tasks ORDER BY rowid")
	if err != nil {
		return s, err
	}
	defer rows.Close()
	s.Tasks = []Task{}
	for rows.Next() {
		var t Task
		if err := rows.Scan(&t.ID, &t.Text, &t.Done, &t.By, &t.Rev); err != nil {
			return s, err
		}
		s.Tasks = append(s.Tasks, t)
	}
	return s, rows.Err()
}

// Save stores a task, and gives it the next Rev. SQLite has one writer at a time, so Revs grow as
// transactions are committed.
func (l *List) Save(ctx context.Context, t *Task) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	err = tx.QueryRowContext(ctx, "UPDATE revision SET rev = rev + 1 RETURNING rev").Scan(&t.Rev)
	if err == nil && t.Deleted {
		_, err = tx.ExecContext(ctx, "DELETE FROM tasks WHERE id = ?", t.ID)
	} else if err == nil {
		_, err = tx.ExecContext(ctx, `INSERT INTO tasks (id, text, done, by, rev) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET text = excluded.text, done = excluded.done, by = excluded.by, rev = excluded.rev`,
			t.ID, t.Text, t.Done, t.By, t.Rev)
	}
	if err != nil {
		return err
	}
	return tx.Commit()
}

var errBadTask = errors.New("a task has an id of at most 40 bytes, and a text of at most 200")

func (t *Task) check() error {
	if t.ID == "" || len(t.ID) > 40 || !t.Deleted && t.Text == "" || len(t.Text) > 400 {
		return errBadTask
	}
	return nil
}
