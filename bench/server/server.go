// Package server holds the servers under test, each used as its users use it,
// and the process in which one of them runs.
package server

import (
	"net"
	"net/http"
	"time"

	"github.com/livetopic/livetopic/bench/wire"
)

// Options are the same for every server. The zero value of all but Queue is what most
// workloads want.
type Options struct {
	// Queue is how many messages may wait for one session, where the server
	// counts messages.
	Queue int
	// Topic is the topic that every session is subscribed to when it connects.
	Topic string
	// Greeting is then sent to the session on Topic, so that it knows that it is subscribed.
	Greeting []byte
	// Auth is how long a client's sign-in takes, before the upgrade.
	Auth time.Duration
	// TLS has the process serve over TLS.
	TLS bool
	// History is how many publications of a topic are kept, on servers that can.
	History map[string]int
}

// serve is http.Serve for a handler that signs nobody in.
func (o Options) serve(l net.Listener, h http.HandlerFunc) error {
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(o.Auth)
		h(w, r)
	}))
}

// Server is one server under test. Sessions subscribe with a message, or are subscribed
// to Options.Topic; what else a session sends is published to the topic that it names.
type Server interface {
	// Serve accepts sessions at path "/" until the process ends.
	Serve(net.Listener) error
	// Publish sends data to all subscribers of the topic.
	Publish(topic string, data []byte) error
	// Subscriptions is how many there are.
	Subscriptions() int
}

// Preparer is a Server that prepares a burst before the measuring begins: the floor, which
// writes ready bytes, and the server whose publications come from another process.
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

	// NoHook says that the server has no callback for a new session. So the session is
	// subscribed only when it asks.
	NoHook bool
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
