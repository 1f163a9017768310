package live

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/livetopic/livetopic/live/broker"
)

// A broadcast is a type byte and two strings: the first with its length before it, the
// second up to the end. An older server ignores types that it does not know.
const (
	typeApp        = 'a' // of the application: a kind, and data
	typeDisconnect = 'd' // DisconnectUser: the user, and the reason
	typePresence   = 'p' // of package presence: nothing, and a message
	typeNode       = 'n' // of a server's figures: its ID, and a nodeBeat

	typeSubscribeUser   = 's' // SubscribeUser: the user, and the topic
	typeUnsubscribeUser = 'u' // UnsubscribeUser: the same
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

// OnBroadcast makes the server call f for every broadcast of a kind, from every server of the
// Broker, this server included. Broadcasts from one server come in the order in which it made
// them. Broadcasts from several servers may come at the same time. f must not block, because the
// goroutine that receives broadcasts waits for it. It must not change data. A panic in f is
// logged, and ends nothing.
func (s *Server) OnBroadcast(kind string, f func(data []byte)) {
	s.broadcasts.mu.Lock()
	defer s.broadcasts.mu.Unlock()
	if s.broadcasts.handlers == nil {
		s.broadcasts.handlers = make(map[string][]func([]byte))
	}
	s.broadcasts.handlers[kind] = append(s.broadcasts.handlers[kind], f)
}

// Broadcast makes every server of the Broker call the functions that were given to OnBroadcast
// for a kind. Delivery is at most once: a server that the broker cannot reach does not get the
// broadcast. If the Broker is not a Bus, only this server gets it. The error is
// ErrServerClosed, or wraps the broker's.
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
		s.logOfClient(slog.LevelWarn, "live: unknown broadcast ignored", "bytes", len(b))
	case typ == typeApp:
		s.broadcasts.mu.RLock()
		handlers := slices.Clone(s.broadcasts.handlers[first])
		s.broadcasts.mu.RUnlock()
		for _, f := range handlers {
			s.callApart("OnBroadcast", "kind", first, func() { f(second) })
		}
	case typ == typeDisconnect:
		s.disconnectUser(first, string(second))
	case typ == typeSubscribeUser, typ == typeUnsubscribeUser:
		s.addUserChange(userChange{user: first, topic: string(second), subscribe: typ == typeSubscribeUser})
	case typ == typePresence:
		s.presence.hear(second)
	case typ == typeNode:
		s.nodes.hear(first, second)
	}
}
