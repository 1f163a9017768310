package live

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/internal/outbox"
)

// Server holds the sessions and the topics. It is made with New; its methods
// may be called from any goroutine.
type Server struct {
	opts       Options
	inbound    inboundLimit
	topics     *topics
	writers    *outbox.Writers
	counters   counters
	compressed atomic.Int64   // open sessions with compression
	closed     atomic.Bool    // Shutdown has returned
	running    sync.WaitGroup // one for each handshake; two for each session: its reading, and its leaving

	mu        sync.Mutex // guards what follows
	sessions  []*Session // open
	lingering map[*Session]struct{}
	admitted  int            // open, or being admitted
	perUser   map[string]int // the same for each user; only with MaxSessionsPerUser
	sweeper   *time.Timer    // runs while there are sessions
	draining  bool           // Shutdown was called
}

// New returns a server that is ready to accept clients. It starts nothing that
// would have to be stopped; a server that is no longer used and has no session
// is garbage.
func New(opts Options) *Server {
	opts = opts.withDefaults()
	return &Server{
		opts:    opts,
		inbound: newInboundLimit(opts.InboundRate, opts.InboundBurst),
		topics:  newTopics(),
		writers: outbox.NewWriters(outbox.Limits{
			Frames:       opts.QueueSize,
			Bytes:        opts.QueueBytes,
			WriteTimeout: opts.WriteTimeout,
			FlushTimeout: flushTimeout,
			CloseTimeout: closeTimeout,
		}),
		lingering: make(map[*Session]struct{}),
		perUser:   make(map[string]int),
	}
}

// Handler returns the handler to which clients connect. It answers what is no
// good with 400, a wrong WebSocket version with 426, a wrong origin with 403,
// what OnAuth refuses with 401, and returns as soon as a session has begun.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(s.serveHTTP)
}

// Publish queues data for every session that is subscribed to topic, and does
// not wait for any of them: one whose queue is full is closed. Publications of
// one topic reach all its sessions in one order, and those of one goroutine in
// the order it made them. A topic without subscribers is no error.
//
// data must be one JSON value, or empty for a message without data; it is
// copied. The error wraps ErrInvalidTopic or ErrInvalidData, or is
// ErrServerClosed after Shutdown.
func (s *Server) Publish(topic string, data []byte) error {
	if err := s.checkTopic(topic); err != nil {
		return err
	}
	if err := checkData(data); err != nil {
		return err
	}
	if s.closed.Load() {
		return ErrServerClosed
	}
	delivered := s.topics.publish(s.writers, topic, data, s.compressed.Load() > 0)
	s.counters.published.Add(1)
	s.counters.delivered.Add(uint64(delivered))
	return nil
}

// Subscribe adds the session to the topic: every publication that is made after
// Subscribe has returned reaches it. Subscribing twice is the same as once. The
// error is ErrSessionClosed if the session has ended, or wraps ErrInvalidTopic
// or ErrTooManyTopics.
func (s *Server) Subscribe(sess *Session, topic string) error {
	if sess == nil {
		return errNilSession
	}
	if err := s.checkTopic(topic); err != nil {
		return err
	}
	return s.topics.subscribe(sess, topic, s.opts.MaxTopics)
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

var errNilSession = errors.New("live: nil session")

// reserve counts one more client, before it costs more than its handshake. Each
// reserve is paired with a release, when its session ends or does not begin.
func (s *Server) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return errDraining
	case s.opts.MaxSessions > 0 && s.admitted >= s.opts.MaxSessions:
		return errTooManySessions
	}
	s.admitted++
	s.running.Add(1) // under mu, so never after Shutdown has begun to wait
	return nil
}

// reserveUser is the same for one user.
func (s *Server) reserveUser(user string) error {
	if user == "" || s.opts.MaxSessionsPerUser <= 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perUser[user] >= s.opts.MaxSessionsPerUser {
		return errTooManyOfUser
	}
	s.perUser[user]++
	return nil
}

func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admitted--
}

func (s *Server) releaseUser(user string) {
	if user == "" || s.opts.MaxSessionsPerUser <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.perUser[user]--
	if s.perUser[user] == 0 {
		delete(s.perUser, user)
	}
}

// add begins a session. One that comes while the server shuts down is ended
// like the others.
func (s *Server) add(sess *Session) {
	s.mu.Lock()
	s.running.Add(2)
	if sess.compressed {
		s.compressed.Add(1)
	}
	sess.index = len(s.sessions)
	s.sessions = append(s.sessions, sess)
	s.startSweeper()
	draining := s.draining
	s.mu.Unlock()
	s.counters.accepted.Add(1)
	if draining {
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
	}
	if sess.compressed {
		s.compressed.Add(-1)
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
