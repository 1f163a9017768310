// Package server holds the servers under test, each used as its users use it,
// and the process in which one of them runs.
package server

import (
	"net"

	"github.com/livetopic/livetopic/bench/wire"
)

// Options are the same for every server.
type Options struct {
	// Queue is how many messages may wait for one session, where the server
	// counts messages.
	Queue int
}

// Server is one server under test. Sessions subscribe with a message; what else
// a session sends is published to the topic that it names.
type Server interface {
	// Serve accepts sessions at path "/" until the process ends.
	Serve(net.Listener) error
	// Publish sends data to all subscribers of the topic.
	Publish(topic string, data []byte) error
	// Subscriptions is how many there are.
	Subscriptions() int
}

// Preparer is a Server that makes things ready ahead of the measurement: the floor,
// whose point it is, and one whose publications come from elsewhere.
type Preparer interface {
	// Prepare returns a function that sends all of the publications.
	Prepare([]wire.Publication) (publish func() error)
}

// Role says how a server counts in the reports.
type Role int

const (
	Subject Role = iota // the library that this program belongs to
	Variant             // the same, set up in another way
	Peer                // what else a Go developer would use
	Floor               // what no server can beat without writing less often
)

// Kind is a server that can be started by name.
type Kind struct {
	Name    string // on the command line and in the tables
	Module  string // whose version the report states; empty: none
	About   string // how it is used here
	Role    Role
	Dialect wire.Dialect
	New     func(Options) (Server, error)
}

var kinds []Kind

// Register adds a server after the ones that are there.
func Register(k Kind) { kinds = append(kinds, k) }

// Kinds returns all servers in the order of the tables.
func Kinds() []Kind { return kinds }

// Lookup finds a server by name.
func Lookup(name string) (Kind, bool) {
	for _, k := range kinds {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{}, false
}

func init() {
	Register(liveKind)
	Register(natsKind)

	Register(mizuKind)
	Register(melodyKind)
	Register(gorillaKind)
	Register(gwsKind)
	Register(coderKind)
	Register(centrifugeKind)
	Register(floorKind)
}
