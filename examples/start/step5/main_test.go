package main

import (
	"path/filepath"
	"testing"

	"github.com/livetopic/livetopic/live/livetest"
)

func TestOnlyAnaEntersTheOffice(t *testing.T) {
	db, err := openDB(filepath.Join(t.TempDir(), "wall.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	srv := livetest.New(t, options(db))
	ana := srv.Dial(livetest.Value("ana"))
	ben := srv.Dial(livetest.Value("ben"))

	ana.Subscribe("wall:office")
	ben.Subscribe("wall:lobby")
	ben.ExpectError("forbidden", func() { ben.Subscribe("wall:office") })

	srv.Publish("wall:office", Note{ID: 1, Room: "office", By: "ana", Text: "secret"})
	ana.ExpectState("wall:office", []Note{})
	ana.Expect("wall:office", Note{ID: 1, Room: "office", By: "ana", Text: "secret"})
	ben.ExpectNothing()
}
