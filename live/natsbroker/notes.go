package natsbroker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// notes notes beside the streams of an embedded server how far each of them has come. A
// server that starts compares: a stream that has less has lost its end, and would give the
// numbers of what it lost to other publications.
//
// The notes are written and not synced, so they survive what the streams survive: a process
// that is killed, but not a machine that loses power. Of that the file "running" tells: it says
// in which start of the machine a server has run, or that it has stopped.
type notes struct {
	dir string

	mu  sync.Mutex // guards all
	all map[string]*noteFile
}

// openNotes opens the folder of the notes. streams are the names of those that the store has.
// synced: they have everything on the disk before it is acknowledged.
func openNotes(dir string, streams []string, synced bool) (*notes, error) {
	e := &notes{dir: dir, all: make(map[string]*noteFile)}
	running := filepath.Join(dir, "running")
	life, err := os.ReadFile(running)
	if errors.Is(err, fs.ErrNotExist) { // of streams that are there nobody knows where they end
		life, err = nil, os.MkdirAll(dir, 0o700)
	}
	if err == nil && !survives(string(life)) {
		err = e.voidAll(streams)
	}
	if err != nil {
		return nil, err
	}
	now := bootID()
	if synced {
		now = onDisk
	}
	return e, errors.Join(overwrite(running, now), syncDir(dir))
}

// voidAll makes all notes void, on the disk, with those of streams that have none. A stream may
// have a note and nothing else: one in memory, or one that a node gets from the others again.
func (notes *notes) voidAll(streams []string) error {
	files, err := os.ReadDir(notes.dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if name, isNote := strings.CutSuffix(file.Name(), noteSuffix); isNote {
			streams = append(streams, name)
		}
	}
	for _, name := range streams {
		if err := overwrite(notes.path(name), "?"); err != nil {
			return err
		}
	}
	return syncDir(notes.dir)
}

// overwrite writes a line into a file, which needs no space on the disk if the file is there: a
// server must start on a full one.
func overwrite(path, line string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%-*s\n", noteSize-1, line)
	return errors.Join(err, f.Sync(), f.Close())
}

// noteSuffix is what the names of notes end with.
const noteSuffix = ".end"

func (notes *notes) path(stream string) string { return filepath.Join(notes.dir, stream+noteSuffix) }

// What stands in "running" instead of a start of the machine: what is acknowledged is on the
// disk; the server has stopped.
const onDisk, stopped = "synced", "stopped"

// survives reports whether the streams have everything that was acknowledged in a life of
// the server.
func survives(life string) bool {
	life = strings.TrimSpace(life)
	return life == onDisk || life == stopped || life != "" && life == bootID()
}

// close says that the server has stopped, and everything in the store is on the disk.
func (notes *notes) close(store string) error {
	notes.mu.Lock()
	defer notes.mu.Unlock()
	for _, n := range notes.all {
		n.file.Close()
	}
	err := filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // removed meanwhile, by the server itself
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil
		}
		defer f.Close()
		return f.Sync()
	})
	if err != nil {
		return err // "running" stays as it is: who knows what is on the disk
	}
	return overwrite(filepath.Join(notes.dir, "running"), stopped)
}

// noteFile is the note of one stream.
type noteFile struct {
	file   *os.File
	number uint64 // of the file

	mu   sync.Mutex // guards what follows
	note note
}

// note is what is known of a stream's end.
type note struct {
	sequence      uint64 // the greatest
	timedSequence uint64 // the greatest of which the time is known; 0: of none
	timedAt       int64  // when that was stored, in Unix nanoseconds
	countedTo     uint64 // when the stream was last looked at: its last sequence,
	deleted       uint64 // and how many it lacked before that
}

// noteSize is a note's in the file: its numbers, the file's own number and a check.
const noteSize = 7 * 8

// open returns the note of a stream. Void says that there is one that tells nothing: the stream
// may have lost its end. A stream without a note was made elsewhere, or is new.
func (notes *notes) open(stream string) (n *noteFile, void bool, err error) {
	notes.mu.Lock()
	defer notes.mu.Unlock()
	if n = notes.all[stream]; n != nil {
		return n, false, nil
	}
	f, err := os.OpenFile(notes.path(stream), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	n = &noteFile{file: f, number: fileNumber(f)}
	b, err := io.ReadAll(io.LimitReader(f, noteSize+1))
	if err != nil {
		f.Close()
		return nil, false, err
	}
	notes.all[stream] = n
	return n, len(b) > 0 && !n.decode(b), nil
}

func (n *noteFile) encode() []byte {
	var b [noteSize]byte
	var check uint64 = 1 // zeros are no note
	for i, v := range []uint64{n.note.sequence, n.note.timedSequence, uint64(n.note.timedAt), n.note.countedTo, n.note.deleted, n.number} {
		binary.LittleEndian.PutUint64(b[i*8:], v)
		check = check*31 + v
	}
	binary.LittleEndian.PutUint64(b[noteSize-8:], check)
	return b[:]
}

// decode reports false if the note is damaged, or of another file: one that was copied back
// from somewhere comes from an earlier time.
func (n *noteFile) decode(b []byte) bool {
	if len(b) != noteSize {
		return false
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(b[i*8:]) }
	n.note = note{sequence: at(0), timedSequence: at(1), timedAt: int64(at(2)), countedTo: at(3), deleted: at(4)}
	if string(n.encode()) == string(b) {
		return true
	}
	n.note = note{}
	return false
}

// saw takes note of a sequence that the stream has; at is when it was stored, zero: unknown.
func (n *noteFile) saw(sequence uint64, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	timed := !at.IsZero() && sequence > n.note.timedSequence
	if sequence <= n.note.sequence && !timed {
		return
	}
	n.note.sequence = max(n.note.sequence, sequence)
	if timed {
		n.note.timedSequence, n.note.timedAt = sequence, at.UnixNano()
	}
	n.write()
}

// counted takes note of how many messages a stream lacks up to its last.
func (n *noteFile) counted(last, deleted uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.note.countedTo != last || n.note.deleted != deleted {
		n.note.countedTo, n.note.deleted = last, deleted
		n.write()
	}
}

// isBehind reports whether the stream has come further than when it was counted last.
func (n *noteFile) isBehind() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.note.countedTo < n.note.sequence
}

// begin writes the first note after the stream was compared with the one before.
func (n *noteFile) begin(first note) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note = first
	if _, err := n.file.WriteAt(n.encode(), 0); err != nil {
		return err
	}
	return n.file.Sync()
}

// write overwrites the note, which takes a microsecond. An error is none of the publication's,
// and the note stays as it was: then the end is found earlier than it is, at worst.
func (n *noteFile) write() { n.file.WriteAt(n.encode(), 0) }

func (n *noteFile) known() note {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.note
}

// syncDir has the names in a folder on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
