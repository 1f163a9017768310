package natsbroker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func openNote(t *testing.T, e *notes) (n *noteFile, void bool) {
	t.Helper()
	n, void, err := e.open("CHAT")
	if err != nil {
		t.Fatal(err)
	}
	return n, void
}

// died leaves the notes as a killed process does.
func (e *notes) died() {
	for _, n := range e.all {
		n.file.Close()
	}
}

func TestNotesSurviveTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ends")
	e, err := openNotes(dir, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	n, void := openNote(t, e)
	if void {
		t.Error("a stream without a note is suspected")
	}
	if err := n.begin(note{sequence: 3}); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	n.saw(7, at)
	n.saw(5, at.Add(time.Hour)) // an older message that comes late
	n.saw(9, time.Time{})
	n.counted(8, 2)
	e.died()

	if e, err = openNotes(dir, []string{"CHAT"}, false); err != nil {
		t.Fatal(err)
	}
	n, void = openNote(t, e)
	if want := (note{sequence: 9, timedSequence: 7, timedAt: at.UnixNano(), countedTo: 8, deleted: 2}); void || n.known() != want {
		t.Errorf("note %+v, void %v, want %+v", n.known(), void, want)
	}
	if err := e.close(dir); err != nil {
		t.Fatal(err)
	}
	if life, err := os.ReadFile(filepath.Join(dir, "running")); err != nil || !strings.HasPrefix(string(life), stopped+" ") {
		t.Errorf("the folder says that a server runs: %q, %v", life, err)
	}
}

// A note is void if its stream may have lost messages that the note counts.
func TestNotesAreVoid(t *testing.T) {
	for _, c := range []struct {
		name   string
		synced bool
		change func(t *testing.T, dir string)
		void   bool
	}{
		{"killed", false, func(*testing.T, string) {}, false},
		{"power cut", false, otherBoot, true},
		{"power cut, all on the disk", true, func(*testing.T, string) {}, false},
		{"stopped, then switched off", false, func(t *testing.T, dir string) { overwrite(filepath.Join(dir, "running"), stopped) }, false},
		{"nobody knows how it ended", false, func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "running")) }, true},
		{"no notes", false, func(t *testing.T, dir string) { os.RemoveAll(dir) }, true},
		{"empty running", false, func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, "running"), 0) }, true},
		{"cut note", false, func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, "CHAT.end"), 20) }, true},
		{"copied back", false, func(t *testing.T, dir string) {
			path := filepath.Join(dir, "CHAT.end")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path+"2", b, 0o600); err != nil { // it is made first, so it has another number
				t.Fatal(err)
			}
			if err := os.Rename(path+"2", path); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ends")
			e, err := openNotes(dir, nil, c.synced)
			if err != nil {
				t.Fatal(err)
			}
			n, _ := openNote(t, e)
			if err := n.begin(note{sequence: 3}); err != nil {
				t.Fatal(err)
			}
			e.died()
			c.change(t, dir)
			// Also if the next process is killed before it compares the stream.
			for range 2 {
				if e, err = openNotes(dir, []string{"CHAT"}, c.synced); err != nil {
					t.Fatal(err)
				}
			}
			// The note stays void until the stream has another epoch, which may need several
			// attempts.
			n, void := openNote(t, e)
			if _, again := openNote(t, e); void != c.void || again != c.void {
				t.Errorf("void is %v, then %v, note %+v", void, again, n.known())
			}
			if err := n.begin(note{sequence: 3}); err != nil {
				t.Fatal(err)
			}
			if _, void := openNote(t, e); void {
				t.Error("the note is void after it has begun again")
			}
		})
	}
}

// A note is void after a loss of power even if its stream has no files here: the stream is in
// memory, or the node has lost the files and gets them from the other nodes.
func TestNoteOfAStreamWithoutFilesIsVoid(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a [folder]")
	e, err := openNotes(dir, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := openNote(t, e)
	if err := n.begin(note{sequence: 3}); err != nil {
		t.Fatal(err)
	}
	e.died()
	otherBoot(t, dir)
	if e, err = openNotes(dir, nil, false); err != nil {
		t.Fatal(err)
	}
	if n, void := openNote(t, e); !void {
		t.Errorf("the note is %+v", n.known())
	}
}

// otherBoot makes it appear that the machine was restarted.
func otherBoot(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "running"), []byte("11111111-2222-3333-4444-555555555555\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func FuzzNote(f *testing.F) {
	n := &noteFile{number: 5}
	f.Add(n.encode())
	n.note = note{1, 2, 3, 4, 5}
	f.Add(n.encode())
	f.Add([]byte("?\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := &noteFile{number: 5}
		if n.decode(b) && string(n.encode()) != string(b) {
			t.Error("another note")
		}
	})
}
