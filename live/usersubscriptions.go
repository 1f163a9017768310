package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// maxUserChanges bounds the changes that wait at one server. Each takes about a hundred bytes.
const maxUserChanges = 10_000

// SubscribeUser subscribes all present sessions of a user to a topic, on every server of the Broker.
// Options.UserID says which sessions are the user's. OnSubscribe is not asked. It returns before the
// sessions are subscribed; the changes of one server take effect in their order. A session that begins
// later is not subscribed, so OnConnect should subscribe it.
//
// The error wraps ErrInvalidTopic, or is that of Broadcast. If it is the broker's, perhaps no session was
// subscribed. What fails at a session is logged.
func (s *Server) SubscribeUser(userID, topic string) error {
	return s.changeUser(typeSubscribeUser, userID, topic)
}

// UnsubscribeUser undoes SubscribeUser, and ends the subscriptions that the user's clients made. A client
// that subscribes again is let in if OnSubscribe allows it.
func (s *Server) UnsubscribeUser(userID, topic string) error {
	return s.changeUser(typeUnsubscribeUser, userID, topic)
}

func (s *Server) changeUser(typ byte, userID, topic string) error {
	if userID == "" {
		return errors.New("live: a user is needed")
	}
	if err := s.checkTopic(topic); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), brokerTimeout)
	defer cancel()
	return s.broadcast(ctx, encodeBroadcast(typ, userID, []byte(topic)))
}

// userChanges are changes of the subscriptions of users that wait for their turn. To subscribe may
// take as long as the broker needs, and broadcasts must not wait for that.
type userChanges struct {
	mu      sync.Mutex // guards what follows
	waiting []userChange
	running bool // a goroutine makes the changes
}

type userChange struct {
	user, topic string
	subscribe   bool
}

// addUserChange has a change made after those that wait.
func (s *Server) addUserChange(c userChange) {
	q := &s.userChanges
	q.mu.Lock()
	full := len(q.waiting) == maxUserChanges
	if !full {
		q.waiting = append(q.waiting, c)
	}
	start := !q.running
	q.running = true
	q.mu.Unlock()
	if full {
		s.logOfClient(slog.LevelError, "live: too many users are to be subscribed or unsubscribed at once; one is not", "user", c.user, "topic", c.topic)
	}
	if start {
		go s.makeUserChanges() // ends when none waits
	}
}

func (s *Server) makeUserChanges() {
	q := &s.userChanges
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.waiting, q.running = nil, false
			q.mu.Unlock()
			return
		}
		c := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.mu.Unlock()
		s.makeUserChange(c)
	}
}

func (s *Server) makeUserChange(c userChange) {
	s.mu.Lock()
	sessions := s.sessionsOf(c.user)
	s.mu.Unlock()
	for _, sess := range sessions {
		change := s.Unsubscribe
		if c.subscribe {
			change = func(sess *Session, topic string) error { return s.Subscribe(sess, topic) }
		}
		if err := s.tryUserChange(change, sess, c.topic); err != nil && !errors.Is(err, ErrSessionClosed) && !errors.Is(err, ErrServerClosed) {
			s.logOfClient(slog.LevelWarn, "live: a user's session was not subscribed or unsubscribed", "session", sess.id, "topic", c.topic, "err", err)
		}
	}
}

// tryUserChange makes one change. A broker that panics, or an option function that does, must not end
// the goroutine.
func (s *Server) tryUserChange(change func(*Session, string) error, sess *Session, topic string) error {
	err := fmt.Errorf("live: topic %q: %w", topic, errBrokerPanicked) // unless it returns
	s.callApart("Topics", "topic", topic, func() { err = change(sess, topic) })
	return err
}

// sessionsOf returns the sessions of a user at this server. It walks over all sessions: an index would
// cost every session some bytes. mu is held.
func (s *Server) sessionsOf(user string) []*Session {
	var theirs []*Session
	for _, sess := range s.sessions {
		if sess.user == user {
			theirs = append(theirs, sess)
		}
	}
	return theirs
}
