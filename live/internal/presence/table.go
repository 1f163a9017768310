package presence

import "time"

const (
	// batchEvery is how long an owner collects changes before it sends them. A person does not
	// notice 50 ms, and all changes within that time share a message.
	batchEvery = 50 * time.Millisecond

	// beatEvery is the time between two beats. If the newest delta is lost, other servers notice
	// that at the next beat.
	beatEvery = 2 * time.Second

	// DeadAfter is how long an owner may be silent before its entries are removed. Four beats in a
	// row must be lost until a living server counts as dead. A dead server is gone from every
	// view within ten seconds.
	DeadAfter = 9 * time.Second

	// maxLate is how much later than Next has asked for Tick may be called. If Tick comes later,
	// this server was stopped and has read nothing meanwhile. So the silence of the others means
	// nothing. After a shorter stop no living server counts as dead: its last beat was at most two
	// seconds old when the stop began.
	maxLate = 4 * time.Second

	// afterStop is how long the others then have to be heard: two beats, and some time to read
	// the messages that have waited.
	afterStop = 5 * time.Second

	// askEvery is the time between two wants of the same thing. It is longer than a round trip and
	// the time until the owner's next Tick.
	askEvery = 500 * time.Millisecond

	// maxPeers bounds how many other owners a table knows. No application has as many servers at
	// once. Without a bound, a program that may publish to the bus could fill the memory.
	maxPeers = 1024
)

// Config configures a Table.
type Config struct {
	Self  Incarnation   // of this server
	Grace time.Duration // how long an entry is still shown after it has ended; 0: not at all
	Alone bool          // there are no other servers, so no messages are made
}

// Table is the view of one server: its own entries and those of all other owners. Times are
// nanoseconds on the caller's clock, and always positive. A Table is not safe for concurrent use.
type Table struct {
	config Config
	rooms  map[string]*room
	most   int // see shrunk
	own    owner
	peers  map[Incarnation]*peer
	out    [][]byte // messages that Tick has not returned yet

	tickBy int64 // what Next returned last; 0: nothing was due

	marked     []string // topics of rooms that have a marked member
	lingering  []*entry // entries that have ended and are still shown; some of them may be hidden already
	lingerNext int64    // the earliest entry.until of these; 0: there are none

	junk uint64 // see Junk
}

// New returns a table without entries.
func New(c Config) *Table {
	t := &Table{config: c, rooms: make(map[string]*room), peers: make(map[Incarnation]*peer)}
	if !c.Alone {
		t.send(&message{kind: kindHello})
	}
	return t
}

// Hear handles a message of any server, this one included. b may be junk. It is not kept.
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

// Tick does what is due. It returns the messages that must be sent to all servers, in this order.
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

// Next returns when Tick must be called at the latest. ok is false if no call is due until another
// method is called.
func (t *Table) Next(now int64) (at int64, ok bool) {
	at, ok = t.next(now)
	t.tickBy = at
	return at, ok
}

// next is Next without noting the time.
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

// Junk returns how many messages were ignored: they could not be read, had another version, or came
// from a new owner when maxPeers were known.
func (t *Table) Junk() uint64 { return t.junk }

// Peers returns how many other owners are known.
func (t *Table) Peers() int { return len(t.peers) }

// Own returns how many entries of this server have not ended.
func (t *Table) Own() int { return t.own.count }

func (t *Table) send(m *message) {
	m.from = t.config.Self
	t.out = append(t.out, m.encode())
}

// untilFor returns the time until which an entry that ends now is still shown; 0: it is hidden at
// once. linger is that of the entry's owner.
func (t *Table) untilFor(now int64, linger time.Duration) int64 {
	if d := max(t.config.Grace, linger); d > 0 {
		return now + int64(d)
	}
	return 0
}
