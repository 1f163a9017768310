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

// Server holds the sessions and the topics. It is made with New; its methods
// may be called from any goroutine.
type Server struct {
	opts       Options
	inbound    rate // what one client may send
	topics     *topics
	origins    []originRule
	writers    *outbox.Writers
	workers    workers
	counters   counters
	logs       loglimit.Limiter
	saidOnce   sync.Map // message texts
	broadcasts broadcasts
	closed     atomic.Bool    // Shutdown has returned
	running    sync.WaitGroup // for each handshake, and of each session for its reading, its leaving, its worker and its catching up

	mu        sync.Mutex // guards what follows
	sessions  []*Session // open
	lingering map[*Session]struct{}
	admitted  int            // open, or being admitted
	perUser   map[string]int // the same for each user; only with MaxSessionsPerUser
	sweeper   *time.Timer    // runs while there are sessions
	draining  bool           // Shutdown was called

	revocations map[string]revocation // of users, of late

	expirer    *time.Timer // runs while a session has an expiry
	nextExpiry int64       // when it is to act, in Unix seconds; only with expirer
}

// New returns a server that is ready to accept clients. It starts nothing that
// would have to be stopped; a server that is no longer used and has no session
// is garbage.
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
		perUser:   make(map[string]int),

		revocations: make(map[string]revocation),
	}
	s.topics = newTopics(s)
	if bus, ok := opts.Broker.(broker.Bus); ok {
		bus.OnBroadcast(s.hear)
	}
	opts.Broker.Start(sink{s})
	return s
}

// Handler returns the handler to which clients connect. It answers what is no
// good with 400, a wrong WebSocket version with 426, a wrong origin with 403,
// what OnAuth refuses with 401, and returns as soon as a session has begun.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(s.serveHTTP)
}

// PublishOption changes what Publish does.
type PublishOption func(*publishing)

// publishing is one call of Publish.
type publishing struct{ broker.PublishOptions }

// Except leaves out one session: the one whose message is being published, say,
// when its page has shown it already. nil leaves out none. A session that resumes
// from a position before the publication gets it all the same.
func Except(sess *Session) PublishOption {
	return func(o *publishing) {
		if sess != nil {
			o.Except = sess.id
		}
	}
}

// Publish sends data to every session that is subscribed to topic, at every server
// of the Broker, and does not wait for any of them. Publications of one topic
// reach all its sessions in one order, and those of one goroutine in the order it
// made them. A topic without subscribers is no error.
//
// data must be one JSON value, or empty for a message without data; it is
// copied. The error wraps ErrInvalidTopic or ErrInvalidData; or is the broker's,
// which then may or may not have the publication; or is ErrServerClosed after
// Shutdown. With the broker in memory there is none but these.
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
	if !s.topics.inProcess || o.History > 0 { // then the broker uses data on
		data = bytes.Clone(data)
	}
	at, err := s.opts.Broker.Publish(ctx, topic, data, o)
	if err != nil {
		return Position{}, fmt.Errorf("live: publish to %q: %w", topic, err)
	}
	s.counters.published.Add(1)
	return at, nil
}

// publishOptions is apart from its caller so that a publication without options
// does not allocate what they would change.
func (s *Server) publishOptions(topic string, opts []PublishOption) broker.PublishOptions {
	rules := s.opts.Topics(topic)
	if len(opts) == 0 {
		return broker.PublishOptions{History: rules.History, HistoryAge: rules.HistoryAge}
	}
	o := publishing{broker.PublishOptions{History: rules.History, HistoryAge: rules.HistoryAge}}
	for _, opt := range opts {
		opt(&o)
	}
	return o.PublishOptions
}

// Subscribe adds the session to the topic: every publication that is made at this
// server after Subscribe has returned reaches it. Subscribing twice is the same as
// once. The error is ErrSessionClosed if the session has ended, or wraps
// ErrInvalidTopic or ErrTooManyTopics, or is the broker's.
//
// With a broker of many servers the first subscription of a topic asks the broker,
// for five seconds at most.
func (s *Server) Subscribe(sess *Session, topic string, opts ...SubscribeOption) error {
	var o subscribing
	for _, opt := range opts {
		opt(&o)
	}
	_, err := s.subscribe(context.Background(), sess, topic, o)
	return err
}

// subscribe returns the cursor that will answer the client; nil: the answer is on its way.
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

// Unsubscribe removes the session from the topic: no publication that is made
// after Unsubscribe has returned reaches it. What was queued before still does.
// It is no error if the session was not subscribed or has ended.
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

// Broker returns the broker: the one of the options, or the server's own.
func (s *Server) Broker() Broker { return s.opts.Broker }

// sink is the server as its broker sees it.
type sink struct{ server *Server }

func (s sink) Deliver(p *broker.Publication) { s.server.topics.deliver(p) }

func (s sink) Lost(topic string, cause error) {
	level := slog.LevelInfo // what is missing will be fetched
	if s.server.topics.recover == nil {
		level = slog.LevelWarn
	}
	s.server.logOfClient(level, "live: broker may have lost deliveries", "topic", topic, "err", cause)
	s.server.topics.lost(topic)
}

// History implements broker.Rules.
func (s sink) History(topic string) (size int, age time.Duration) {
	o := s.server.topicOptions(topic)
	return o.History, o.HistoryAge
}

// topicOptions asks the application, for callers that hold locks: a panic there ends in
// the log, and the topic has no options.
func (s *Server) topicOptions(topic string) (o TopicOptions) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked("Topics", p, "topic", topic)
		}
	}()
	return s.opts.Topics(topic)
}

var errNilSession = errors.New("live: nil session")

// add begins a session, whose handshake began before. One that comes while the server
// shuts down, or whose user was disconnected meanwhile, is ended like the others.
func (s *Server) add(sess *Session, began time.Time) {
	s.mu.Lock()
	s.running.Add(2)
	if sess.compressed {
		s.topics.compressed.Add(1)
	}
	sess.index = len(s.sessions)
	s.sessions = append(s.sessions, sess)
	s.startSweeper()
	draining := s.draining
	ending, revoked := s.revokedSince(sess.user, began)
	var ready outbox.List
	if sess.wire == wireV1 {
		sess.out.Add(helloFrame(sess), &ready) // first of all; an empty queue takes it
	}
	s.mu.Unlock()
	s.writers.Write(&ready)
	s.counters.accepted.Add(1)
	switch {
	case revoked:
		sess.end(ending)
	case draining:
		sess.end(restart(0))
	}
}

// remove takes a session that has ended off the list. Until its client has
// taken leave too it lingers.
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
	}
	if sess.compressed {
		s.topics.compressed.Add(-1)
	}
	s.mu.Unlock()
	s.releaseUser(sess.user)
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
	return hex.EncodeToString(b[:])
}
