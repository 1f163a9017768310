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

// Disconnect ends the session as Close does, but with a close code that the application
// chooses. The code tells the client what to do; see CloseNormal. It must be 1000, 1008, 1011
// to 1013, or 3000 to 4999. With any other code Disconnect returns an error, and the session
// goes on.
//
// A browser's page sees the code and the reason. At most 123 bytes of the reason are sent,
// because a control frame has no more space (RFC 6455, section 5.5). CloseError then wraps
// ErrDisconnected. With CloseNormal it is nil.
func (s *Session) Disconnect(code int, reason string) error {
	if !mayDisconnectWith(code) {
		return fmt.Errorf("live: a session cannot be closed with code %d", code)
	}
	s.end(disconnection(code, reason, closedByApplication))
	return nil
}

func disconnection(code int, reason string, why closeReason) closing {
	c := closing{code: code, reason: strings.ToValidUTF8(reason, "\uFFFD"), why: why}
	if code == CloseNormal {
		if reason == "" {
			c.reason = closedByServer
		}
	} else {
		c.err = fmt.Errorf("%w: code %d %q", ErrDisconnected, code, reason)
	}
	return c
}

// closedByServer is the reason of a close with 1000 for which the application gave no reason.
// Proxies that restart close with 1000 and no reason. The reason tells live.js that the server
// has closed the session on purpose, and that it need not come back.
const closedByServer = "closed by the server"

// mayDisconnectWith reports whether the application may close with a code. It excludes codes
// that only an implementation of the protocol may send (RFC 6455, section 7.4), such as the
// one for a message that was too big.
func mayDisconnectWith(code int) bool {
	switch code {
	case CloseNormal, CloseRefused, ClosePanic, CloseRestart, 1013: // the last: try again later
		return true
	}
	return code >= 3000 && code <= 4999
}

var errNoUser = errors.New("live: DisconnectUser needs a user")

// DisconnectUser closes every session of a user with CloseRevoked, on every server of the
// Broker. Options.UserID says which sessions are the user's. Sessions whose handshake is under
// way are closed too. An application that revokes a right calls DisconnectUser after that, so
// that OnAuth refuses a client that connects again.
//
// If the error is not nil, perhaps only the sessions of this server were closed. An empty
// userID is an error, and closes nothing.
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

// revocation is the disconnection of a user. It is kept for handshakes that began before it:
// their OnAuth may have checked the user before the right was revoked.
type revocation struct {
	ending closing
	at     time.Time
}

// maxHandshake is how long a revocation is kept. A handshake takes longer only if OnAuth ignores
// its context.
func (s *Server) maxHandshake() time.Duration {
	return min(s.opts.AuthTimeout, math.MaxInt64-flushTimeout) + flushTimeout
}

// disconnectUser closes the sessions of a user on this server.
func (s *Server) disconnectUser(user, reason string) {
	if user == "" {
		return
	}
	ending := disconnection(CloseRevoked, reason, closedUser)
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
	return s.sessionsOf(user)
}

// revokedSince reports whether a user was disconnected since a handshake began, and how
// its session ends then; mu is held.
func (s *Server) revokedSince(user string, began time.Time) (ending closing, revoked bool) {
	r, ok := s.revocations[user]
	return r.ending, ok && !r.at.Before(began)
}
