package live

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/loglimit"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// Server holds the sessions and the topics. New makes it. Its methods may be called from any
// goroutine.
type Server struct {
	opts         Options
	inbound      rate // at which one client may send
	topics       *topics
	origins      []originRule
	writers      *outbox.Writers
	workers      workers
	auths        *authQueue
	publishRates publishRates
	counters     counters
	logs         loglimit.Limiter
	loggedOnce   sync.Map    // message texts
	notReady     atomic.Bool // the broker was not ready when Ready last asked it
	broadcasts   broadcasts
	userChanges  userChanges
	presence     presenceState
	nodes        nodes
	ends         endRing
	closed       atomic.Bool // Shutdown has waited for the sessions, and nothing is published any more

	// running counts the handshakes, and of each session its reading, its leaving, its worker
	// and its catching up.
	running sync.WaitGroup

	handshakes    context.Context    // ends when Shutdown waits for no OnAuth any more
	endHandshakes context.CancelFunc // ends handshakes

	mu        sync.Mutex               // guards what follows
	sessions  []*Session               // open sessions
	lingering map[*Session]struct{}    // sessions that have ended, but whose connection is still open
	admitted  int                      // open sessions, and handshakes that have a place reserved
	perUser   map[string]*placesOfUser // used only with MaxSessionsPerUser
	sweeper   *time.Timer              // runs while there are sessions
	swept     int64                    // when the last walk of the sweeper ended, on the clock
	shutdown  *shutdown                // the end that Shutdown has begun; nil: Shutdown was not called

	revocations map[string]revocation // recent ones, by user

	expirer    *time.Timer // runs while a session has an expiry
	nextExpiry int64       // Unix time in seconds at which expirer acts; valid only with expirer

	ager    *time.Timer // runs while there are sessions, with MaxSessionAge
	nextAge int64       // when ager acts, on the clock; valid only with ager
}

// New returns a server that is ready to accept clients. It starts nothing that needs to be
// stopped: a server without sessions that nobody uses any more is garbage. Only if the Broker
// serves many servers, the server tells them of itself until Shutdown: see Nodes. New panics if an
// entry of Options.Origins can match no page, or if the Broker serves another server already.
func New(opts Options) *Server {
	opts = opts.withDefaults()
	s := &Server{
		opts:    opts,
		inbound: newRate(opts.InboundRate, opts.InboundBurst),
		origins: originRules(opts.Origins),
		writers: outbox.NewWriters(outbox.Limits{
			Frames:       opts.QueueSize,
			Bytes:        opts.QueueBytes,
			WriteTimeout: opts.WriteTimeout,
			FlushTimeout: flushTimeout,
			CloseTimeout: closeTimeout,
		}),
		workers:   newWorkers(),
		lingering: make(map[*Session]struct{}),
		perUser:   make(map[string]*placesOfUser),

		revocations: make(map[string]revocation),
	}
	s.handshakes, s.endHandshakes = context.WithCancel(context.Background())
	s.auths = newAuthQueue(&s.opts)
	s.topics = newTopics(s)
	s.presence.init(s)
	s.nodes.init(s)
	if bus, ok := opts.Broker.(broker.Bus); ok {
		bus.OnBroadcast(s.hear)
	}
	opts.Broker.Start(sink{s})
	s.nodes.start()
	return s
}

// Handler returns the handler to which clients connect. It returns as soon as a session has
// begun. It answers an invalid handshake with 400, a wrong version of HTTP or WebSocket with
// 426, a wrong origin with 403, and a client that OnAuth refuses with 401. See also MaxSessions,
// MaxSessionsPerUser, MaxAuthsAtOnce and Shutdown; Stats.RefusedFor counts them all.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(s.serveHTTP)
}

// PublishOption changes what Publish does.
type PublishOption func(*publishing)

// publishing holds the options of one call of Publish.
type publishing struct{ broker.PublishOptions }

// Except leaves out one session. An example is the session that sent the message, if its page
// shows the message already. nil leaves out no session. If the session later resumes from a
// position before the publication, it gets the publication all the same.
func Except(sess *Session) PublishOption {
	return func(o *publishing) {
		if sess != nil {
			o.Except = sess.id
		}
	}
}

// Publish sends data to every session that is subscribed to topic, at every server of the
// Broker. It does not wait for any session. All sessions get the publications of a topic in the
// same order, and those of one goroutine in the order in which it made them. A topic without
// subscribers is not an error.
//
// data must be one JSON value, or empty for a message without data. It is copied.
//
// The error wraps ErrInvalidTopic or ErrInvalidData, is ErrServerClosed after Shutdown, or
// wraps the broker's. After an error of the broker the publication may or may not have been
// made. The broker in memory has no errors of its own.
func (s *Server) Publish(topic string, data []byte, opts ...PublishOption) error {
	_, err := s.publish(context.Background(), topic, data, opts...)
	return err
}

func (s *Server) publish(ctx context.Context, topic string, data []byte, opts ...PublishOption) (Position, error) {
	if err := s.checkTopic(topic); err != nil {
		return Position{}, err
	}
	if err := broker.CheckData(data); err != nil {
		return Position{}, err
	}
	if s.closed.Load() {
		return Position{}, ErrServerClosed
	}
	o := s.publishOptions(topic, opts)
	if len(o.ID) > maxPublicationID {
		return Position{}, fmt.Errorf("live: publish to %q: the ID has %d bytes, and may have %d", topic, len(o.ID), maxPublicationID)
	}
	if o.TraceParent == "" && s.opts.TraceParent != nil {
		o.TraceParent = s.opts.TraceParent(ctx)
	}
	o.TraceParent = validTraceParent(o.TraceParent)
	if err := checkKey(&o); err != nil {
		return Position{}, fmt.Errorf("live: publish to %q: %w", topic, err)
	}
	if !s.topics.inProcess || o.History > 0 { // then the broker keeps data after Publish
		data = bytes.Clone(data)
	}
	at, err := s.callPublish(ctx, topic, data, o)
	if err != nil {
		s.counters.publishFailed.Add(1)
		return Position{}, fmt.Errorf("live: publish to %q: %w", topic, err)
	}
	s.counters.published.Add(1)
	return at, nil
}

// callPublish calls the Broker. It measures the time if the broker is not in this process. A broker in
// this process delivers before it returns, and the delivery has a time of its own.
func (s *Server) callPublish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (Position, error) {
	if s.topics.inProcess {
		return s.opts.Broker.Publish(ctx, topic, data, o)
	}
	began := time.Now()
	at, err := s.opts.Broker.Publish(ctx, topic, data, o)
	s.counters.publishTime.Add(time.Since(began))
	return at, err
}

// publishOptions is a function of its own so that a publication without options does not
// allocate: opt(&o) moves o to the heap.
func (s *Server) publishOptions(topic string, opts []PublishOption) broker.PublishOptions {
	rules := s.opts.Topics(topic)
	defaults := broker.PublishOptions{History: rules.History, HistoryAge: rules.HistoryAge, Keyed: rules.Keyed}
	if len(opts) == 0 {
		return defaults
	}
	o := publishing{defaults} // moves to the heap
	for _, opt := range opts {
		opt(&o)
	}
	return o.PublishOptions
}

// Subscribe adds the session to the topic. Every publication that this server makes after
// Subscribe has returned reaches the session. Subscribing twice is the same as once.
//
// The error is ErrSessionClosed if the session has ended, wraps ErrInvalidTopic or
// ErrTooManyTopics, or is the broker's. If the broker serves many servers, the first
// subscription to a topic asks it, and waits for five seconds at most.
func (s *Server) Subscribe(sess *Session, topic string, opts ...SubscribeOption) error {
	_, err := s.subscribe(context.Background(), sess, topic, subscribeOptions(opts))
	return err
}

// subscribeOptions is a function of its own for the same reason as publishOptions.
func subscribeOptions(opts []SubscribeOption) subscribing {
	if len(opts) == 0 {
		return subscribing{}
	}
	var o subscribing
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// subscribe returns the cursor that will answer the client. nil: the answer is queued already.
func (s *Server) subscribe(ctx context.Context, sess *Session, topic string, o subscribing) (*cursor, error) {
	if sess == nil {
		return nil, errNilSession
	}
	if err := s.checkTopic(topic); err != nil {
		return nil, err
	}
	if sess.IsClosed() {
		return nil, ErrSessionClosed // before the broker is asked
	}
	if done, err := s.topics.subscribeNow(sess, topic, s.opts.MaxTopics, o); done {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	return s.topics.subscribe(ctx, sess, topic, s.opts.MaxTopics, o)
}

// Unsubscribe removes the session from the topic. Publications made after Unsubscribe has
// returned do not reach the session. Publications that are queued for it already still do.
// A session that was not subscribed, or has ended, is not an error.
func (s *Server) Unsubscribe(sess *Session, topic string) error {
	if sess == nil {
		return errNilSession
	}
	if err := s.checkTopic(topic); err != nil {
		return err
	}
	s.topics.unsubscribe(sess, topic)
	return nil
}

// Broker returns Options.Broker, or the MemoryBroker that the server made for itself.
func (s *Server) Broker() Broker { return s.opts.Broker }

// sink is the server as its broker sees it: a broker.Sink and broker.Rules.
type sink struct{ server *Server }

func (s sink) Deliver(p *broker.Publication) { s.server.topics.deliver(p) }

func (s sink) Lost(topic string, cause error) {
	level := slog.LevelInfo // the server fetches what is missing
	if s.server.topics.recover == nil {
		level = slog.LevelWarn // there is no history from which it could
	}
	s.server.logOfClient(level, "live: broker may have lost deliveries", "topic", topic, "err", cause)
	s.server.topics.lost(topic)
}

// History implements broker.Rules.
func (s sink) History(topic string) (size int, age time.Duration) {
	o := s.server.topicOptions(topic)
	return o.History, o.HistoryAge
}

// Keyed implements broker.Rules.
func (s sink) Keyed(topic string) bool { return s.server.topicOptions(topic).Keyed }

// topicOptions calls Options.Topics for callers that hold locks. If Topics panics, the panic is
// logged and the topic gets the zero TopicOptions.
func (s *Server) topicOptions(topic string) (o TopicOptions) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked("Topics", p, "topic", topic)
		}
	}()
	return s.opts.Topics(topic)
}

var errNilSession = errors.New("live: nil session")

// add adds a session whose handshake began at a given time. It ends the session if the server
// shuts down, or if the user was disconnected since then.
func (s *Server) add(sess *Session, began time.Time) {
	s.mu.Lock()
	s.running.Add(2)
	if sess.compressed {
		s.topics.compressed.Add(1)
	}
	sess.index = len(s.sessions)
	s.sessions = append(s.sessions, sess)
	s.startSweeper()
	s.startAging(sess)
	draining := s.isDraining()
	ending, revoked := s.revokedSince(sess.user, began)
	replaced := s.takePlace(sess)
	var ready outbox.List
	if sess.wire == wireV1 {
		sess.out.Add(helloFrame(sess), &ready) // cannot fail: the queue is empty
	}
	s.mu.Unlock()
	s.writers.Write(&ready)
	s.counters.accepted.Add(1)
	if replaced != nil {
		replaced.replace()
	}
	switch {
	case revoked:
		sess.end(ending)
	case draining:
		sess.end(restart(0))
	}
}

// remove takes a session that has ended off the list. The session lingers until its connection
// is closed.
func (s *Server) remove(sess *Session) {
	s.mu.Lock()
	last := len(s.sessions) - 1
	s.sessions[sess.index] = s.sessions[last]
	s.sessions[sess.index].index = sess.index
	s.sessions[last] = nil
	s.sessions = s.sessions[:last]
	if !sess.readDone {
		s.lingering[sess] = struct{}{}
	}
	if last == 0 {
		s.stopSweeper()
		s.stopExpirer()
		s.stopAger()
	}
	if sess.compressed {
		s.topics.compressed.Add(-1)
	}
	s.mu.Unlock()
	s.givePlaceBack(sess)
	s.release()
}

// readEnded notes that the session's connection is closed.
func (s *Server) readEnded(sess *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sess.readDone = true
	delete(s.lingering, sess)
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	var id [2 * len(b)]byte
	hex.Encode(id[:], b[:])
	return string(id[:])
}
