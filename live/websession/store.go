package websession

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2"
)

// Store is an scs store that writes only if nobody else has written since it read. With a Store,
// the promises of package websession also hold between processes. Package sqlitestore has one.
//
// Every call gets a context that ends: after five seconds for a call on a socket, 15 for a call
// in a request, and a minute for a list. A call of a store that obeys its context never takes
// longer. An scs store without contexts must itself bound the time of its calls.
type Store interface {
	scs.CtxStore

	// FindVersion is FindCtx. It also returns the version of the data and when the session
	// expires. A version is never used again for other data, even if the token is deleted and
	// written again.
	FindVersion(ctx context.Context, token string) (b []byte, version int64, expiry time.Time, found bool, err error)

	// Update replaces the data of a session if the session is there, has not expired, and has
	// this version. The version is then version+1. Otherwise Update changes nothing, and ok is
	// false.
	Update(ctx context.Context, token string, version int64, b []byte, expiry time.Time) (ok bool, err error)

	// Expiries returns when the sessions of the tokens expire. A token is left out if its
	// session is not there or has expired.
	Expiries(ctx context.Context, tokens []string) (map[string]time.Time, error)
}

// record is a session as a store has it.
type record struct {
	data    []byte
	version int64
	expiry  time.Time
}

// adapt returns sm.Store as a Store. An scs store that is no Store gets a plainStore around it.
func adapt(sm *scs.SessionManager) Store {
	if s, ok := sm.Store.(Store); ok {
		return s
	}
	return &plainStore{store: sm.Store, sm: sm, seed: maphash.MakeSeed()}
}

// plainStore is a Store on top of an scs store that cannot compare. It compares and writes under
// a lock, which excludes only the writers of this process. The version is a hash of the data.
type plainStore struct {
	store scs.Store
	sm    *scs.SessionManager // for its codec
	seed  maphash.Seed
	locks [64]sync.Mutex // by the hash of a token; held to write that token
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

// FindVersion returns a zero expiry. To know the expiry it would have to decode the session,
// which its caller does anyway.
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

// Expiries returns the latest time at which each session can expire. The exact time depends on
// the last use of the session, which the store does not tell.
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

// listAll returns the data of every session in a store.
func listAll(ctx context.Context, store scs.Store) (map[string][]byte, error) {
	switch s := store.(type) {
	case scs.IterableCtxStore:
		return s.AllCtx(ctx)
	case scs.IterableStore:
		return s.All()
	case *plainStore:
		return listAll(ctx, s.store)
	}
	return nil, errNotIterable
}
