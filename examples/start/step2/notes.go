package main

import (
	"context"
	"database/sql"

	_ "modernc.org/sqlite"
)

// Note is a row of the database, and also what is published.
type Note struct {
	ID   int64  `json:"id"`
	Room string `json:"room"`
	By   string `json:"by"`
	Text string `json:"text"`
}

func openDB(file string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)")
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(`CREATE TABLE IF NOT EXISTS notes
		(id INTEGER PRIMARY KEY, room TEXT NOT NULL, by TEXT NOT NULL, text TEXT NOT NULL)`)
	return db, err
}

// addNote stores a note and sets its ID.
func addNote(ctx context.Context, db *sql.DB, n *Note) error {
	return db.QueryRowContext(ctx, `INSERT INTO notes (room, by, text) VALUES (?, ?, ?) RETURNING id`,
		n.Room, n.By, n.Text).Scan(&n.ID)
}

// notesOf returns the notes of a room.
func notesOf(ctx context.Context, db *sql.DB, room string) ([]Note, error) {
	rows, err := db.QueryContext(ctx, `SELECT id, room, by, text FROM notes WHERE room = ? ORDER BY id`, room)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	notes := []Note{}
	for rows.Next() {
		var n Note
		if err := rows.Scan(&n.ID, &n.Room, &n.By, &n.Text); err != nil {
			return nil, err
		}
		notes = append(notes, n)
	}
	return notes, rows.Err()
}
