package natsbroker

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats-server/v2/server"
)

// store is the folder of an embedded server. While it is open, no other server uses it.
type store struct {
	dir         string // absolute; "": no folder, since the node stores nothing
	node        string // the name of the node
	isTemporary bool   // dir is removed at the end
	notes       *notes // nil: no streams are kept in dir after the process
	lock        io.Closer
}

var errLocked = errors.New("locked")

// lockPatience is how long a store may be locked by the process before this one. A process that
// is being started by another holds a copy of all its files, with their locks, until it runs a
// program of its own.
const lockPatience = 200 * time.Millisecond

// lockStore is lockFile with patience.
func lockStore(path string) (unlock io.Closer, err error) {
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 20) {
		unlock, err = lockFile(path)
		if !errors.Is(err, errLocked) || time.Now().After(end) {
			return unlock, err
		}
	}
}

// openStore makes and locks the folder of o, and finds the node's name.
func openStore(o Options) (*store, error) {
	s := &store{dir: o.StoreDir}
	if s.dir == "" && o.Cluster != nil && o.Cluster.NoStore {
		return s, s.chooseNode(o)
	}
	if err := s.makeDir(); err != nil {
		return nil, fmt.Errorf("natsbroker: store: %w", err)
	}
	lock, err := lockStore(filepath.Join(s.dir, "lock"))
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("natsbroker: store %q is in use by another process", s.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("natsbroker: store: %w", err)
	}
	s.lock = lock
	if err := s.prepare(o); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// prepare does everything that needs the lock.
func (s *store) prepare(o Options) error {
	if err := s.chooseNode(o); err != nil {
		return err
	}
	if err := s.checkOwner(o.Cluster); err != nil {
		return err
	}
	if s.isTemporary || o.Cluster != nil && o.Cluster.NoStore {
		return nil
	}
	var err error
	if s.notes, err = openNotes(filepath.Join(s.dir, "ends"), s.streams(), o.SyncAlways); err != nil {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	return nil
}

// streams returns the names of the streams in the folder. It ignores errors, since the server
// reports those.
func (s *store) streams() (names []string) {
	all, _ := os.ReadDir(filepath.Join(s.dir, server.JetStreamStoreDir, server.DEFAULT_GLOBAL_ACCOUNT, "streams"))
	for _, entry := range all {
		names = append(names, entry.Name())
	}
	return names
}

func (s *store) makeDir() (err error) {
	if s.dir == "" {
		s.isTemporary = true
		s.dir, err = os.MkdirTemp("", "livetopic-nats-")
		return err
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	return os.MkdirAll(s.dir, 0o700) // messages are private
}

// checkOwner returns an error if the folder has streams that would be lost. Half a minute after
// its start, a node of a cluster deletes the streams that the cluster does not know. A server
// that is alone does not load the streams of a cluster. The file "owner" says who made the
// streams.
func (s *store) checkOwner(c *Cluster) error {
	if c != nil && c.NoStore {
		return nil
	}
	owner := "a server that is alone"
	if c != nil {
		owner = fmt.Sprintf("the cluster %q", c.name())
	}
	file := filepath.Join(s.dir, "owner")
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	former := strings.TrimSpace(string(b))
	if former == owner || s.isTemporary {
		return nil
	}
	if len(s.streams()) > 0 && former != "" {
		return fmt.Errorf("natsbroker: store %q has streams of %s, which would be lost in %s: "+
			"use another StoreDir, or move them with \"nats stream backup\"", s.dir, former, owner)
	}
	if err := writeFile(file, owner+"\n"); err != nil {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	return nil
}

// nodeNameLength is the length of a random node name. It gives 60 bits, so a million nodes are
// unlikely to choose the same name.
const nodeNameLength = 12

// chooseNode sets the node's name: the name in o, or the name that the folder has had so far,
// or a random name. A folder keeps its name. To a cluster, a node with another name is a new
// node, and the former node is missing for ever.
func (s *store) chooseNode(o Options) error {
	if err := checkNodeName(o.Name); o.Name != "" && err != nil {
		return fmt.Errorf("natsbroker: Options.Name: %w", err)
	}
	file := filepath.Join(s.dir, "node")
	former, err := s.readNode(file)
	if err != nil {
		return err
	}
	switch {
	case o.Name == "" && former == "":
		s.node = rand.Text()[:nodeNameLength]
	case o.Name == "" || o.Name == former:
		s.node = former
		return nil
	case former != "" && o.Cluster != nil && !o.Cluster.NoStore:
		return fmt.Errorf("natsbroker: store %q belongs to node %q, not to %q: give each node its own StoreDir and keep its Name", s.dir, former, o.Name)
	default:
		s.node = o.Name
	}
	if s.dir == "" || s.isTemporary {
		return nil
	}
	if err := writeFile(file, s.node+"\n"); err != nil {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	return nil
}

// readNode returns the name in the file; "": there is no file.
func (s *store) readNode(file string) (string, error) {
	if s.dir == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("natsbroker: store: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if err := checkNodeName(name); err != nil {
		return "", fmt.Errorf("natsbroker: %s: %w", file, err)
	}
	return name, nil
}

func checkNodeName(name string) error {
	odd := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if name == "" || strings.ContainsFunc(name, odd) {
		return fmt.Errorf("%q cannot be the name of a node: it is empty or has blanks", name)
	}
	return nil
}

// writeFile replaces a file as a whole or leaves it as it is. Only one process may write it at
// a time.
func writeFile(path, content string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// close unlocks the folder, and removes a temporary folder.
func (s *store) close() error {
	var err error
	if s.notes != nil {
		err = s.notes.close(s.dir)
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close()) // before the folder is removed: Windows removes no open files
	}
	if s.isTemporary {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	if err != nil {
		return fmt.Errorf("natsbroker: store: %w", err)
	}
	return nil
}
