package live

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// Node is a server of the Broker, with its figures.
type Node struct {
	// ID names the server. It is random, and a server has another ID after each start.
	ID string

	// Name is the server's Options.NodeName.
	Name string

	// Since is when the server was made, on the clock of the server whose Nodes was called.
	Since time.Time

	// Self says that this is the server whose Nodes was called.
	Self bool

	// Draining says that Shutdown was called. The server leaves the list when Shutdown returns.
	Draining bool

	// Stats has the figures of the server. Those of another server are up to two seconds old, and
	// older while it is cut off. A server of an older version may not know a figure. It is then 0.
	Stats Stats

	// Heard is when the figures came, on the clock of the server whose Nodes was called.
	Heard time.Time
}

// Nodes returns the servers of the Broker, in the order of their names. This server is always among
// them. Each server tells the others about itself every two seconds. So a new server is in the list
// two seconds after it has reached them. A server that is killed or cut off leaves the list after
// nine seconds. If the Broker serves one process only, this server is the only one.
//
// The figures may be added up. A session counts at one server. A topic with subscribers at two
// servers counts at both.
func (s *Server) Nodes() []Node {
	now := time.Now()
	s.mu.Lock()
	draining := s.isDraining()
	s.mu.Unlock()
	all := append(s.nodes.list(now), Node{
		ID:       s.nodes.id,
		Name:     s.opts.NodeName,
		Since:    s.nodes.since,
		Self:     true,
		Draining: draining,
		Stats:    s.Stats(),
		Heard:    now,
	})
	slices.SortFunc(all, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return all
}

const (
	// nodeBeatEvery is the time between two beats of a server. A person who looks at the figures
	// waits that long for new ones. A beat has half a kilobyte, so it costs little.
	nodeBeatEvery = 2 * time.Second

	// nodeDeadAfter is how long a server may be silent before it counts as dead. Four beats in a
	// row must be lost until a living server counts as dead. Presence has the same bound.
	nodeDeadAfter = 9 * time.Second

	// maxNodes bounds how many other servers are known. No application has as many. Without a
	// bound, a program that may publish to the bus could fill the memory.
	maxNodes = 1024

	// maxNodeBeat bounds the bytes of a beat. Today a beat has less than one kilobyte. Later
	// versions may tell more.
	maxNodeBeat = 16 << 10

	// maxNodeAge bounds the age that a beat may tell. No process is as old, and a Duration holds it.
	maxNodeAge = 100 * 365 * 24 * time.Hour

	// maxNodeName bounds the bytes of a name, as a host's name is bounded. All servers hold it.
	maxNodeName = 255
)

// nodeBeat is the JSON that a server sends about itself. A server ignores fields that it does not
// know, so later versions may add fields, also to Stats.
type nodeBeat struct {
	Number   uint64 `json:"number"` // 1, 2, and so on: the bus may repeat beats, and change their order
	Name     string `json:"name"`
	Age      int64  `json:"age"` // milliseconds since the server was made
	Draining bool   `json:"draining,omitempty"`
	Gone     bool   `json:"gone,omitempty"` // this is the last beat
	Stats    Stats  `json:"stats"`
}

// age returns how long ago the server was made. A program that may publish to the bus may say anything.
func (b *nodeBeat) age() time.Duration {
	return time.Duration(min(max(b.Age, 0), maxNodeAge.Milliseconds())) * time.Millisecond
}

// nodes knows the other servers of the Broker, and tells them about this server.
type nodes struct {
	server *Server
	id     string    // of this server
	since  time.Time // when this server was made

	// sending is a lock: it holds one element while a beat is sent. It guards the two fields below,
	// and is taken before all other locks.
	sending  chan struct{}
	sent     uint64 // number of the newest beat
	sentLast bool   // the last beat was sent, and no other may follow

	mu     sync.Mutex            // guards the fields below; no other lock is taken under it
	others map[string]*otherNode // by ID
	timer  *time.Timer           // for the next beat; nil: no beat is due, because this server is alone or has stopped
}

// otherNode is another server.
type otherNode struct {
	beat  nodeBeat  // the newest
	heard time.Time // when beat came
	since time.Time // when the server was made, on the clock of this server
}

func (n *nodes) init(s *Server) {
	n.server = s
	n.id = randomID()
	n.since = time.Now()
	n.sending = make(chan struct{}, 1)
	n.others = make(map[string]*otherNode)
}

// start begins the beats. They end with stop.
func (n *nodes) start() {
	if n.server.isAlone() {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.timer = time.AfterFunc(0, n.beat)
}

// beat tells the other servers about this one, and sets the timer for the next beat. The timer calls
// it.
func (n *nodes) beat() {
	n.tell(false)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.timer != nil {
		n.timer.Reset(nodeBeatEvery)
	}
}

// hurry has the next beat sent at once, because there is news.
func (n *nodes) hurry() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.timer != nil {
		n.timer.Reset(0)
	}
}

// stop ends the beats, and tells the other servers that this one is gone.
func (n *nodes) stop() {
	n.mu.Lock()
	timer := n.timer
	n.timer = nil
	n.mu.Unlock()
	if timer == nil {
		return
	}
	timer.Stop()
	told := make(chan struct{})
	go func() { // ends when the bus has taken the beat
		defer close(told)
		n.tell(true)
	}()
	select {
	case <-told:
	case <-time.After(brokerTimeout): // the bus hangs, and Shutdown must not
	}
}

// tell sends a beat to all servers. gone says that it is the last beat.
func (n *nodes) tell(gone bool) {
	n.sending <- struct{}{}
	defer func() { <-n.sending }()
	if n.sentLast {
		return // the timer has called beat before stop, and beat has waited for the last beat
	}
	n.sent++
	n.sentLast = gone
	s := n.server
	s.mu.Lock()
	draining := s.isDraining()
	s.mu.Unlock()
	data, err := json.Marshal(nodeBeat{
		Number:   n.sent,
		Name:     s.opts.NodeName,
		Age:      time.Since(n.since).Milliseconds(),
		Draining: draining,
		Gone:     gone,
		Stats:    s.Stats(),
	})
	if err != nil {
		panic(err) // it has only numbers and strings
	}
	ctx, cancel := context.WithTimeout(context.Background(), brokerTimeout)
	defer cancel()
	s.callSafely("Bus.Broadcast", "kind", "node", func() {
		if err := s.broadcast(ctx, encodeBroadcast(typeNode, n.id, data)); err != nil {
			// For debugging only: the broker itself logs that it cannot be reached.
			s.logOfClient(slog.LevelDebug, "live: the other servers were not told of this one", "err", err)
		}
	})
}

// hear handles a beat of the server with an ID.
func (n *nodes) hear(id string, data []byte) {
	if id == n.id {
		return
	}
	var b nodeBeat
	if len(id) > len(n.id) || len(data) > maxNodeBeat || json.Unmarshal(data, &b) != nil {
		n.server.logOfClient(slog.LevelWarn, "live: invalid beat of a server ignored", "bytes", len(data))
		return
	}
	b.Name = nodeName(b.Name)
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dropSilent(now)
	o := n.others[id]
	switch {
	case o == nil && len(n.others) == maxNodes:
		return
	case o == nil:
		o = &otherNode{since: now.Add(-b.age())}
		n.others[id] = o
	case b.Number <= o.beat.Number:
		return // an older beat, which comes late
	}
	o.beat, o.heard = b, now
}

// dropSilent forgets servers that have been silent for nodeDeadAfter; mu is held. A server that has
// sent its last beat is kept for as long. So an older beat that comes late does not bring it back.
func (n *nodes) dropSilent(now time.Time) {
	maps.DeleteFunc(n.others, func(_ string, o *otherNode) bool { return now.Sub(o.heard) >= nodeDeadAfter })
}

// list returns the other servers that have not sent their last beat.
func (n *nodes) list(now time.Time) []Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dropSilent(now)
	var all []Node
	for id, o := range n.others {
		if o.beat.Gone {
			continue
		}
		all = append(all, Node{
			ID:       id,
			Name:     o.beat.Name,
			Since:    o.since,
			Draining: o.beat.Draining,
			Stats:    o.beat.Stats,
			Heard:    o.heard,
		})
	}
	return all
}

// nodeName returns a name without the bytes that are too many or not UTF-8.
func nodeName(name string) string {
	return strings.ToValidUTF8(name[:min(len(name), maxNodeName)], "")
}

// defaultNodeName names a server after its process.
func defaultNodeName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return host + "/" + strconv.Itoa(os.Getpid())
}

// isAlone reports whether no other server can use the same Broker.
func (s *Server) isAlone() bool {
	_, isBus := s.opts.Broker.(broker.Bus)
	return !isBus || s.topics.inProcess
}
