package live

import (
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"time"
)

// Options configures a Server. The zero value is ready for use: any client of the same origin
// may connect, and its messages are dropped.
//
// The callbacks of one session never run at the same time. Those of different sessions do. A
// callback that blocks delays only the messages of its own session, and the server still
// answers pings. When the client leaves, the callback's context ends within a second.
//
// While a client's inbox is full (see InboxSize), or the client is over InboundRate, the server
// does not read from the client. So it sees a close frame only after the messages before it. On
// Linux it still notices within a second that the client has closed or reset the connection. If
// the kernel has no space for all that the client has sent, it notices that with the next two
// pings. A client that has vanished without a word is found after PingInterval and PingTimeout,
// because it acknowledges no ping. The session then ends, and the unread messages are lost.
//
// A callback that panics, or calls runtime.Goexit, is logged with its stack, and its session is
// closed with code 1011. The context of a callback has the values of the request's context. It
// is cancelled when the session closes.
type Options struct {
	// OnAuth decides who may connect. It is called after the origin check and before the
	// connection switches to WebSocket. The value that it returns is the session's Value.
	// An error refuses the client with 401, or with the status and text given to Refuse.
	// The error's own text is logged, and not sent. nil: everyone may connect, with a nil
	// Value.
	OnAuth func(ctx context.Context, r *http.Request) (any, error)

	// OnConnect is called once for every session, before its first message. Here the
	// application can subscribe a session to the topics that it always needs. An error
	// closes the session with code 1008. nil: nothing is called.
	OnConnect func(ctx context.Context, s *Session) error

	// OnMessage is called for every message of a client, in the order in which they came.
	// data is the message's JSON, or nil if it had none. OnMessage may keep it. nil:
	// messages are read and dropped.
	OnMessage func(ctx context.Context, s *Session, topic string, data []byte)

	// OnSubscribe decides whether a live.v1 client may subscribe to a topic, or read its
	// history. Server.Subscribe does not call it. nil: no client may.
	//
	// An error refuses the client. A *ClientError is sent as it is. Any other error is sent
	// as "forbidden", without its text, which is logged at level Debug. An error that wraps
	// ErrUnavailable, or an error of a context, does not refuse: the client is told
	// "unavailable", and asks again later. Such an error is logged as a warning.
	OnSubscribe func(ctx context.Context, s *Session, topic string) error

	// OnUnsubscribe is called when a subscription has ended because its client has asked for
	// that, or has gone. Server.Unsubscribe does not call it. For a session that has ended it is
	// called before OnClose. nil: nothing is called.
	OnUnsubscribe func(s *Session, topic string)

	// OnPresence decides whether a live.v1 client may be present in a topic with an info of its
	// own, such as "is typing"; see Presence. info is valid JSON, or nil, and has 1 KB at most.
	// OnPresence returns the info that the others see: the same, or one to which the application
	// has added something. An error refuses the client, as for OnSubscribe. nil: no client may.
	// A client that only subscribes is present without OnPresence being called.
	OnPresence func(ctx context.Context, s *Session, topic string, info []byte) ([]byte, error)

	// OnPublish decides whether a live.v1 client may publish data to a topic. data is valid JSON,
	// or nil. OnPublish returns the data that is published: the same, or data to which the
	// application has added something, such as the author. An error refuses the client, as for
	// OnSubscribe. If a client repeats a publication, OnPublish is called again. nil: no client
	// may publish.
	OnPublish func(ctx context.Context, s *Session, topic string, data []byte) ([]byte, error)

	// OnRequest answers the request of a live.v1 client. The value that it returns is
	// marshalled to JSON. nil: every request is forbidden.
	//
	// A *ClientError is sent as it is. An error that wraps ErrUnavailable, for example one
	// that Publish returned, or an error of a context is sent as "unavailable". Any other
	// error is sent as "internal".
	OnRequest func(ctx context.Context, s *Session, topic string, data []byte) (any, error)

	// TraceParent returns the trace of a context in the form of the header traceparent of W3C Trace
	// Context. OpenTelemetry's propagation.TraceContext injects the same text. TraceParent is called
	// with the context that PublishContext was given. If a client publishes, it is called with the context
	// of the session, unless OnPublish has called SetTraceParent. Package livetrace, a module of its own,
	// sets both for OpenTelemetry. The trace travels with the publication to the messages of Listen and History, also
	// through NATS, and not through FromPubSub. Clients do not get it. nil, or a result of "": the
	// publication has no trace.
	TraceParent func(ctx context.Context) string

	// Topics returns the options of a topic. It is called when the topic gets its first
	// subscriber, and for publications. It must always return the same options for the
	// same topic. nil: every topic has the zero TopicOptions.
	Topics func(topic string) TopicOptions

	// Broker carries publications between servers, and keeps history. nil: the server
	// makes a MemoryBroker for itself.
	Broker Broker

	// NodeName is the name of this server in Nodes, for a person who looks after many servers. The
	// name of its machine or container is a good one. Two servers may have the same name. Only the
	// first 255 bytes count. "": the names of the host and the process, such as "web-1/4711".
	NodeName string

	// OnClose is called once for every session, after it has ended and left all its
	// topics. It is called also if OnConnect failed. err is the session's CloseError: it
	// says why the session ended, and is nil if either side closed it on purpose. nil:
	// nothing is called.
	OnClose func(s *Session, err error)

	// Origins lists further origins whose pages may connect, for example
	// "https://app.example.com" or "http://localhost:5173". Two kinds of clients may always
	// connect: pages of the host that the request names, and clients that send no Origin,
	// which are not browsers. A page of any other origin could connect with the cookies of
	// the person who reads it (cross-site WebSocket hijacking).
	//
	// An entry without a scheme matches every scheme. An entry without a port matches the
	// default port of the scheme. A '*' in a host stands for one character or more:
	// "https://*.example.com" matches all hosts below example.com, and not example.com
	// itself. A '*' as the port matches every port. The entry "*" allows every page, and
	// "null" allows pages from files and sandboxed frames. New panics if an entry can
	// match no page, for example because it has a path.
	Origins []string

	// CheckOrigin decides instead of Origins which requests may connect. nil: Origins
	// decides.
	CheckOrigin func(r *http.Request) bool

	// IDGenerator makes the sessions' IDs, which should be unique. nil: an ID is 128
	// random bits in hexadecimal.
	IDGenerator func() string

	// UserID returns the user of a session from its Value, for MaxSessionsPerUser and
	// DisconnectUser. "" stands for no user in particular. nil: the user is the Value
	// itself if that is a string, or else the result of its method UserID() string. A
	// Value that is neither, or is a nil pointer, has no user.
	UserID func(value any) string

	// PresenceGrace is how long a session that has ended is still shown as present, on all
	// servers, so that somebody who loads a page again, or loses the connection for a moment,
	// neither leaves nor joins. 0: 3 s, which a page needs to load and connect again. Negative:
	// not at all.
	PresenceGrace time.Duration

	// Logger gets what an operator should know. Above debug level nothing is logged for
	// each message. Payloads are never logged. nil: slog.Default().
	Logger *slog.Logger

	// QueueSize is how many messages may wait for one client. TopicOptions.Overflow says
	// what happens to further publications. Session.Send then closes the session with
	// ErrQueueFull. 0: 256, half a minute of eight messages a second.
	QueueSize int

	// QueueBytes bounds the bytes of these messages. One message of any size fits when
	// no other waits. 0: 1 MiB, so that a thousand clients that stall at once cost a
	// gigabyte at most. The true cost is far lower, because subscribers of one topic share
	// the bytes of its messages.
	QueueBytes int

	// Compression allows permessage-deflate (RFC 7692) with clients that offer it, as
	// browsers do. A publication of more than 512 bytes is then compressed once for all of
	// them, which takes some microseconds per kilobyte. Compression is off by default,
	// because most messages are small, and because a session takes 5 KB more once its
	// client has sent a compressed message.
	Compression bool

	// ReadLimit is the size in bytes, before compression, of the largest message that a
	// client may send. A larger message closes the session with code 1009. A message may
	// take half a minute to arrive, and a second more for every 8 KB. A slower message
	// closes the session with code 1008. 0: 4 MiB.
	ReadLimit int

	// InboxSize is how many messages of one client may wait for the application. When the
	// inbox is full the server stops reading from the client, and nothing is lost. 0: 64,
	// more than a page sends while a callback asks a database.
	InboxSize int

	// InboxBytes bounds the bytes of these messages. The inbox is full as well when they
	// take more. A large message may pause while it arrives: it waits until it fits beside
	// the waiting messages and the message that a callback is handling. One message up to
	// ReadLimit always fits when there is no other. 0: 256 KiB, a quarter of the default
	// of QueueBytes.
	InboxBytes int

	// MaxSessions bounds the sessions of this server. Further clients are refused with 503.
	// 0: only the process's file descriptors bound them.
	MaxSessions int

	// MaxSessionsPerUser bounds the sessions of one UserID on this server. Further clients
	// of that user are refused with 429, or see ReplaceOldest. 0: no bound.
	MaxSessionsPerUser int

	// ReplaceOldest says what happens to a new client whose user has MaxSessionsPerUser sessions
	// already.
	//
	// true: the new client gets the place of the user's oldest session. That session is closed with
	// CloseReplaced and ErrReplaced, and the messages that wait for its client are dropped. Its
	// client stays away, so that a forgotten tab does not take the place back.
	//
	// false: the new client is refused with 429. A connection that broke unnoticed then keeps its
	// place until PingInterval and PingTimeout are over, 35 s by default.
	ReplaceOldest bool

	// MaxBytesPerUser bounds the bytes that all sessions of one UserID on this server hold together:
	// the bytes that wait for the clients, and the bytes of their messages that wait for the
	// application or have not come completely. A publication counts for each session with its
	// whole size, although the sessions share its bytes.
	//
	// The bound is checked once a second. If a user has more then, the session with the most is
	// closed with CloseUserBytes and ErrUserBytes, and the messages that wait for its client are
	// dropped. Then the next session is closed, until the others fit. The clients back off and
	// resume. Between two checks each session may have what QueueBytes and InboxBytes allow. 0: no
	// bound. A useful bound is a few times QueueBytes, and not less than ReadLimit: a large message
	// counts while it comes.
	MaxBytesPerUser int

	// MaxAuthsAtOnce bounds the calls of OnAuth that run at once. Further handshakes wait. A
	// handshake that has waited for AuthTimeout is refused with 503 and a Retry-After. OnAuth is not
	// called for a client that has left meanwhile. The addresses of clients take turns. An address
	// is that of Request.RemoteAddr, and of IPv6 only the first 64 bits.
	//
	// 0: 1,000. Suppose that OnAuth asks a database that answers 20 questions at once in 50 ms each.
	// The last of 1,000 calls then waits for 2.5 s, well below AuthTimeout. Or suppose that OnAuth
	// waits 50 ms for a service that answers any number at once. Then 20,000 clients may connect in
	// a second, more than two CPUs can serve. Set a lower bound if OnAuth itself takes much CPU time,
	// as hashing a password does. Negative: no bound.
	MaxAuthsAtOnce int

	// MaxAuthsWaiting bounds the handshakes that wait because of MaxAuthsAtOnce. Further handshakes
	// are refused at once with 503 and a Retry-After. If the address of a further client has less
	// than an equal share of the queue, the newest handshake of the address with the most is refused
	// instead. A handshake that waits does not count for MaxSessions. 0: 4,096, which take some
	// 100 MB of net/http's memory.
	MaxAuthsWaiting int

	// MaxTopics bounds the topics of one session. Subscribe returns ErrTooManyTopics for
	// further topics. 0: 10,000. A subscription costs some 100 bytes if other sessions have
	// the topic too. To a topic that no other session has it costs some 350 bytes and the
	// topic's name, or 700 with history. So a client that subscribes to the default number
	// of topics that it invents costs 4 to 9 MB.
	MaxTopics int

	// MaxTopicLength bounds the length of a topic's name in bytes. 0: 255, which every
	// message broker accepts.
	MaxTopicLength int

	// InboundRate is how many units a client may use in a second, in the long run. A client
	// that uses more is read more slowly: TCP makes it wait, and nothing is lost as long as
	// the client stays. 0: 1,000, which keeps one client at a percent of a CPU, and at three
	// more if it asks for history without end. Negative: no bound.
	//
	// Each message, fragment, ping and operation is one unit, and so is each kilobyte that
	// the client sends. History that it asks for is counted apart, at the same rate: one
	// unit for each four kilobytes, or for each kilobyte if the client has compression, and
	// twenty units for each history that a broker has to read first. So a client gets
	// fifty such histories in a second.
	InboundRate int

	// InboundBurst is how many units a client may use at once after it was quiet. 0: as
	// many as InboundRate, a second's worth.
	InboundBurst int

	// AuthTimeout is how long a handshake may wait for OnAuth (see MaxAuthsAtOnce), and after that
	// how long OnAuth may take before its context ends. 0: 10 s, as long as the user of a browser
	// has patience. A longer timeout only holds memory for clients that have left.
	AuthTimeout time.Duration

	// MaxSessionAge is how long a session may last. It is then closed with CloseRestart and
	// ErrSessionAge, and its client comes back, perhaps to another server. So servers that were added get
	// their share of the clients, and a restart looks like any other hour. Each session ends at a random
	// age between 80 and 100 percent of MaxSessionAge. Its client comes back within a second, or within a
	// longer time if more than a thousand sessions end at the same time. Setting the system's clock
	// changes no age. 0: no bound.
	MaxSessionAge time.Duration

	// ShutdownDelay is how long Shutdown only refuses new clients, before it closes the first
	// session. A load balancer that asks ReadyHandler needs some time to send clients to other
	// servers. Without a delay it may send the clients of closed sessions back to this server. A server
	// without sessions waits too, because its pages are still served. The delay is a part of the time that
	// Shutdown's ctx leaves. 0: no delay.
	ShutdownDelay time.Duration

	// ShutdownTimeout is how long the end of Run may take. Sessions get four fifths of it, with
	// ShutdownDelay, and the stop functions of Run get the rest. 0: 9 s, because Docker kills a process
	// ten seconds after SIGTERM. Kubernetes waits thirty.
	ShutdownTimeout time.Duration

	// WriteTimeout is how long a client may read nothing of what it is sent before its
	// session is closed with ErrWriteFailed. 0: 10 s, longer than a phone needs to change
	// from one network to another.
	WriteTimeout time.Duration

	// PingInterval is how long a client may be silent before it is pinged. 0: 25 s, less
	// than the minute after which proxies cut idle connections. Negative: no pings, and
	// dead clients are found only by writing to them.
	PingInterval time.Duration

	// PingTimeout is how long the client may then stay silent before its session is closed
	// with ErrPingTimeout. The time begins when the ping is written to the socket. It
	// begins again whenever the client takes some of the bytes before the ping. 0: 10 s.
	PingTimeout time.Duration
}

// flushTimeout is the least time that a closed session has to send what is queued. A client
// that reads a kilobyte a second or more has longer. The timeout protects a shutdown without a
// deadline from a client that reads a byte at a time.
const flushTimeout = 30 * time.Second

// closeTimeout is how long a client may read nothing and leave the server's close frame
// unanswered. It protects a shutdown from clients that are gone. Five seconds are a round trip
// on the worst of mobile networks.
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
	setDefault(&o.ShutdownTimeout, 9*time.Second)
	if o.MaxAuthsAtOnce == 0 {
		o.MaxAuthsAtOnce = 1000
	}
	setDefault(&o.MaxAuthsWaiting, 4096)
	setDefault(&o.AuthTimeout, 10*time.Second)
	setDefault(&o.WriteTimeout, 10*time.Second)
	if o.PingInterval == 0 {
		o.PingInterval = 25 * time.Second
	}
	setDefault(&o.PingTimeout, 10*time.Second)
	if o.PresenceGrace == 0 {
		o.PresenceGrace = 3 * time.Second
	}
	if o.IDGenerator == nil {
		o.IDGenerator = randomID
	}
	if o.UserID == nil {
		o.UserID = userIDOf
	}
	if o.NodeName = nodeName(o.NodeName); o.NodeName == "" {
		o.NodeName = defaultNodeName()
	}
	o.Topics = withDefaults(o.Topics)
	if o.Broker == nil {
		o.Broker = NewMemoryBroker(MemoryOptions{})
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// withDefaults has topics with a Snapshot and keyed topics keep history, and gives presence a limit.
func withDefaults(topics func(string) TopicOptions) func(string) TopicOptions {
	if topics == nil {
		return func(string) TopicOptions { return TopicOptions{} }
	}
	return func(topic string) TopicOptions {
		o := topics(topic)
		if o.Keyed {
			o.Snapshot = nil
		}
		switch {
		case o.History > 0:
		case o.Keyed:
			o.History = defaultKeys
		case o.Snapshot != nil:
			o.History = snapshotHistory
		}
		setDefault(&o.PresenceLimit, defaultPresenceLimit)
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
			return "" // OnAuth may return a nil *User for a visitor
		}
		return v.UserID()
	}
	return ""
}

// TopicOptions are the rules of one topic.
type TopicOptions struct {
	// History is how many publications the topic keeps, for clients that come back and for
	// those that ask for history. 0: none. A broker with streams of its own may have its
	// own rule.
	History int

	// HistoryAge is how long a publication is kept. 0: as long as History allows. A server
	// counts the time from when it received the publication, so that its clock need not be
	// right. A publication that is still in the broker's history counts as kept.
	HistoryAge time.Duration

	// Overflow says what happens to a publication of this topic for a client whose queue is
	// full. If publications have keys (see Key), only older ones of the same key make space.
	Overflow Overflow

	// Keyed makes the topic a table: each publication must have a Key, and is the newest value of
	// that key. Server.Remove removes a key. A client that subscribes gets every key, and then
	// every change; live.js keeps a Map of them. A client that comes back gets what has changed.
	// A client that reads too slowly gets the newest value of each key in turn, and nothing
	// else is lost.
	//
	// History is the most keys that the topic may have; 0: 1,000. Publish returns an error that wraps
	// ErrTooManyKeys for one more. HistoryAge removes a key that has no new value for that
	// time. Snapshot and Last have no meaning on a keyed topic, and of Overflow only
	// OverflowClose has one.
	Keyed bool

	// ClientKey returns the key of what a session's client publishes to the keyed topic, for
	// example its user. nil: clients cannot publish to it, whatever OnPublish says; only the
	// application can.
	ClientKey func(s *Session, data []byte) string

	// PublishRate is how many publications a second all live.v1 clients of this server together may
	// make to the topic, in the long run. Further publications are refused with the error
	// "rate_limited", and the session goes on. OnPublish is called first, and publications that it
	// refuses do not count. Publications that the application makes do not count either, also if
	// it makes them in OnMessage for plain clients. 0: only each client's InboundRate bounds them.
	PublishRate int

	// PublishBurst is how many publications these clients may make at once after they were quiet. 0: as
	// many as PublishRate, a second's worth.
	PublishBurst int

	// Snapshot returns the topic's state, which is marshalled to JSON; JSON in a []byte stays as it
	// is. A live.v1 client that subscribes without a position, or with a position that the
	// history no longer reaches, gets the state and then every publication after it. So the
	// publications must make sense on top of a state that has them already: say what a thing
	// is now, or number them.
	//
	// History must hold what is published while a state is made and sent. Else the client is told of
	// a gap, and has to ask for the state again.
	//
	// Many clients share one call. It runs in a goroutine of its own, for each topic one at a time,
	// for all topics of a server eight at a time, and its context ends after ten seconds. If it goes
	// on all the same, fails or panics, the client is told
	// "internal", or "unavailable" if the error wraps ErrUnavailable or that of a context, and
	// asks again later. nil: the topic has no state. With a Snapshot, a History of 0 means 256.
	Snapshot func(ctx context.Context, topic string) (any, error)

	// Presence says whether the servers keep track of who is present in the topic, and what clients
	// see of it. All clients that OnSubscribe lets into the topic see the same. 0: PresenceOff.
	Presence Presence

	// PresenceLimit is how many members clients may be told of one by one. If the topic has more
	// members, clients are told the number. 0: 500. Nobody reads a longer list, and 500 members
	// take some 30 KB.
	PresenceLimit int
}

// Overflow says what the server does with a publication for a client whose queue is full.
type Overflow int

const (
	// OverflowDefault is OverflowCatchUp on topics that keep history, and OverflowClose on
	// others.
	OverflowDefault Overflow = iota

	// OverflowCatchUp lets the client read on in the topic's history at its own pace. When
	// it has read all, it gets new publications directly again. It misses nothing that the
	// history still has. If the history is trimmed faster than the client reads, the client
	// is told that there is a gap. A topic without history has OverflowClose instead.
	OverflowCatchUp

	// OverflowClose closes the session with ErrQueueFull. The client comes back, and on a
	// topic with history it gets what it missed.
	OverflowClose

	// OverflowDropOldest drops the oldest publications of this topic that wait for the
	// client, as many as needed to make space for the new one. If that is not enough,
	// because frames of other topics fill the queue, only the newest publication of this
	// topic is kept. It is sent as soon as there is space. The client is told that there
	// is a gap.
	OverflowDropOldest

	// OverflowLatest drops all publications of this topic that wait for the client. It is
	// for topics of which only the newest publication matters.
	OverflowLatest
)
