package websession

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2"
)

// Store is an scs store that can compare before it writes. With one, what package
// websession promises holds between processes too. Package sqlitestore has one.
//
// Every call gets a context that ends: after five seconds for a call on a socket, 15 for one of a
// request, and a minute for a list. A store that heeds it keeps nobody waiting for longer. scs
// stores without contexts cannot be bounded: those must bound their calls themselves.
type Store interface {
	scs.CtxStore

	// FindVersion is FindCtx, with the version of what was found and when it expires.
	// A version is not used again for another content, nor when the token is deleted and
	// comes back.
	FindVersion(ctx context.Context, token string) (b []byte, version int64, expiry time.Time, found bool, err error)

	// Update replaces the data of a session that is there, has not expired, and has this
	// version, which then is version+1. Else it does nothing, and ok is false.
	Update(ctx context.Context, token string, version int64, b []byte, expiry time.Time) (ok bool, err error)

	// Expiries returns when sessions expire, of those tokens whose session is there and
	// has not.
	Expiries(ctx context.Context, tokens []string) (map[string]time.Time, error)
}

// record is a session as a store has it.
type record struct {
	data    []byte
	version int64
	expiry  time.Time
}

// adapt makes a Store of any scs store.
func adapt(sm *scs.SessionManager) Store {
	if s, ok := sm.Store.(Store); ok {
		return s
	}
	return &plainStore{store: sm.Store, sm: sm, seed: maphash.MakeSeed()}
}

// plainStore is a Store on top of one that cannot compare: it does so under a lock, which
// holds off the writers of this process alone. The version is a hash of the data.
type plainStore struct {
	store scs.Store
	sm    *scs.SessionManager // for its codec
	seed  maphash.Seed
	locks [64]sync.Mutex // held to write the tokens whose hash falls on it
}

func (s *plainStore) lock(token string) (unlock func()) {
	mu := &s.locks[maphash.String(s.seed, token)%uint64(len(s.locks))]
	mu.Lock()
	return mu.Unlock
}

func (s *plainStore) FindCtx(ctx context.Context, token string) ([]byte, bool, error) {
	if c, ok := s.store.(scs.CtxStore); ok {
		return c.FindCtx(ctx, token)
	}
	return s.store.Find(token)
}

func (s *plainStore) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) error {
	defer s.lock(token)()
	return s.commit(ctx, token, b, expiry)
}

func (s *plainStore) commit(ctx context.Context, token string, b []byte, expiry time.Time) error {
	if c, ok := s.store.(scs.CtxStore); ok {
		return c.CommitCtx(ctx, token, b, expiry)
	}
	return s.store.Commit(token, b, expiry)
}

func (s *plainStore) DeleteCtx(ctx context.Context, token string) error {
	defer s.lock(token)()
	if c, ok := s.store.(scs.CtxStore); ok {
		return c.DeleteCtx(ctx, token)
	}
	return s.store.Delete(token)
}

// FindVersion does not say when the session expires: it would have to decode it, which
// whoever asks is about to do, too.
func (s *plainStore) FindVersion(ctx context.Context, token string) ([]byte, int64, time.Time, bool, error) {
	b, found, err := s.FindCtx(ctx, token)
	if err != nil || !found {
		return nil, 0, time.Time{}, false, err
	}
	return b, s.version(b), time.Time{}, true, nil
}

func (s *plainStore) version(b []byte) int64 { return int64(maphash.Bytes(s.seed, b)) }

func (s *plainStore) Update(ctx context.Context, token string, version int64, b []byte, expiry time.Time) (bool, error) {
	defer s.lock(token)()
	current, found, err := s.FindCtx(ctx, token)
	if err != nil || !found || s.version(current) != version {
		return false, err
	}
	return true, s.commit(ctx, token, b, expiry)
}

// Expiries returns when the sessions expire at the latest: when one was last used the store
// keeps to itself.
func (s *plainStore) Expiries(ctx context.Context, tokens []string) (map[string]time.Time, error) {
	expiries := make(map[string]time.Time, len(tokens))
	for _, token := range tokens {
		b, found, err := s.FindCtx(ctx, token)
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		deadline, _, err := s.sm.Codec.Decode(b)
		if err != nil {
			return nil, err
		}
		expiries[token] = expiryOf(s.sm, deadline)
	}
	return expiries, nil
}

func (s *plainStore) Find(token string) ([]byte, bool, error) {
	return s.FindCtx(context.Background(), token)
}

func (s *plainStore) Commit(token string, b []byte, expiry time.Time) error {
	return s.CommitCtx(context.Background(), token, b, expiry)
}

func (s *plainStore) Delete(token string) error { return s.DeleteCtx(context.Background(), token) }

// all returns the data of every session in a store.
func all(ctx context.Context, store scs.Store) (map[string][]byte, error) {
	switch s := store.(type) {
	case scs.IterableCtxStore:
		return s.AllCtx(ctx)
	case scs.IterableStore:
		return s.All()
	case *plainStore:
		return all(ctx, s.store)
	}
	return nil, errNotIterable
}
