package live

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/internal/durations"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// Stats has figures about a server: what it is doing now, and what it has done since it was
// made. The figures are read one after another. So they may not fit together exactly while the
// server is busy. Two Stats can be compared with ==.
//
// Reading them is cheap, also with many sessions. docs/operations.md says what the figures mean to
// an operator. Package livemetrics, a module of its own, hands them to Prometheus.
type Stats struct {
	Sessions      int // open now
	Topics        int // with a subscriber, or with a subscription under way
	Subscriptions int // of all sessions to all topics now

	Accepted uint64 // handshakes that became sessions
	Refused  uint64 // handshakes that did not

	RefusedFor Refusals // the same by reason

	Closed    uint64   `json:",omitzero"` // sessions that have ended
	ClosedFor Closings `json:",omitzero"` // the same by reason

	AuthsWaiting int       // handshakes that wait for OnAuth now; see MaxAuthsAtOnce
	AuthTime     Durations `json:",omitzero"` // how long the calls of OnAuth took, also those that refused

	NotReady bool `json:",omitzero"` // the Broker was not ready when Server.Ready or ReadyHandler was last called

	Subscribed   uint64 `json:",omitzero"` // subscriptions that have begun, also those that ended at once because Snapshot failed
	Recovered    uint64 `json:",omitzero"` // subscriptions from a position, since which the history has everything
	NotRecovered uint64 `json:",omitzero"` // subscriptions from a position, since which something is lost

	Published     uint64    // publications accepted, also those whose ID was known already
	PublishFailed uint64    `json:",omitzero"` // publications for which the Broker returned an error
	PublishTime   Durations `json:",omitzero"` // how long Broker.Publish took; not measured if the Broker serves one process only
	Delivered     uint64    // publications queued for a session when they came, counted for each session; without what sessions read from history
	DeliveryTime  Durations `json:",omitzero"` // from a publication's arrival from the Broker until a session's socket took it; of at most 20 publications a second, counted for each session

	Received      uint64 // messages from clients
	BytesReceived uint64 `json:",omitzero"` // of these messages, as they came: perhaps compressed, and without the headers of frames
	Malformed     uint64 // invalid messages from clients, which were ignored or refused, or closed the session

	RateLimited uint64 // publications of clients that PublishRate refused

	RequestTime       Durations `json:",omitzero"` // how long the calls of OnRequest took
	OperationsRefused uint64    `json:",omitzero"` // operations of clients that were answered with an error, except those that count as failed
	OperationsFailed  uint64    `json:",omitzero"` // operations of clients that were answered with "internal" or "unavailable"

	CatchingUp int // subscriptions that read from history, because their client was away or reads too slowly

	WaitingMessages int `json:",omitzero"` // frames in the queues of all sessions now, or being written
	WaitingBytes    int `json:",omitzero"` // of these frames

	BytesSent  uint64                    `json:",omitzero"` // bytes that the connections took, before TLS
	FramesSent uint64                    `json:",omitzero"` // frames that the connections took, without pings and pongs
	WriteSizes [outbox.WriteSizes]uint64 `json:",omitzero"` // writes that carried these frames: of up to 1, 2, 4, 8, 16, 32, 64 and 128 frames, and of more

	Dropped         uint64 // publications that a full queue dropped, as TopicOptions.Overflow allows
	DroppedOldest   uint64 `json:",omitzero"` // those of topics with OverflowDropOldest
	DroppedLatest   uint64 `json:",omitzero"` // those of topics with OverflowLatest
	ListenerDropped uint64 `json:",omitzero"` // publications that were dropped because a function given to Listen is too slow

	Gaps uint64 // gaps that were announced: to all subscribers of a topic, to one that reads too slowly, or in the answer to one that was away

	Snapshots       uint64    // calls of TopicOptions.Snapshot; many clients share one
	SnapshotsFailed uint64    `json:",omitzero"` // states that clients did not get: the call returned an error, took too long, or could not begin in time
	SnapshotTime    Durations `json:",omitzero"` // how long the calls took

	Present      int    // how many times a session of this server is present in a topic
	Peers        int    // other servers that have told who is present at them
	PresenceJunk uint64 // invalid broadcasts about presence, which were ignored

	QueueFull    uint64 // sessions closed with ErrQueueFull
	UserBytes    uint64 // sessions closed with ErrUserBytes
	Replaced     uint64 // sessions closed with ErrReplaced
	PingTimeouts uint64 // sessions closed with ErrPingTimeout
	WriteFailed  uint64 // sessions closed with ErrWriteFailed
	Panics       uint64 // callbacks that panicked
}

// Durations counts durations by their size.
type Durations struct {
	// Counts has how many durations were at most the DurationBounds with the same index, and longer
	// than the bound before it. The last count has those that were longer than the last bound.
	Counts [durations.Buckets]uint64

	Sum time.Duration // of all durations
}

// Count returns how many durations were counted.
func (d Durations) Count() uint64 {
	var n uint64
	for _, c := range d.Counts {
		n += c
	}
	return n
}

// DurationBounds returns the bounds of Durations.Counts, from 0.1 ms to 10 s.
func DurationBounds() []time.Duration { return durations.Bounds() }

// WriteSizeBounds returns the bounds of Stats.WriteSizes, in frames. There is one bound less than
// there are counts.
func WriteSizeBounds() []int { return slices.Clone(writeSizeBounds) }

var writeSizeBounds = []int{1, 2, 4, 8, 16, 32, 64, 128}

// durationsOf returns the durations that a Counter has counted.
func durationsOf(c *durations.Counter) (d Durations) {
	c.AddTo(&d.Counts, &d.Sum)
	return d
}

// counters are in groups, and a cache line lies between the groups. Otherwise goroutines that read from
// clients would slow down goroutines that publish.
type counters struct {
	// Goroutines that publish count here.
	published, delivered atomic.Uint64
	_                    [64]byte

	// Goroutines that read from clients count here.
	received, bytesReceived atomic.Uint64
	_                       [64]byte

	accepted                atomic.Uint64
	refused                 refusedCounters
	closed                  closedCounters
	authTime, requestTime   durations.Counter
	publishTime             durations.Counter
	snapshotTime            durations.Counter
	publishFailed           atomic.Uint64
	subscribed              atomic.Uint64
	recovered, notRecovered atomic.Uint64
	opsRefused, opsFailed   atomic.Uint64
	droppedOldest           atomic.Uint64
	droppedLatest           atomic.Uint64
	listenerDropped         atomic.Uint64
	gaps                    atomic.Uint64
	snapshots               atomic.Uint64
	snapshotsFailed         atomic.Uint64
	malformed, rateLimited  atomic.Uint64
	panics                  atomic.Uint64
}

// Subscribers returns how many sessions of this server are subscribed to a topic. Listeners do not
// count.
func (s *Server) Subscribers(topic string) int {
	t := s.topics.find(topic)
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.subs)
}

// Stats returns the figures of this server.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	sessions := len(s.sessions)
	s.mu.Unlock()
	present, peers, junk := s.presence.figures()
	c := &s.counters
	refusedFor, refused := c.refused.figures()
	closedFor, closed := c.closed.figures()
	out := s.writers.Figures()
	droppedOldest := out.DroppedOldest + c.droppedOldest.Load()
	droppedLatest := out.DroppedLatest + c.droppedLatest.Load()
	return Stats{
		Present:           present,
		Peers:             peers,
		PresenceJunk:      junk,
		Sessions:          sessions,
		Topics:            int(s.topics.count.Load()),
		Subscriptions:     int(s.topics.subscriptions.Load()),
		Accepted:          c.accepted.Load(),
		Refused:           refused,
		RefusedFor:        refusedFor,
		Closed:            closed,
		ClosedFor:         closedFor,
		AuthsWaiting:      s.auths.length(),
		AuthTime:          durationsOf(&c.authTime),
		NotReady:          s.notReady.Load(),
		Subscribed:        c.subscribed.Load(),
		Recovered:         c.recovered.Load(),
		NotRecovered:      c.notRecovered.Load(),
		Published:         c.published.Load(),
		PublishFailed:     c.publishFailed.Load(),
		PublishTime:       durationsOf(&c.publishTime),
		Delivered:         c.delivered.Load(),
		DeliveryTime:      Durations{out.DeliveryCounts, out.DeliverySum},
		Received:          c.received.Load(),
		BytesReceived:     c.bytesReceived.Load(),
		Malformed:         c.malformed.Load(),
		RateLimited:       c.rateLimited.Load(),
		RequestTime:       durationsOf(&c.requestTime),
		OperationsRefused: c.opsRefused.Load(),
		OperationsFailed:  c.opsFailed.Load(),
		CatchingUp:        int(s.topics.catchingUp.Load()),
		WaitingMessages:   out.WaitingFrames,
		WaitingBytes:      out.WaitingBytes,
		BytesSent:         out.Bytes,
		FramesSent:        out.Frames,
		WriteSizes:        out.Writes,
		Dropped:           droppedOldest + droppedLatest,
		DroppedOldest:     droppedOldest,
		DroppedLatest:     droppedLatest,
		ListenerDropped:   c.listenerDropped.Load(),
		Gaps:              c.gaps.Load(),
		Snapshots:         c.snapshots.Load(),
		SnapshotsFailed:   c.snapshotsFailed.Load(),
		SnapshotTime:      durationsOf(&c.snapshotTime),
		QueueFull:         closedFor.QueueFull,
		UserBytes:         closedFor.UserBytes,
		Replaced:          closedFor.Replaced,
		PingTimeouts:      closedFor.PingTimeout,
		WriteFailed:       closedFor.WriteFailed,
		Panics:            c.panics.Load(),
	}
}
