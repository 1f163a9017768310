package websession

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// visit ties one request to its session. If the request becomes a socket, the visit ties the
// socket to the session. A visit is settled just before the head of the response is sent. Until
// then scs keeps the request's copy of the session in the request's context. After that the visit
// has only the session's key, and every call uses the store.
type visit struct {
	m         *Manager
	presented []string // the store's keys of the cookies that were looked up

	// phase is held for reading by a call that works on the request's copy, and for writing by
	// settle.
	phase   sync.RWMutex
	settled atomic.Bool
	ctx     context.Context // with the request's copy; nil once settled
	token   string          // set by settle; "" if there is no session, or only its hash is known
	key     string          // set by settle: the store's key of the token; "" if there is no session

	dropped atomic.Bool // the changes were not saved, as the session had ended

	mu        sync.Mutex // guards what follows
	loaded    record     // the session as it was read from the store; nil data: it was not there
	loadedKey string     // the store's key of loaded
	how       ending     // how a session ends if scs deletes it now
	deleted   []string   // keys that were given to announceLater
}

type visitKey struct{}

// visitOf returns the visit of a context; nil if the context has none of this manager.
func (m *Manager) visitOf(ctx context.Context) *visit {
	if v, _ := ctx.Value(visitKey{}).(*visit); v != nil && v.m == m {
		return v
	}
	return nil
}

// handshakeKeys returns the store's key of a handshake's session. If there is no session, it
// returns the keys of the cookies that came.
func (v *visit) handshakeKeys() []string {
	var key string
	if !v.inRequest(func(ctx context.Context) { key = v.m.keyOf(v.m.scs.Token(ctx)) }) {
		key = v.key
	}
	if key != "" {
		return []string{key}
	}
	return v.presented
}

// presents reports whether the request has a cookie with this key.
func (v *visit) presents(key string) bool { return slices.Contains(v.presented, key) }

func (v *visit) setLoaded(key string, r record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.loaded, v.loadedKey = r, key
}

func (v *visit) getLoaded(key string) (record, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.loaded, v.loadedKey == key
}

// withEnding calls f. A session that f deletes ends in the given way.
func (v *visit) withEnding(how ending, f func() error) error {
	v.mu.Lock()
	v.how = how
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.how = undecided
	}()
	return f()
}

// currentEnding returns how a session ends if it is deleted now.
func (v *visit) currentEnding() ending {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.how
}

// announceLater keeps the key of a session that the application has deleted through scs. Whether
// that was a Destroy or a RenewToken is known only when the visit is settled.
func (v *visit) announceLater(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.deleted = append(v.deleted, key)
}

// announceDeleted ends the sockets of the sessions that were given to announceLater.
func (v *visit) announceDeleted(how ending) {
	v.mu.Lock()
	keys := v.deleted
	v.deleted = nil
	v.mu.Unlock()
	for _, key := range keys {
		v.m.announce(key, how)
	}
}

// settle saves the changes and sets the cookie. The request's copy is not used after it.
func (v *visit) settle(w http.ResponseWriter, r *http.Request) error {
	v.phase.Lock()
	defer v.phase.Unlock()
	if v.settled.Load() {
		return nil
	}
	err := v.m.commit(v, w, r)
	v.token = v.m.scs.Token(v.ctx)
	v.key = v.m.keyOf(v.token)
	how := renewed
	if v.key == "" {
		how = destroyed
	}
	v.announceDeleted(how)
	v.setLoaded("", record{})
	v.ctx = nil
	v.settled.Store(true)
	return err
}

// inRequest calls f with the request's context if the visit is not settled yet. It reports whether
// it has called f.
func (v *visit) inRequest(f func(ctx context.Context)) bool {
	v.phase.RLock()
	defer v.phase.RUnlock()
	if v.settled.Load() {
		return false
	}
	f(v.ctx)
	return true
}

// stored reads the session from the store. values is nil if there is no session.
func (v *visit) stored() (deadline time.Time, values map[string]any, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	r, found, err := v.m.find(ctx, v.key)
	if err != nil || !found {
		return time.Time{}, nil, err
	}
	return v.m.scs.Codec.Decode(r.data)
}

// change lets f change the values of the session in the store. f reports whether it has changed
// anything. If somebody else writes in between, f is called again with the new values.
func (v *visit) change(f func(values map[string]any) (bool, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	for {
		r, found, err := v.m.find(ctx, v.key)
		if err != nil {
			return err
		}
		if !found {
			return ErrNoSession
		}
		deadline, values, err := v.m.scs.Codec.Decode(r.data)
		if err != nil {
			return err
		}
		if values == nil {
			values = make(map[string]any)
		}
		if yes, err := f(values); err != nil || !yes {
			return err
		}
		data, err := v.m.scs.Codec.Encode(deadline, values)
		if err != nil {
			return err
		}
		expiry := expiryOf(v.m.scs, deadline)
		if _, ok, err := v.m.update(ctx, v.key, r.version, data, expiry); ok || err != nil {
			if ok {
				v.m.sockets.extend(fingerprint(v.key), expiry)
			}
			return err
		}
	}
}
