package live

import (
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"time"
)

// Options configures a Server. The zero value is ready for use: any client of
// the same origin may connect, and nothing is done with what it sends.
//
// The callbacks of one session run one after another, never two at a time; those
// of different sessions run at the same time. A callback that blocks holds up
// the messages of its own session only; pings are answered meanwhile, and when the client
// leaves, the callback's context ends within a second. While its inbox is full the server
// does not read the client, so it sees a close frame only after the messages before it. On
// Linux it still notices within a second that the client has closed or reset the connection.
// The session then ends, and the unread messages are lost.
//
// A panic in a callback, or runtime.Goexit, is logged with its stack and closes its session
// with code 1011. The context that callbacks get carries the values of the request's context
// and is cancelled when the session closes.
type Options struct {
	// OnAuth decides who may connect, before the upgrade and after the
	// origin check. What it returns is the session's Value. An error
	// refuses the client with 401, or with what Refuse named; its text is
	// logged, and not sent. nil: everyone may connect, with a nil Value.
	OnAuth func(ctx context.Context, r *http.Request) (any, error)

	// OnConnect is called once for every session when it has begun, before
	// its first message: the place to subscribe it to what it should always
	// hear. An error closes it with code 1008.
	OnConnect func(ctx context.Context, s *Session) error

	// OnMessage is called for every message of a client, in the order they
	// came. data is the message's JSON, nil when it had none; the callee may
	// keep it. nil: messages are read and dropped.
	OnMessage func(ctx context.Context, s *Session, topic string, data []byte)

	// OnSubscribe decides whether a live.v1 client may subscribe to a topic, or read
	// its history. An error refuses it: a *ClientError as it is, any other as
	// "forbidden", and its text is not sent. Only an error that wraps ErrUnavailable, or
	// that of a context, is no refusal: the client is told "unavailable", and asks again
	// later. nil: no client may. The server's own Subscribe does not ask.
	OnSubscribe func(ctx context.Context, s *Session, topic string) error

	// OnPublish decides in the same way whether a live.v1 client may publish data, which is
	// valid JSON, or nil for no data. It returns what is published: data, or something that the
	// application has made of it, as with the author's name. It may be called again for a
	// publication that the client repeats. nil: no client may.
	OnPublish func(ctx context.Context, s *Session, topic string, data []byte) ([]byte, error)

	// OnRequest answers a live.v1 client's request. What it returns is marshalled to
	// JSON. An error is sent if it is a *ClientError; one that wraps ErrUnavailable, as
	// a Publish may have returned it, or that of a context becomes "unavailable"; any
	// other "internal". nil:
	// every request is forbidden.
	OnRequest func(ctx context.Context, s *Session, topic string, data []byte) (any, error)

	// Topics gives a topic its options, when it gets its first subscriber and when it
	// is published to: the answer for a topic must always be the same. nil: the zero
	// TopicOptions, for all.
	Topics func(topic string) TopicOptions

	// Broker carries publications between servers and keeps history. nil: a
	// MemoryBroker of this server's own.
	Broker Broker

	// OnClose is called once for every session when it has ended and is out of
	// all its topics, also if OnConnect failed. err says why it ended and
	// is what CloseError returns; nil when either side closed it on purpose.
	OnClose func(s *Session, err error)

	// Origins lists more origins whose pages may connect, as "https://app.example.com"
	// or "http://localhost:5173". Pages of the host that the request names may always, and
	// clients that send no Origin: browsers send it. A page of any other origin could
	// connect with the cookies of whoever reads it (cross-site WebSocket hijacking).
	//
	// Without a scheme an entry stands for all of them, and without a port for the scheme's
	// own. In a host '*' stands for one character or more, so "https://*.example.com" has
	// all hosts below example.com and not that itself; as a port it stands for any. "*"
	// allows every page, "null" those from files and sandboxed frames. New panics if an
	// entry can match nothing, as one with a path.
	Origins []string

	// CheckOrigin decides instead of Origins when it is not nil.
	CheckOrigin func(r *http.Request) bool

	// IDGenerator makes the sessions' IDs, which should be unique. nil: 128
	// random bits in hexadecimal.
	IDGenerator func() string

	// UserID tells whose session a Value is, for MaxSessionsPerUser. nil: a
	// Value that is a string, or has a UserID() string method. An empty
	// answer is nobody in particular, and so is a nil pointer.
	UserID func(value any) string

	// Logger gets what an operator should know. Nothing is logged per message
	// above debug level, and no payload ever. nil: slog.Default().
	Logger *slog.Logger

	// QueueSize is how many messages may wait for one client. If more come,
	// TopicOptions.Overflow decides. Session.Send then closes the session with
	// ErrQueueFull. 0: 256, half a minute of eight messages a second.
	QueueSize int

	// QueueBytes bounds the same in bytes. A message always fits when none
	// waits. 0: 1 MiB, so that a thousand clients that stall at once cost
	// a gigabyte at most, and far less, since subscribers of one topic share
	// the bytes of its messages.
	QueueBytes int

	// Compression lets clients agree to permessage-deflate (RFC 7692), as
	// browsers do. A publication of more than 512 bytes is then compressed
	// once for all of them, which takes some microseconds per kilobyte. It
	// is off by default: most messages are small, and it takes a client's
	// session 5 KB more once it has sent a compressed message.
	Compression bool

	// ReadLimit is the largest message in bytes, uncompressed, that a client
	// may send; a larger one closes its session with code 1009. One that comes more
	// slowly than 8 KB/s after half a minute closes it with code 1008. 0: 4 MiB.
	ReadLimit int

	// InboxSize is how many messages of one client may wait for the application. When
	// there are as many the server does not read the client further, and nothing is
	// lost. 0: 64, more than a page sends while a callback asks a database.
	InboxSize int

	// InboxBytes bounds these messages in bytes. The message that is being dealt with
	// counts only against large messages. One message up to ReadLimit is always taken
	// when there is no other. 0: 256 KiB, a quarter of what QueueBytes is by default.
	InboxBytes int

	// MaxSessions bounds the sessions of this server; more are refused with
	// 503. 0: no bound but the process's file descriptors.
	MaxSessions int

	// MaxSessionsPerUser bounds the sessions of one UserID on this server;
	// more are refused with 429. 0: no bound.
	MaxSessionsPerUser int

	// MaxTopics bounds the topics of one session; Subscribe returns
	// ErrTooManyTopics for more. 0: 10,000. A subscription costs some 100 bytes
	// where others have the topic too; to a topic of its own some 350 and the
	// topic's name, 700 with history. So a client that has itself subscribed to as
	// many names of its own invention costs 4 to 9 MB.
	MaxTopics int

	// MaxTopicLength bounds a topic's name in bytes. 0: 255, which every
	// message broker takes.
	MaxTopicLength int

	// InboundRate is how many messages, fragments, pings and operations a second
	// a client may send in the long run. Every kilobyte that it sends counts as
	// one more, and so do every four kilobytes of history that it asks for, or
	// every one if they are compressed. A history that a broker has to read first
	// counts twenty more, so that a client has fifty in a second. One that sends more is read more slowly:
	// TCP makes it wait, and nothing is lost. 0: 1,000, which keeps one client at
	// a percent of a CPU, and at three more if it asks for history without end.
	// Negative: no bound.
	InboundRate int

	// InboundBurst is how many it may send at once after it was quiet. 0: as
	// many as InboundRate, a second's worth.
	InboundBurst int

	// AuthTimeout ends the context of OnAuth. 0: 10 s, the patience of a
	// browser's user; more only holds memory for clients that have left.
	AuthTimeout time.Duration

	// WriteTimeout is how long a client may take nothing at all of what it is
	// sent before the session is closed. 0: 10 s, longer than a phone needs to
	// change from one network to another.
	WriteTimeout time.Duration

	// PingInterval is how long a client may be silent before it is pinged.
	// 0: 25 s, under the minute after which proxies cut idle connections.
	// Negative: no pings, and dead clients are found by writing to them.
	PingInterval time.Duration

	// PingTimeout is how long it then may stay silent before the session is
	// closed with ErrPingTimeout. The time begins when the ping has left for the
	// socket, and anew while the client takes what is sent before it. 0: 10 s.
	PingTimeout time.Duration
}

// flushTimeout is how long a session that is closed has in any case to take what is
// queued. One that takes a kilobyte a second or more has longer. It protects a shutdown
// without a deadline from a client that reads a byte at a time.
const flushTimeout = 30 * time.Second

// closeTimeout is how long a client may leave the server's close frame
// unanswered, and take nothing. It protects a shutdown from clients that are gone; five
// seconds are a round trip on the worst of mobile networks.
const closeTimeout = 5 * time.Second

func (o Options) withDefaults() Options {
	setDefault(&o.QueueSize, 256)
	setDefault(&o.QueueBytes, 1<<20)
	setDefault(&o.InboxSize, 64)
	setDefault(&o.InboxBytes, 256<<10)
	setDefault(&o.ReadLimit, 4<<20)
	setDefault(&o.MaxTopics, 10_000)
	setDefault(&o.MaxTopicLength, 255)
	if o.InboundRate == 0 {
		o.InboundRate = 1000
	}
	setDefault(&o.InboundBurst, max(o.InboundRate, 1))
	setDefault(&o.AuthTimeout, 10*time.Second)
	setDefault(&o.WriteTimeout, 10*time.Second)
	if o.PingInterval == 0 {
		o.PingInterval = 25 * time.Second
	}
	setDefault(&o.PingTimeout, 10*time.Second)
	if o.IDGenerator == nil {
		o.IDGenerator = randomID
	}
	if o.UserID == nil {
		o.UserID = userIDOf
	}
	o.Topics = withSnapshots(o.Topics)
	if o.Broker == nil {
		o.Broker = NewMemoryBroker(MemoryOptions{})
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// withSnapshots has topics with a Snapshot keep history.
func withSnapshots(topics func(string) TopicOptions) func(string) TopicOptions {
	if topics == nil {
		return func(string) TopicOptions { return TopicOptions{} }
	}
	return func(topic string) TopicOptions {
		o := topics(topic)
		if o.Snapshot != nil && o.History <= 0 {
			o.History = snapshotHistory
		}
		return o
	}
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

func userIDOf(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case interface{ UserID() string }:
		if p := reflect.ValueOf(v); p.Kind() == reflect.Pointer && p.IsNil() {
			return "" // nobody, as OnAuth returns it for a visitor
		}
		return v.UserID()
	}
	return ""
}

// TopicOptions are the rules of one topic.
type TopicOptions struct {
	// History is how many publications are kept, for clients that come back and
	// for those that ask. 0: none. A broker with streams of its own may have its
	// own rule.
	History int

	// HistoryAge is how long they are kept. 0: for as long as History says. A server
	// counts it from when it had the publication, so that it does not matter whether its
	// clock is right. What the broker's history still has counts as kept.
	HistoryAge time.Duration

	// Overflow says what becomes of a client whose queue is full when a
	// publication of this topic comes.
	Overflow Overflow

	// Snapshot returns the topic's state, which is marshalled to JSON; JSON in a []byte stays as it
	// is. A live.v1 client that subscribes without a position, or with a position that the
	// history no longer reaches, gets the state and then every publication after it. So the
	// publications must make sense on top of a state that has them already: say what a thing
	// is now, or number them.
	//
	// Many clients share one call. It runs in a goroutine of its own, for each topic one at a time,
	// and its context ends after ten seconds. If it fails or panics, the client is told
	// "internal", or "unavailable" if the error wraps ErrUnavailable or that of a context, and
	// asks again later. nil: the topic has no state. With a Snapshot, a History of 0 means 256.
	Snapshot func(ctx context.Context, topic string) (any, error)
}

// Overflow says what happens when a publication finds a client's queue full.
type Overflow int

const (
	// OverflowDefault is OverflowCatchUp on topics that keep history, and OverflowClose on
	// others.
	OverflowDefault Overflow = iota

	// OverflowCatchUp has the client read on in the topic's history at its own pace, and
	// come back to new publications when it has read all. It misses nothing as far as
	// the history reaches; if that is trimmed faster than the client reads, it is told of
	// a gap. A topic without history has OverflowClose instead.
	OverflowCatchUp

	// OverflowClose closes the session with ErrQueueFull: the client comes back
	// and, on a topic with history, gets what it missed.
	OverflowClose

	// OverflowDropOldest drops the oldest publications of this topic that wait
	// for the client, as many as must be. Where other topics' frames have filled the
	// queue all are dropped but the newest, which comes when there is space again. The
	// client is told of the gap.
	OverflowDropOldest

	// OverflowLatest drops all that wait: for topics where only the newest counts.
	OverflowLatest
)
