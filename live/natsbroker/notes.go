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

// notes are files beside the streams of an embedded server. Each note holds how far its stream
// has come. A server that starts compares the two. A stream that has less than its note has
// lost its end, and would give the sequences of the lost messages to other publications.
//
// The notes are written without a sync, like the streams. So they survive a process that is
// killed, but may not survive a machine that loses power. The file "running" tells of that
// case: it names the start of the machine in which the server ran, or says that the server has
// stopped.
type notes struct {
	dir string

	mu  sync.Mutex // guards all
	all map[string]*noteFile
}

// openNotes opens the folder of the notes. streams are the names of the streams in the store.
// synced says that these are synced to the disk before each acknowledgement.
func openNotes(dir string, streams []string, synced bool) (*notes, error) {
	e := &notes{dir: dir, all: make(map[string]*noteFile)}
	running := filepath.Join(dir, "running")
	life, err := os.ReadFile(running)
	if errors.Is(err, fs.ErrNotExist) { // if the store has streams, nobody knows where they ended
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

// voidAll makes all notes void, on the disk, and writes a void note for each stream without a
// note. A note without a stream in the store may belong to a stream in memory, or to a stream
// that this node will get from the other nodes again.
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

// overwrite writes a line into a file. If the file exists, this takes no more space on the
// disk, and a server must start with a full disk.
func overwrite(path, line string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%-*s\n", noteSize-1, line)
	return errors.Join(err, f.Sync(), f.Close())
}

// noteSuffix is the end of a note's file name.
const noteSuffix = ".end"

func (notes *notes) path(stream string) string { return filepath.Join(notes.dir, stream+noteSuffix) }

// The file "running" may hold one of these words instead of a start of the machine. onDisk:
// everything that is acknowledged is on the disk. stopped: the server has stopped.
const onDisk, stopped = "synced", "stopped"

// survives reports whether the streams still have all that was acknowledged while "running"
// held these words.
func survives(life string) bool {
	life = strings.TrimSpace(life)
	return life == onDisk || life == stopped || life != "" && life == bootID()
}

// close syncs all files of the store, and then notes that the server has stopped.
func (notes *notes) close(store string) error {
	notes.mu.Lock()
	defer notes.mu.Unlock()
	for _, n := range notes.all {
		n.file.Close()
	}
	err := filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // the server itself has removed it meanwhile
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil
		}
		defer f.Close()
		return f.Sync()
	})
	if err != nil {
		return err // "running" stays as it is, since nobody knows what is on the disk
	}
	return overwrite(filepath.Join(notes.dir, "running"), stopped)
}

// noteFile is the file with the note of one stream.
type noteFile struct {
	file   *os.File
	number uint64 // tells the file from a copy of it; see fileNumber

	mu     sync.Mutex // guards the fields below
	note   note
	isVoid bool // the file tells nothing, and begin was not called yet
}

// note is what is known of a stream's end.
type note struct {
	sequence      uint64 // the greatest sequence
	timedSequence uint64 // the greatest sequence whose time is known; 0: there is none
	timedAt       int64  // when that message was stored, in Unix nanoseconds
	countedTo     uint64 // the last sequence when the messages were last counted; 0: they are not counted
	deleted       uint64 // the messages that were missing before countedTo then
}

// noteSize is the size of a note in the file: its numbers, the number of the file and a
// checksum.
const noteSize = 7 * 8

// open returns the note of a stream. void says that the file exists but tells nothing, so the
// stream may have lost its end. It says so until begin is called: the first attempt to give the
// stream another epoch may fail. A stream without a file is new, or was made elsewhere.
func (notes *notes) open(stream string) (n *noteFile, void bool, err error) {
	notes.mu.Lock()
	defer notes.mu.Unlock()
	if n = notes.all[stream]; n != nil {
		return n, n.void(), nil
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
	n.isVoid = len(b) > 0 && !n.decode(b)
	notes.all[stream] = n
	return n, n.isVoid, nil
}

func (n *noteFile) encode() []byte {
	var b [noteSize]byte
	var check uint64 = 1 // starts at 1, so that zeros are not a valid note
	for i, v := range []uint64{n.note.sequence, n.note.timedSequence, uint64(n.note.timedAt), n.note.countedTo, n.note.deleted, n.number} {
		binary.LittleEndian.PutUint64(b[i*8:], v)
		check = check*31 + v
	}
	binary.LittleEndian.PutUint64(b[noteSize-8:], check)
	return b[:]
}

// decode reports false if the note is damaged, or if its file is a copy: a copy may come from
// an earlier time.
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

// saw notes a sequence that the stream has. at is when the message was stored; zero: unknown.
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

// counted notes how many messages before its last sequence a stream lacks.
func (n *noteFile) counted(last, deleted uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.note.countedTo != last || n.note.deleted != deleted {
		n.note.countedTo, n.note.deleted = last, deleted
		n.write()
	}
}

// begin replaces the note, after the stream was compared with the former note. It syncs the
// file.
func (n *noteFile) begin(first note) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note, n.isVoid = first, false
	if _, err := n.file.WriteAt(n.encode(), 0); err != nil {
		return err
	}
	return n.file.Sync()
}

// write writes the note, which takes a microsecond. An error must not fail the publication.
// Then the note stays as it was, and the next process expects an earlier end of the stream.
func (n *noteFile) write() { n.file.WriteAt(n.encode(), 0) }

func (n *noteFile) void() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.isVoid
}

func (n *noteFile) known() note {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.note
}

// syncDir syncs the names in a folder to the disk.
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
