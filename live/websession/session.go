package websession

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

func init() {
	gob.Register(time.Time{}) // which scs's codec does not know by itself, though it has a GetTime
}

// Session is one browser's session, for a request or a socket. Its methods may be called
// from any goroutine. On a nil *Session, which the functions return where there is none,
// reading finds nothing and changing returns ErrNoSession.
//
// Before the head of the response is sent it is the request's. After it, each call reads
// or writes the store, for five seconds at most; Update makes one of several.
type Session struct {
	v *visit

	mu  sync.Mutex
	err error // guarded by mu
}

// FromRequest returns the session of a request that has come through Middleware; nil if it
// has not. It is never new: a cookie is set when something is.
func FromRequest(r *http.Request) *Session {
	if r == nil {
		return nil
	}
	return FromContext(r.Context())
}

// FromContext returns the session of a request's context, or of the context that a live
// server's callbacks get; nil if there is none.
func FromContext(ctx context.Context) *Session {
	if ctx == nil {
		return nil
	}
	v, _ := ctx.Value(visitKey{}).(*visit)
	return sessionOf(v)
}

// FromLive returns the session of a socket, from OnConnect to OnClose, whatever the
// socket's Value is. It is nil if the live server knows of no Manager, or the handler is
// not behind Middleware.
func FromLive(s *live.Session) *Session { return sessionOf(visitOfSocket(s)) }

func sessionOf(v *visit) *Session {
	if v == nil {
		return nil
	}
	return &Session{v: v}
}

// ID returns the token, which is the value of the cookie: it is secret, and belongs into no
// page and no log; see Fingerprint. "" if the session has not been saved yet, or there is
// none, or if it is from Find and the store has only hashes.
func (s *Session) ID() (token string) {
	if s == nil {
		return ""
	}
	if !s.v.request(func(ctx context.Context) { token = s.v.m.scs.Token(ctx) }) {
		token = s.v.token
	}
	return token
}

// Fingerprint tells this session from all others: 32 hexadecimal digits, from which nobody
// can get to the token, so that they may be shown and logged. It changes with the token.
// "" where there is no token yet.
func (s *Session) Fingerprint() (digits string) {
	if s == nil {
		return ""
	}
	m := s.v.m
	if !s.v.request(func(ctx context.Context) { digits = fingerprint(m.keyOf(m.scs.Token(ctx))) }) {
		digits = fingerprint(s.v.key)
	}
	return digits
}

// String returns the fingerprint, so that a session may be printed.
func (s *Session) String() string { return "websession " + s.Fingerprint() }

// GoString is String, for %#v.
func (s *Session) GoString() string { return s.String() }

// Err returns the first error of those methods of s that cannot return one: of the getters,
// Pop and its forms, Exists, Keys and Deadline. nil if all was well; that nothing is there is no
// error. Every FromRequest, FromContext and FromLive begins anew.
func (s *Session) Err() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Session) note(err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// Set stores a value under a key. It must be one that the codec can write: with scs's own
// that is every type of Go's, and types that were given to gob.Register; else Set returns
// the codec's error, and nothing has changed.
func (s *Session) Set(key string, value any) error {
	if s == nil {
		return ErrNoSession
	}
	if err := s.v.m.encodes(key, value); err != nil {
		return err
	}
	if s.v.request(func(ctx context.Context) { s.v.m.scs.Put(ctx, key, value) }) {
		return nil
	}
	return s.v.change(func(values map[string]any) (bool, error) {
		values[key] = value
		return true, nil
	})
}

// encodes finds out now what would else fail the whole session when it is saved.
func (m *Manager) encodes(key string, value any) error {
	switch value.(type) {
	case string, bool, int, int64, float64, []byte, time.Time:
		return nil
	}
	if _, err := m.scs.Codec.Encode(time.Time{}, map[string]any{key: value}); err != nil {
		return fmt.Errorf("websession: a %T cannot be stored: %w", value, err)
	}
	return nil
}

// Delete removes a key. It is no error if it was not there.
func (s *Session) Delete(key string) error {
	if s == nil {
		return ErrNoSession
	}
	if s.v.request(func(ctx context.Context) { s.v.m.scs.Remove(ctx, key) }) {
		return nil
	}
	return s.v.change(func(values map[string]any) (bool, error) {
		_, had := values[key]
		delete(values, key)
		return had, nil
	})
}

// Clear removes all values. The session goes on, and its sockets stay.
func (s *Session) Clear() (err error) {
	if s == nil {
		return ErrNoSession
	}
	if s.v.request(func(ctx context.Context) { err = s.v.m.scs.Clear(ctx) }) {
		return err
	}
	return s.v.change(func(values map[string]any) (bool, error) {
		had := len(values) > 0
		clear(values)
		return had, nil
	})
}

// Update has f change the values, in one step: another's change comes before or after it. f may
// be called more than once, and must not use the session. If it returns an error nothing is
// changed. In a request, f works on its copy, and what it changed is saved with it.
func (s *Session) Update(f func(values map[string]any) error) (err error) {
	if s == nil {
		return ErrNoSession
	}
	if s.v.request(func(ctx context.Context) { err = s.v.updateRequest(ctx, f) }) {
		return err
	}
	return s.v.change(func(values map[string]any) (bool, error) {
		err := f(values)
		return err == nil, err
	})
}

func (v *visit) updateRequest(ctx context.Context, f func(map[string]any) error) error {
	sm := v.m.scs
	before := make(map[string]any)
	for _, key := range sm.Keys(ctx) {
		before[key] = sm.Get(ctx, key)
	}
	after := maps.Clone(before)
	if err := f(after); err != nil {
		return err
	}
	for key, value := range after {
		if err := v.m.encodes(key, value); err != nil {
			return err
		}
	}
	for key := range before {
		if _, kept := after[key]; !kept {
			sm.Remove(ctx, key)
		}
	}
	for key, value := range after {
		sm.Put(ctx, key, value)
	}
	return nil
}

// Destroy ends the session: sign-out. It is deleted from the store, its sockets are closed
// on every server with live.CloseRevoked, this one among them if s is a socket's, and the
// browser is told to forget the cookie if there still is a response to tell it with. What is
// set in the request after it begins a new session. The error is the store's; the session
// has then not ended. That there is none is no error.
func (s *Session) Destroy() (err error) {
	if s == nil {
		return nil
	}
	m := s.v.m
	if s.v.request(func(ctx context.Context) {
		err = s.v.ends(destroyed, func() error { return m.scs.Destroy(ctx) })
	}) {
		return err
	}
	if s.v.key == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	return m.destroy(ctx, s.v.key, destroyed, nil)
}

// RenewToken gives the session a new token, with the same values. It is to be called before
// Set when someone signs in, or gets more rights in another way: a token that somebody has
// slipped into the browser before is then worth nothing (session fixation). Sockets with
// the old token are closed with live.CloseSignInExpired, and come back with the new one. If
// the session has ended since the request began, its values do not live on under another
// token: the new session is empty. On a socket, and after the head of the response is sent, it
// returns ErrHeadSent.
//
// The new cookie goes with the response. If that is lost, the browser's old token is one of no
// session: its next request has none, its next handshake is refused with 401, and its user signs
// in again.
func (s *Session) RenewToken() (err error) {
	if s == nil {
		return ErrNoSession
	}
	if s.v.request(func(ctx context.Context) {
		if err = s.v.clearIfEnded(ctx); err == nil {
			err = s.v.ends(renewed, func() error { return s.v.m.scs.RenewToken(ctx) })
		}
	}) {
		return err
	}
	return ErrHeadSent
}

// clearIfEnded empties the request's copy of a session that is in the store no more.
func (v *visit) clearIfEnded(ctx context.Context) error {
	key := v.m.keyOf(v.m.scs.Token(ctx))
	if !v.came(key) {
		return nil // it is the request's own, and not in the store yet
	}
	_, found, err := v.m.find(ctx, key)
	if err != nil || found {
		return err
	}
	return v.m.scs.Clear(ctx)
}

// Get returns the value of a key; nil if there is none.
func (s *Session) Get(key string) (value any) {
	if s == nil {
		return nil
	}
	if s.v.request(func(ctx context.Context) { value = s.v.m.scs.Get(ctx, key) }) {
		return value
	}
	_, values, err := s.v.stored()
	s.note(err)
	return values[key]
}

// Pop returns the value of a key and removes it, in one step: of several on sockets only one
// gets it. nil if there is none.
func (s *Session) Pop(key string) (value any) {
	if s == nil {
		return nil
	}
	if s.v.request(func(ctx context.Context) { value = s.v.m.scs.Pop(ctx, key) }) {
		return value
	}
	err := s.v.change(func(values map[string]any) (had bool, err error) {
		value, had = values[key]
		delete(values, key)
		return had, nil
	})
	if err == nil {
		return value
	}
	if !errors.Is(err, ErrNoSession) {
		s.note(err)
	}
	return nil
}

// Exists reports whether there is a value of a key.
func (s *Session) Exists(key string) (yes bool) {
	if s == nil {
		return false
	}
	if s.v.request(func(ctx context.Context) { yes = s.v.m.scs.Exists(ctx, key) }) {
		return yes
	}
	_, values, err := s.v.stored()
	s.note(err)
	_, yes = values[key]
	return yes
}

// Keys returns all keys, in order; none if there is no session.
func (s *Session) Keys() (keys []string) {
	if s == nil {
		return nil
	}
	if s.v.request(func(ctx context.Context) { keys = s.v.m.scs.Keys(ctx) }) {
		return keys
	}
	_, values, err := s.v.stored()
	s.note(err)
	return slices.Sorted(maps.Keys(values))
}

// Deadline returns when the session ends at the latest, without regard to an idle timeout;
// the zero Time if there is none.
func (s *Session) Deadline() (deadline time.Time) {
	if s == nil {
		return time.Time{}
	}
	if s.v.request(func(ctx context.Context) { deadline = s.v.m.scs.Deadline(ctx) }) {
		return deadline
	}
	deadline, _, err := s.v.stored()
	s.note(err)
	return deadline
}

// typed returns a value as a T, or the zero T if it is none.
func typed[T any](value any) T {
	t, _ := value.(T)
	return t
}

// GetString returns a string; "" if there is none.
func (s *Session) GetString(key string) string { return typed[string](s.Get(key)) }

// GetInt returns an int; 0 if there is none.
func (s *Session) GetInt(key string) int { return typed[int](s.Get(key)) }

// GetBool returns a bool; false if there is none.
func (s *Session) GetBool(key string) bool { return typed[bool](s.Get(key)) }

// GetFloat64 returns a float64; 0 if there is none.
func (s *Session) GetFloat64(key string) float64 { return typed[float64](s.Get(key)) }

// GetTime returns a time.Time; the zero Time if there is none.
func (s *Session) GetTime(key string) time.Time { return typed[time.Time](s.Get(key)) }

// GetBytes returns a copy of a []byte; nil if there is none.
func (s *Session) GetBytes(key string) []byte { return bytes.Clone(typed[[]byte](s.Get(key))) }

// PopString is Pop for a string; "" if there is none. What is no string is removed too, here
// and in the other forms.
func (s *Session) PopString(key string) string { return typed[string](s.Pop(key)) }

// PopInt is Pop for an int; 0 if there is none.
func (s *Session) PopInt(key string) int { return typed[int](s.Pop(key)) }

// PopBool is Pop for a bool; false if there is none.
func (s *Session) PopBool(key string) bool { return typed[bool](s.Pop(key)) }

// PopFloat64 is Pop for a float64; 0 if there is none.
func (s *Session) PopFloat64(key string) float64 { return typed[float64](s.Pop(key)) }

// PopTime is Pop for a time.Time; the zero Time if there is none.
func (s *Session) PopTime(key string) time.Time { return typed[time.Time](s.Pop(key)) }

// PopBytes is Pop for a []byte; nil if there is none.
func (s *Session) PopBytes(key string) []byte { return typed[[]byte](s.Pop(key)) }
