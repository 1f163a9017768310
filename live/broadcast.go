package live

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// A broadcast is a type byte and two strings: the first with its length before it, the
// second up to the end. An older server ignores types that it does not know.
const (
	typeApp        = 'a' // of the application: a kind, and data
	typeDisconnect = 'd' // DisconnectUser: the user, and the reason
)

func encodeBroadcast(typ byte, first string, second []byte) []byte {
	b := make([]byte, 0, 1+binary.MaxVarintLen64+len(first)+len(second))
	b = appendString(append(b, typ), first)
	return append(b, second...)
}

func decodeBroadcast(b []byte) (typ byte, first string, second []byte, ok bool) {
	if len(b) == 0 {
		return 0, "", nil, false
	}
	first, second, ok = cutString(b[1:])
	return b[0], first, second, ok
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// cutString splits off a string that has its length before it.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return "", nil, false
	}
	b = b[size:]
	return string(b[:n]), b[n:], true
}

// broadcasts are the application's handlers of broadcasts.
type broadcasts struct {
	mu       sync.RWMutex
	handlers map[string][]func(data []byte) // guarded by mu
}

// OnBroadcast has f called for every broadcast of a kind, wherever it was made, this
// server among others. Those of one server come in its order. f is called in the
// goroutine that brings them, and must not block, nor change data; those of several
// servers may come at the same time. A panic in f is logged and harms nobody.
func (s *Server) OnBroadcast(kind string, f func(data []byte)) {
	s.broadcasts.mu.Lock()
	defer s.broadcasts.mu.Unlock()
	if s.broadcasts.handlers == nil {
		s.broadcasts.handlers = make(map[string][]func([]byte))
	}
	s.broadcasts.handlers[kind] = append(s.broadcasts.handlers[kind], f)
}

// Broadcast has the functions called that were given to OnBroadcast for a kind, at
// every server of the Broker, and does not wait for them. Delivery is at most once: a
// server that the broker cannot reach does not hear it. With a Broker that is no Bus
// there is only this server. The error is the broker's, or ErrServerClosed.
func (s *Server) Broadcast(ctx context.Context, kind string, data []byte) error {
	return s.broadcast(ctx, encodeBroadcast(typeApp, kind, data))
}

func (s *Server) broadcast(ctx context.Context, b []byte) error {
	if s.closed.Load() {
		return ErrServerClosed
	}
	bus, ok := s.opts.Broker.(broker.Bus)
	if !ok {
		s.hear(b)
		return nil
	}
	if err := bus.Broadcast(ctx, b); err != nil {
		return fmt.Errorf("live: broadcast: %w", err)
	}
	return nil
}

// hear takes a broadcast of any server.
func (s *Server) hear(b []byte) {
	typ, first, second, ok := decodeBroadcast(b)
	switch {
	case !ok:
		s.logOfClient(slog.LevelWarn, "live: broadcast that is none of a server", "bytes", len(b))
	case typ == typeApp:
		s.broadcasts.mu.RLock()
		handlers := slices.Clone(s.broadcasts.handlers[first])
		s.broadcasts.mu.RUnlock()
		for _, f := range handlers {
			s.callSafely("OnBroadcast", "kind", first, func() { f(second) })
		}
	case typ == typeDisconnect:
		s.disconnectUser(first, string(second))
	}
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
