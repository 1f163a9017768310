package websession

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

// ending is how a session ends.
type ending byte

const (
	undecided ending = 0
	destroyed ending = 'd' // for good
	renewed   ending = 'r' // it goes on under another token
)

const (
	// remembered is how long it is known that a session has ended: what could still write it
	// was under way then, and hardly a request takes longer. maxRemembered of them cost some
	// 30 MB: that many sign-outs in so short a time are an attack, or a test.
	remembered    = 5 * time.Minute
	maxRemembered = 200_000

	// renewGrace is how long sockets with an old token are left: the response with the new
	// cookie should be at the browser before it dials again.
	renewGrace = 250 * time.Millisecond

	// renewSettles is how long a handshake with an old token is refused whatever OnAuth says:
	// the response with the new cookie may be under way. After that it is a token like any
	// other that does not exist, or a visitor whose response was lost would never get in.
	renewSettles = 10 * time.Second

	// broadcastTimeout bounds how long a broker is tried. Sockets that do not hear of it are
	// found by the revalidation.
	broadcastTimeout = 5 * time.Second

	// revalidateBatch is how many sessions are asked for at once: SQLite takes 999 parameters
	// in old versions.
	revalidateBatch = 500
)

// endings are the sessions that have ended of late.
type endings struct {
	mu            sync.Mutex // guards what follows
	byFingerprint map[string]ending
	order         []ended              // oldest first
	renewals      map[string]time.Time // when the renewed among them were; made when one is
}

type ended struct {
	fp string
	at time.Time
}

func (e *endings) add(fp string, how ending) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for len(e.order) > 0 && (now.Sub(e.order[0].at) > remembered || len(e.order) >= maxRemembered) {
		delete(e.byFingerprint, e.order[0].fp)
		delete(e.renewals, e.order[0].fp)
		e.order = e.order[1:]
	}
	if _, known := e.byFingerprint[fp]; !known {
		e.order = append(e.order, ended{fp, now})
	}
	if how == renewed && e.byFingerprint[fp] != renewed {
		if e.renewals == nil {
			e.renewals = make(map[string]time.Time)
		}
		e.renewals[fp] = now
	}
	e.byFingerprint[fp] = how
}

// forget takes one back that has not ended after all.
func (e *endings) forget(fp string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byFingerprint, fp)
	delete(e.renewals, fp)
}

func (e *endings) how(fp string) ending {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.byFingerprint[fp]
}

// renewing reports whether a session got another token a moment ago, which its browser may not
// have yet.
func (e *endings) renewing(fp string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, known := e.renewals[fp]
	return known && e.byFingerprint[fp] == renewed && time.Since(at) < renewSettles
}

func (e *endings) has(fp string) bool { return e.how(fp) != undecided }

// destroy deletes a session and ends its sockets everywhere. From its first moment nothing
// writes the session any more.
func (m *Manager) destroy(ctx context.Context, key string, how ending, v *visit) error {
	fp := fingerprint(key)
	known := m.ended.has(fp)
	m.ended.add(fp, max(how, destroyed))
	if err := m.store.DeleteCtx(ctx, key); err != nil {
		if !known {
			m.ended.forget(fp)
		}
		return fmt.Errorf("websession: delete the session: %w", err)
	}
	if how == undecided {
		v.decideLater(key)
		return nil
	}
	m.announce(key, how)
	return nil
}

// announce ends the sockets of a session that was deleted.
func (m *Manager) announce(key string, how ending) {
	fp := fingerprint(key)
	m.end(fp, how)
	m.sockets.mu.Lock()
	servers := m.sockets.servers
	m.sockets.mu.Unlock()
	for _, server := range servers {
		go m.broadcast(server, fp, how) // ends after broadcastTimeout
	}
}

// broadcast tells all servers.
func (m *Manager) broadcast(server *live.Server, fp string, how ending) {
	ctx, cancel := context.WithTimeout(context.Background(), broadcastTimeout)
	defer cancel()
	err := server.Broadcast(ctx, m.kind(), append([]byte{byte(how)}, fp...))
	if err != nil && !errors.Is(err, live.ErrServerClosed) {
		m.logLimited(slog.LevelWarn, "websession: other servers do not know yet that a session has ended", "session", fp, "err", err)
	}
}

// heard takes what any server has broadcast, this one too. A letter that is not known is of
// a version to come.
func (m *Manager) heard(data []byte) {
	if len(data) == 0 {
		return
	}
	how, fp := ending(data[0]), string(data[1:])
	if how != destroyed && how != renewed {
		return
	}
	key := m.end(fp, how)
	if m.plain != nil && key != "" {
		// A socket here may just have written it again: see the package's comment.
		go m.deleteAgain(key) // ends after storeTimeout
	}
}

func (m *Manager) deleteAgain(key string) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	m.store.DeleteCtx(ctx, key) // which logs its error
}

// end ends the sockets here, and returns the store's key of their session; "" if there are
// none.
func (m *Manager) end(fp string, how ending) (key string) {
	m.ended.add(fp, how)
	key, members := m.sockets.of(fp)
	if how == destroyed {
		for _, s := range members {
			disconnect(s, how)
		}
	} else if len(members) > 0 {
		time.AfterFunc(renewGrace, func() {
			for _, s := range members {
				disconnect(s, how)
			}
		})
	}
	return key
}

// untilRevalidation is random, so that many servers do not all ask the store at once.
func (m *Manager) untilRevalidation() time.Duration {
	return m.opts.Revalidate*4/5 + rand.N(m.opts.Revalidate*2/5+1)
}

// revalidate looks whether the sessions of the open sockets are still there.
func (m *Manager) revalidate() {
	groups := m.sockets.all()
	keys := make([]string, 0, len(groups))
	for key := range groups {
		keys = append(keys, key)
	}
	for len(keys) > 0 {
		n := min(len(keys), revalidateBatch)
		if err := m.revalidateSome(keys[:n], groups); err != nil {
			// Nobody is put out because the store is down.
			m.opts.Logger.Warn("websession: sessions of open sockets not looked up", "err", err)
			break
		}
		keys = keys[n:]
	}
	m.sockets.mu.Lock()
	defer m.sockets.mu.Unlock()
	if m.sockets.timer != nil {
		m.sockets.timer.Reset(m.untilRevalidation())
	}
}

// all returns the expiries of the sessions that have sockets, by key.
func (k *sockets) all() map[string]time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	expiries := make(map[string]time.Time, len(k.groups))
	for _, g := range k.groups {
		expiries[g.key] = g.expiry
	}
	return expiries
}

func (m *Manager) revalidateSome(keys []string, known map[string]time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	now, err := m.store.Expiries(ctx, keys)
	if err != nil {
		return err
	}
	for _, key := range keys {
		fp := fingerprint(key)
		expiry, alive := now[key]
		switch {
		case alive && !m.ended.has(fp):
			if !expiry.Equal(known[key]) {
				m.sockets.extend(fp, expiry)
			}
		case m.expired(known[key]):
			m.end(fp, renewed)
		default:
			m.end(fp, destroyed)
		}
	}
	return nil
}

// expired reports whether a session that is gone may have expired, rather than been deleted.
// With an idle timeout and a store that does not tell its expiries nobody knows.
func (m *Manager) expired(expiry time.Time) bool {
	return !time.Now().Before(expiry) || m.plain != nil && m.scs.IdleTimeout > 0
}
