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
	// ID tells the server from all others. It is random, and new after each start.
	ID string

	// Name is the server's Options.NodeName.
	Name string

	// Since is when the server was made. The clock of the server that was asked for its Nodes
	// says so, not the other's.
	Since time.Time

	// Self says that this is the server that was asked.
	Self bool

	// Draining says that Shutdown was called. The server leaves the list when Shutdown returns.
	Draining bool

	// Stats are the figures of the server. Those of another server are up to two seconds old. A
	// figure that the other server does not know, because its version is older, is 0.
	Stats Stats

	// Heard is when the figures came.
	Heard time.Time
}

// Nodes returns the servers of the Broker, in the order of their names. This server is always among
// them. The others tell of themselves every two seconds, so a server that has started is there
// within two seconds of its connection to them. A server that is killed or cut off is gone after
// nine seconds. If the Broker serves one process only, there is only this server.
//
// The figures may be added up. A session is at one server. A topic with subscribers at two servers
// counts at both.
func (s *Server) Nodes() []Node {
	now := time.Now()
	s.mu.Lock()
	draining := s.draining
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
	// waits that long for new ones, and a beat is half a kilobyte.
	nodeBeatEvery = 2 * time.Second

	// nodeDeadAfter is after how long a silence a server is taken for dead. Four beats in a row
	// must be lost before a living server is. It is the same for presence.
	nodeDeadAfter = 9 * time.Second

	// maxNodes bounds how many other servers are known. No application has as many.
	maxNodes = 1024

	// maxNodeBeat bounds the bytes of a beat. A beat of today has less than one kilobyte, and
	// later versions may tell more.
	maxNodeBeat = 16 << 10

	// maxNodeName bounds a name. All servers hold it.
	maxNodeName = 255
)

// nodeBeat is what a server tells of itself, as JSON. A field that a server does not know is ignored,
// so later versions may add some, also to Stats.
type nodeBeat struct {
	Number   uint64 `json:"number"` // 1, 2, and so on; the bus may double beats, and change their order
	Name     string `json:"name"`
	Age      int64  `json:"age"` // milliseconds since the server was made
	Draining bool   `json:"draining,omitempty"`
	Gone     bool   `json:"gone,omitempty"` // this is the last beat
	Stats    Stats  `json:"stats"`
}

// nodes is what a server knows of the other servers of its Broker, and what tells them of this one.
type nodes struct {
	server *Server
	id     string
	since  time.Time

	sending chan struct{} // holds one while a beat is sent; guards sent and over. It comes before all locks
	sent    uint64        // number of the newest beat
	over    bool          // the last beat was sent

	mu     sync.Mutex            // guards what follows; no other lock is taken under it
	others map[string]*otherNode // by ID
	timer  *time.Timer           // for the next beat; nil: none is due, because this server is alone or has stopped
}

// otherNode is another server.
type otherNode struct {
	beat  nodeBeat  // the newest
	heard time.Time // when it came
	since time.Time
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

// beat tells the other servers of this one, and has itself called again.
func (n *nodes) beat() {
	n.tell(false)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.timer != nil {
		n.timer.Reset(nodeBeatEvery)
	}
}

// hurry sends a beat at once, because there is news.
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

// tell sends a beat to all servers.
func (n *nodes) tell(gone bool) {
	n.sending <- struct{}{}
	defer func() { <-n.sending }()
	if n.over {
		return // this beat was late
	}
	n.sent++
	n.over = gone
	s := n.server
	s.mu.Lock()
	draining := s.draining
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
			// The broker itself tells that it is out of reach.
			s.logOfClient(slog.LevelDebug, "live: the other servers were not told of this one", "err", err)
		}
	})
}

// hear takes a beat.
func (n *nodes) hear(id string, data []byte) {
	if id == n.id {
		return
	}
	var b nodeBeat
	if len(id) > len(n.id) || len(data) > maxNodeBeat || json.Unmarshal(data, &b) != nil {
		n.server.logOfClient(slog.LevelWarn, "live: broadcast that is no beat of a server", "bytes", len(data))
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
		o = &otherNode{since: now.Add(-time.Duration(b.Age) * time.Millisecond)}
		n.others[id] = o
	case b.Number <= o.beat.Number:
		return // an older beat, which comes late
	}
	o.beat, o.heard = b, now
}

// dropSilent forgets servers that are silent; mu is held. A server that has told that it is gone is
// kept for as long, so that an older beat that comes late does not bring it back.
func (n *nodes) dropSilent(now time.Time) {
	maps.DeleteFunc(n.others, func(_ string, o *otherNode) bool { return now.Sub(o.heard) >= nodeDeadAfter })
}

// list returns the other servers.
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

// nodeName returns a name in the form in which servers hold it.
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
