package presence

import "time"

const (
	// batchEvery is how long an owner collects changes before it sends them.
	batchEvery = 50 * time.Millisecond

	// beatEvery is the time between two beats. It is also how long it takes until a loss is
	// noticed that no delta follows.
	beatEvery = 2 * time.Second

	// DeadAfter is after how long a silence the entries of an owner are removed. Four beats in a
	// row must be lost before a living server is taken for dead. A dead one is gone from every
	// view within ten seconds.
	DeadAfter = 9 * time.Second

	// maxLate is how much later Tick may be called than Next has asked for. If it is later, this
	// server was stopped, and has read nothing meanwhile: that others are silent means nothing.
	// A shorter stop takes nobody for dead, since beats come every two seconds.
	maxLate = 4 * time.Second

	// afterStop is how long the others then have to be heard: two beats, and some time to read
	// what has waited.
	afterStop = 5 * time.Second

	// askEvery is the time between two questions to the same owner for the same thing: longer
	// than a round trip and the time until the owner looks.
	askEvery = 500 * time.Millisecond

	// maxPeers bounds how many owners a table knows. No application has as many servers at once.
	maxPeers = 1024
)

// Config configures a Table.
type Config struct {
	Self  Incarnation   // of this server
	Grace time.Duration // how long an entry that has ended is shown; 0: not at all
	Alone bool          // there are no other servers, so there are no messages
}

// Table is the view of one server: its own entries and those of all other owners. Times are
// nanoseconds on the caller's clock, and always positive. A Table is not safe for concurrent use.
type Table struct {
	config Config
	rooms  map[string]*room
	most   int // see shrunk
	own    owner
	peers  map[Incarnation]*peer
	out    [][]byte // messages that were not returned yet

	tickBy int64 // what Next returned last; 0: nothing was due

	marked     []string // topics of rooms that have a marked member
	lingering  []*entry // entries that have ended and are shown; some of them may be hidden already
	lingerNext int64    // the earliest until of these; 0: there are none

	junk uint64
}

// New returns a table without entries.
func New(c Config) *Table {
	t := &Table{config: c, rooms: make(map[string]*room), peers: make(map[Incarnation]*peer)}
	if !c.Alone {
		t.send(&message{kind: kindHello})
	}
	return t
}

// Hear takes a message of any server, this one included.
func (t *Table) Hear(b []byte, now int64) {
	m, err := decode(b)
	if err != nil || t.config.Alone {
		t.junk++
		return
	}
	if m.from == t.config.Self {
		return
	}
	switch m.kind {
	case kindHello:
		t.own.beatAt = 0
	case kindWant:
		if m.to == t.config.Self {
			t.own.wanted(m)
		}
	default:
		t.hearOwner(m, now)
	}
}

// Tick does what is due. It returns the messages that must go to all servers, in this order.
func (t *Table) Tick(now int64) [][]byte {
	t.expire(now)
	if t.tickBy != 0 && now-t.tickBy > int64(maxLate) {
		t.wasStopped(now)
	}
	t.dropSilent(now)
	if t.config.Alone {
		return nil
	}
	t.flushDeltas(now)
	t.answerWants()
	t.beat(now)
	t.ask(now)
	out := t.out
	t.out = nil
	return out
}

// Next returns when Tick must be called at the latest; ok is false if nothing is due before
// something happens.
func (t *Table) Next(now int64) (at int64, ok bool) {
	at, ok = t.next(now)
	t.tickBy = at
	return at, ok
}

func (t *Table) next(now int64) (at int64, ok bool) {
	earlier := func(when int64) {
		if !ok || when < at {
			at, ok = when, true
		}
	}
	if t.lingerNext != 0 {
		earlier(t.lingerNext)
	}
	if t.config.Alone {
		return at, ok
	}
	o := &t.own
	if len(o.pending) > 0 {
		earlier(max(o.flushAt, now))
	}
	if len(t.out) > 0 || o.hasWants() {
		earlier(now)
	}
	if o.speaks(now) {
		earlier(max(o.beatAt, now))
	}
	for _, p := range t.peers {
		earlier(p.heard + int64(DeadAfter))
		if p.needs() {
			earlier(max(p.askAt, now))
		}
	}
	return at, ok
}

// Junk returns how many messages were none, or came from too many owners.
func (t *Table) Junk() uint64 { return t.junk }

// Peers returns how many other owners are known.
func (t *Table) Peers() int { return len(t.peers) }

// Own returns how many entries this server has.
func (t *Table) Own() int { return t.own.count }

func (t *Table) send(m *message) {
	m.from = t.config.Self
	t.out = append(t.out, m.encode())
}

// untilFor returns until when an entry that ends now is shown; 0: it is not.
func (t *Table) untilFor(now int64, linger time.Duration) int64 {
	if d := max(t.config.Grace, linger); d > 0 {
		return now + int64(d)
	}
	return 0
}
