package sqlitestore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
)

// scripted is a driver whose connections return what a test sets. By default they answer like an
// SQLite file that is ready.
type scripted struct {
	mu     sync.Mutex
	answer func(ctx context.Context, query string) error // nil: no error
	opened int                                           // connections
}

func (d *scripted) Connect(ctx context.Context) (driver.Conn, error) {
	d.mu.Lock()
	d.opened++
	d.mu.Unlock()
	if err := d.ask(ctx, "open"); err != nil {
		return nil, err
	}
	return &scriptedConn{d}, nil
}

func (d *scripted) Driver() driver.Driver { return nil }

func (d *scripted) ask(ctx context.Context, query string) error {
	d.mu.Lock()
	answer := d.answer
	d.mu.Unlock()
	if answer == nil {
		return nil
	}
	return answer(ctx, query)
}

func (d *scripted) setAnswer(answer func(ctx context.Context, query string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = answer
}

type scriptedConn struct{ d *scripted }

func (c *scriptedConn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not prepared") }

func (c *scriptedConn) Close() error { return nil }

func (c *scriptedConn) Begin() (driver.Tx, error) { return nil, errors.New("no transaction") }

func (c *scriptedConn) ExecContext(ctx context.Context, query string, _ []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), c.d.ask(ctx, query)
}

func (c *scriptedConn) QueryContext(ctx context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	if err := c.d.ask(ctx, query); err != nil {
		return nil, err
	}
	switch {
	case strings.Contains(query, "journal_mode"):
		return &scriptedRows{row: []driver.Value{"wal"}}, nil
	case strings.Contains(query, "pragma_database_list"):
		return &scriptedRows{row: []driver.Value{"/app.db"}}, nil
	case strings.Contains(query, "pragma_table_info"):
		return &scriptedRows{row: []driver.Value{int64(4), int64(1)}}, nil
	case strings.Contains(query, "busy_timeout"):
		return &scriptedRows{row: []driver.Value{int64(5000)}}, nil
	case strings.Contains(query, "SELECT data, version"):
		return &scriptedRows{row: []driver.Value{[]byte("1"), int64(1), int64(1)}}, nil
	}
	return &scriptedRows{row: []driver.Value{"a", []byte("1")}}, nil
}

type scriptedRows struct {
	row  []driver.Value
	done bool
}

func (r *scriptedRows) Columns() []string { return make([]string, len(r.row)) }

func (r *scriptedRows) Close() error { return nil }

func (r *scriptedRows) Next(row []driver.Value) error {
	if r.done {
		return io.EOF
	}
	r.done = true
	copy(row, r.row)
	return nil
}

// newScripted returns a store on a scripted driver, which ends with the test.
func newScripted(t *testing.T) (*Store, *scripted) {
	t.Helper()
	d := &scripted{}
	db := sql.OpenDB(d)
	t.Cleanup(func() { db.Close() })
	s, err := New(db)
	if err != nil {
		t.Fatal(err)
	}
	return s, d
}
