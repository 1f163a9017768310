package websession

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// visit is one request's hold of a session, and then that of the socket which the request
// became. Until it is settled, when the head of the response is sent, what it knows is in
// the request's context, where scs keeps it; afterwards it has but the key, and all is in
// the store.
type visit struct {
	m         *Manager
	presented []string // the store's keys of the cookies that were looked up

	// phase is held for reading by what works on the request's copy, and for writing to
	// settle.
	phase   sync.RWMutex
	settled atomic.Bool
	ctx     context.Context // with scs's data, until settled
	token   string          // from then on, as key: both "" if there is no session
	key     string

	dropped atomic.Bool // the session had ended when its changes were to be saved

	mu        sync.Mutex // guards what follows
	loaded    record     // what the store had when it was read; nil data: nothing
	loadedKey string
	how       ending // how a session ends that is deleted now
	undecided []string
}

type visitKey struct{}

// visitOf returns the visit that a context belongs to, if it is one of this manager's.
func (m *Manager) visitOf(ctx context.Context) *visit {
	if v, _ := ctx.Value(visitKey{}).(*visit); v != nil && v.m == m {
		return v
	}
	return nil
}

// claimed returns the keys by which a handshake is judged: that of the session, and if there is
// none those of the cookies that came.
func (v *visit) claimed() []string {
	var key string
	if !v.request(func(ctx context.Context) { key = v.m.keyOf(v.m.scs.Token(ctx)) }) {
		key = v.key
	}
	if key != "" {
		return []string{key}
	}
	return v.presented
}

// came reports whether a key is that of a cookie which came with the request.
func (v *visit) came(key string) bool { return slices.Contains(v.presented, key) }

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

// ends has what f deletes end in a way that is known.
func (v *visit) ends(how ending, f func() error) error {
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

func (v *visit) endsHow() ending {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.how
}

// decideLater keeps a session that scs was told to delete, and not this package, until it
// shows whether that was a Destroy or a RenewToken.
func (v *visit) decideLater(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.undecided = append(v.undecided, key)
}

func (v *visit) decide(how ending) {
	v.mu.Lock()
	keys := v.undecided
	v.undecided = nil
	v.mu.Unlock()
	for _, key := range keys {
		v.m.announce(key, how)
	}
}

// settle saves what has changed and sets the cookie. Nothing of the request's copy is used
// after it.
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
	v.decide(how)
	v.setLoaded("", record{})
	v.ctx = nil
	v.settled.Store(true)
	return err
}

// request calls f with the request's context while that is what counts, and reports
// whether it was.
func (v *visit) request(f func(ctx context.Context)) bool {
	v.phase.RLock()
	defer v.phase.RUnlock()
	if v.settled.Load() {
		return false
	}
	f(v.ctx)
	return true
}

// stored reads the session from the store; nil if there is none.
func (v *visit) stored() (deadline time.Time, values map[string]any, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	r, found, err := v.m.find(ctx, v.key)
	if err != nil || !found {
		return time.Time{}, nil, err
	}
	return v.m.scs.Codec.Decode(r.data)
}

// change has f change the session in the store. f is called again if somebody else wrote
// meanwhile. It reports whether it has changed anything.
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
