package live

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"time"
)

// Disconnect ends the session as Close does, with a close code of the application's
// choice, which tells the client what to do: one of the constants, or one from the
// ranges 1000, 1008, 1011 to 1013 and 3000 to 4999. Another code is an error, and
// the session goes on. A browser's page sees code and reason; of the reason no more
// than 123 bytes are sent, since a control frame has no more room (RFC 6455, section
// 5.5).
//
// CloseError then wraps ErrDisconnected, or is nil if the code is CloseNormal.
func (s *Session) Disconnect(code int, reason string) error {
	if !mayDisconnectWith(code) {
		return fmt.Errorf("live: a session cannot be closed with code %d", code)
	}
	s.end(disconnection(code, reason))
	return nil
}

func disconnection(code int, reason string) closing {
	c := closing{code: code, reason: strings.ToValidUTF8(reason, "\uFFFD")}
	if code == CloseNormal {
		if reason == "" {
			c.reason = meant
		}
	} else {
		c.err = fmt.Errorf("%w: code %d %q", ErrDisconnected, code, reason)
	}
	return c
}

// meant is the reason of a close with 1000 that has no other. Proxies close with 1000 and no
// reason when they restart: by this live.js knows that it need not come back.
const meant = "closed by the server"

// mayDisconnectWith leaves out what only a protocol's own end may say (RFC 6455,
// section 7.4), as that a message was too big.
func mayDisconnectWith(code int) bool {
	switch code {
	case CloseNormal, CloseRefused, ClosePanic, CloseRestart, 1013: // the last: try again later
		return true
	}
	return code >= 3000 && code <= 4999
}

var errNoUser = errors.New("live: DisconnectUser needs a user")

// DisconnectUser closes every session of a user, as Options.UserID tells it, with
// CloseRevoked, on every server of the Broker: they may not come back as they are. One
// whose handshake is under way is closed too. Whoever revokes a right does so first,
// so that a client which dials again meets an OnAuth that knows.
//
// If the error is not nil only the sessions of this server are sure to be closed.
func (s *Server) DisconnectUser(userID, reason string) error {
	if userID == "" {
		return errNoUser
	}
	ctx, cancel := context.WithTimeout(context.Background(), brokerTimeout)
	defer cancel()
	err := s.broadcast(ctx, encodeBroadcast(typeDisconnect, userID, []byte(reason)))
	if err != nil {
		s.disconnectUser(userID, reason)
	}
	return err
}

// revocation is a user's disconnection, kept for handshakes that began before it: their
// OnAuth may have looked before the right was revoked.
type revocation struct {
	ending closing
	at     time.Time
}

// maxHandshake is how long a revocation is kept: for longer a handshake takes only if
// OnAuth ignores its context.
func (s *Server) maxHandshake() time.Duration {
	return min(s.opts.AuthTimeout, math.MaxInt64-flushTimeout) + flushTimeout
}

// disconnectUser closes a user's sessions of this server. It walks over all: it is
// seldom done, and an index would cost every session some bytes.
func (s *Server) disconnectUser(user, reason string) {
	if user == "" {
		return
	}
	ending := disconnection(CloseRevoked, reason)
	for _, sess := range s.revoke(user, ending) {
		sess.end(ending)
	}
}

// revoke notes the revocation and returns the user's sessions.
func (s *Server) revoke(user string, ending closing) []*Session {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.revocations, func(_ string, r revocation) bool { return now.Sub(r.at) > s.maxHandshake() })
	if s.admitted > len(s.sessions) { // a handshake is under way
		s.revocations[user] = revocation{ending, now}
	}
	var theirs []*Session
	for _, sess := range s.sessions {
		if sess.user == user {
			theirs = append(theirs, sess)
		}
	}
	return theirs
}

// revokedSince reports whether a user was disconnected since a handshake began, and how
// its session ends then; mu is held.
func (s *Server) revokedSince(user string, began time.Time) (ending closing, yes bool) {
	r, ok := s.revocations[user]
	return r.ending, ok && !r.at.Before(began)
}
