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
	gob.Register(time.Time{}) // scs has a GetTime, but its codec does not register the type
}

// Session is one browser's session, for a request or a socket. Its methods may be called from
// any goroutine. FromRequest, FromContext and FromLive return a nil *Session if there is no
// session. On a nil *Session, reads find nothing and changes return ErrNoSession.
//
// Before the head of the response is sent, a Session works on the request's copy. After that,
// each call reads or writes the store, for at most five seconds. Update makes several changes in
// one call.
type Session struct {
	v *visit

	mu  sync.Mutex
	err error // guarded by mu
}

// FromRequest returns the session of a request. It is nil if the request has not come through
// Middleware. A browser without a session gets an empty Session; it is saved, and its cookie set,
// when something is set in it.
func FromRequest(r *http.Request) *Session {
	if r == nil {
		return nil
	}
	return FromContext(r.Context())
}

// FromContext returns the session of a request's context, or of the context that a callback of a
// live server gets. It is nil if the context has no session.
func FromContext(ctx context.Context) *Session {
	if ctx == nil {
		return nil
	}
	v, _ := ctx.Value(visitKey{}).(*visit)
	return sessionOf(v)
}

// FromLive returns the session of a socket, from OnConnect until OnClose has returned. The socket's
// Value does not matter. It is nil before and after that time, and if the live server was not
// made by Manager.NewServer.
func FromLive(s *live.Session) *Session { return sessionOf(visitOfSocket(s)) }

func sessionOf(v *visit) *Session {
	if v == nil {
		return nil
	}
	return &Session{v: v}
}

// ID returns the token, which is the value of the cookie. It is secret: never put it into a page
// or a log, where the Fingerprint may stand. It is "" if there is no session, if the session has
// not been saved yet, or if it comes from Find and the store has only hashes of tokens.
func (s *Session) ID() (token string) {
	if s == nil {
		return ""
	}
	if !s.v.inRequest(func(ctx context.Context) { token = s.v.m.scs.Token(ctx) }) {
		token = s.v.token
	}
	return token
}

// Fingerprint returns 32 hexadecimal digits that tell this session from all others. Nobody can
// compute the token from them, so they may be shown and logged. They change with the token. The
// Fingerprint is "" while there is no token.
func (s *Session) Fingerprint() (digits string) {
	if s == nil {
		return ""
	}
	m := s.v.m
	if !s.v.inRequest(func(ctx context.Context) { digits = fingerprint(m.keyOf(m.scs.Token(ctx))) }) {
		digits = fingerprint(s.v.key)
	}
	return digits
}

// String returns the fingerprint, so that a printed session does not show its token.
func (s *Session) String() string { return "websession " + s.Fingerprint() }

// GoString is String, for %#v.
func (s *Session) GoString() string { return s.String() }

// Err returns the first error of the methods of s that do not return one: the getters, Pop and
// its forms, Exists, Keys and Deadline. It is nil if all of them succeeded. A missing value is not an
// error. Each Session that FromRequest, FromContext or FromLive returns starts without an error.
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

// Set stores a value under a key. The codec must be able to write the value. scs's own codec
// writes Go's basic types, slices of them, time.Time, and types that were given to gob.Register.
// If the codec cannot write the value, Set returns the codec's error and nothing changes.
func (s *Session) Set(key string, value any) error {
	if s == nil {
		return ErrNoSession
	}
	if err := s.v.m.encodes(key, value); err != nil {
		return err
	}
	if s.v.inRequest(func(ctx context.Context) { s.v.m.scs.Put(ctx, key, value) }) {
		return nil
	}
	return s.v.change(func(values map[string]any) (bool, error) {
		values[key] = value
		return true, nil
	})
}

// encodes returns an error if the codec cannot write a value. Without it, the error would come
// when the session is saved, and all changes would be lost.
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

// Delete removes a key. A missing key is not an error.
func (s *Session) Delete(key string) error {
	if s == nil {
		return ErrNoSession
	}
	if s.v.inRequest(func(ctx context.Context) { s.v.m.scs.Remove(ctx, key) }) {
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
	if s.v.inRequest(func(ctx context.Context) { err = s.v.m.scs.Clear(ctx) }) {
		return err
	}
	return s.v.change(func(values map[string]any) (bool, error) {
		had := len(values) > 0
		clear(values)
		return had, nil
	})
}

// Update lets f change the values in one step. Any other change comes before or after it, never
// in between. f may be called more than once, and must not use the session. If f returns an
// error, nothing changes and Update returns that error. In a request, f works on the request's
// copy, which is saved later.
func (s *Session) Update(f func(values map[string]any) error) (err error) {
	if s == nil {
		return ErrNoSession
	}
	if s.v.inRequest(func(ctx context.Context) { err = s.v.updateRequest(ctx, f) }) {
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

// Destroy ends the session: sign-out. It deletes the session from the store and closes its
// sockets on every server, with live.CloseRevoked. If s is the session of a socket, that socket
// is closed too. In a request, the response tells the browser to forget the cookie, if its head is
// not sent yet. A Set later in the same request begins a new session. If the store fails, Destroy
// returns its error, and the session has not ended. A missing session is not an error.
func (s *Session) Destroy() (err error) {
	if s == nil {
		return nil
	}
	m := s.v.m
	if s.v.inRequest(func(ctx context.Context) {
		err = s.v.withEnding(destroyed, func() error { return m.scs.Destroy(ctx) })
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

// RenewToken gives the session a new token and keeps its values. Call it before Set when someone
// signs in or gets more rights in another way. An attacker may have put a token of their own into
// the browser before that (session fixation), and after RenewToken that token is worthless.
// Sockets with the old token are closed with live.CloseSignInExpired. live.js then reconnects with
// the new token. If the session has ended since the request began, the new session is empty. On a
// socket, and after the head of the response is sent, RenewToken returns ErrHeadSent.
//
// The new cookie goes with the response. If the response is lost, the browser still has the old
// token, which has no session. Its next request then has an empty session, and its next handshake
// is refused with 401. The user must sign in again.
func (s *Session) RenewToken() (err error) {
	if s == nil {
		return ErrNoSession
	}
	if s.v.inRequest(func(ctx context.Context) {
		if err = s.v.clearIfEnded(ctx); err == nil {
			err = s.v.withEnding(renewed, func() error { return s.v.m.scs.RenewToken(ctx) })
		}
	}) {
		return err
	}
	return ErrHeadSent
}

// clearIfEnded empties the request's copy if its session is no longer in the store.
func (v *visit) clearIfEnded(ctx context.Context) error {
	key := v.m.keyOf(v.m.scs.Token(ctx))
	if !v.presents(key) {
		return nil // a session that this request began, and that is not in the store yet
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
	if s.v.inRequest(func(ctx context.Context) { value = s.v.m.scs.Get(ctx, key) }) {
		return value
	}
	_, values, err := s.v.stored()
	s.note(err)
	return values[key]
}

// Pop returns the value of a key and removes it, in one step. If several sockets pop it at the
// same time, only one of them gets it. Pop returns nil if there is no value.
func (s *Session) Pop(key string) (value any) {
	if s == nil {
		return nil
	}
	if s.v.inRequest(func(ctx context.Context) { value = s.v.m.scs.Pop(ctx, key) }) {
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

// Exists reports whether a key has a value.
func (s *Session) Exists(key string) (yes bool) {
	if s == nil {
		return false
	}
	if s.v.inRequest(func(ctx context.Context) { yes = s.v.m.scs.Exists(ctx, key) }) {
		return yes
	}
	_, values, err := s.v.stored()
	s.note(err)
	_, yes = values[key]
	return yes
}

// Keys returns all keys, sorted. It returns no keys if there is no session.
func (s *Session) Keys() (keys []string) {
	if s == nil {
		return nil
	}
	if s.v.inRequest(func(ctx context.Context) { keys = s.v.m.scs.Keys(ctx) }) {
		return keys
	}
	_, values, err := s.v.stored()
	s.note(err)
	return slices.Sorted(maps.Keys(values))
}

// Deadline returns when the session ends at the latest. An idle timeout can end it earlier. It
// returns the zero Time if there is no session.
func (s *Session) Deadline() (deadline time.Time) {
	if s == nil {
		return time.Time{}
	}
	if s.v.inRequest(func(ctx context.Context) { deadline = s.v.m.scs.Deadline(ctx) }) {
		return deadline
	}
	deadline, _, err := s.v.stored()
	s.note(err)
	return deadline
}

// typed returns a value as a T, or the zero T if the value is of another type.
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

// PopString is Pop for a string; "" if there is none. A value of another type is removed too. The
// other forms of Pop do the same.
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
