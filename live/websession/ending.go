package websession

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

// ending is how a session ends.
type ending byte

const (
	undecided ending = 0
	destroyed ending = 'd' // the session is over
	renewed   ending = 'r' // the session goes on under another token
)

const (
	// rememberFor is how long an ended session is remembered. Only a request that was running
	// when the session ended can still write it, and hardly any request takes longer than this.
	// maxRemembered ended sessions take about 30 MB. So many sign-outs in so short a time are
	// an attack, or a test.
	rememberFor   = 5 * time.Minute
	maxRemembered = 200_000

	// renewGrace is how long sockets with an old token stay open after a renewal. The response
	// with the new cookie should reach the browser before the browser dials again.
	renewGrace = 250 * time.Millisecond

	// refuseOldTokenFor is how long after a renewal a handshake with the old token is refused,
	// whatever OnAuth says: the response with the new cookie may still be on its way. After
	// that the old token counts like any token without a session. Otherwise a visitor whose
	// response was lost would never get in.
	refuseOldTokenFor = 10 * time.Second

	// broadcastTimeout bounds a broadcast by the broker. The sockets on a server that misses
	// the broadcast are found by the revalidation.
	broadcastTimeout = 5 * time.Second

	// revalidateBatch is how many sessions one call of the store asks for. Old versions of
	// SQLite take at most 999 parameters.
	revalidateBatch = 500
)

// endings are the sessions that ended within rememberFor.
type endings struct {
	mu            sync.Mutex // guards what follows
	byFingerprint map[string]ending
	order         []ended              // oldest first
	renewals      map[string]time.Time // when the renewed ones were renewed; nil until the first
}

type ended struct {
	fp string
	at time.Time
}

func (e *endings) add(fp string, how ending) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for len(e.order) > 0 && (now.Sub(e.order[0].at) > rememberFor || len(e.order) >= maxRemembered) {
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

// forget removes a session that has not ended after all.
func (e *endings) forget(fp string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byFingerprint, fp)
	delete(e.renewals, fp)
	// Else the entry would end the memory of a deletion that succeeds later.
	e.order = slices.DeleteFunc(e.order, func(o ended) bool { return o.fp == fp })
}

func (e *endings) how(fp string) ending {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.byFingerprint[fp]
}

// justRenewed reports whether a session got a new token less than refuseOldTokenFor ago. Its
// browser may not have the new token yet.
func (e *endings) justRenewed(fp string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, known := e.renewals[fp]
	return known && e.byFingerprint[fp] == renewed && time.Since(at) < refuseOldTokenFor
}

func (e *endings) has(fp string) bool { return e.how(fp) != undecided }

// destroy deletes a session and ends its sockets on every server. From the start of the call,
// this process no longer writes the session. If how is undecided, the sockets end later, by
// v.announceDeleted.
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
		v.announceLater(key)
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

// broadcast tells all servers that a session has ended.
func (m *Manager) broadcast(server *live.Server, fp string, how ending) {
	ctx, cancel := context.WithTimeout(context.Background(), broadcastTimeout)
	defer cancel()
	err := server.Broadcast(ctx, m.kind(), append([]byte{byte(how)}, fp...))
	if err != nil && !errors.Is(err, live.ErrServerClosed) {
		m.logLimited(slog.LevelWarn, "websession: other servers do not know yet that a session has ended", "session", fp, "err", err)
	}
}

// receive takes a broadcast of any server, also of this one. The first byte says how the session
// has ended. An unknown byte comes from a later version and is ignored.
func (m *Manager) receive(data []byte) {
	if len(data) == 0 {
		return
	}
	how, fp := ending(data[0]), string(data[1:])
	if how != destroyed && how != renewed {
		return
	}
	key := m.end(fp, how)
	if m.plain != nil && key != "" {
		// A socket here may just have written the session back: see the package's comment.
		go m.deleteAgain(key) // ends after storeTimeout
	}
}

func (m *Manager) deleteAgain(key string) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	m.store.DeleteCtx(ctx, key) // m.store logs the error
}

// end ends the sockets of a session on this server. It returns the store's key of the session,
// or "" if the session has no socket here.
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

// untilRevalidation returns the time until the next revalidation. It is random, so that many
// servers do not all ask the store at once.
func (m *Manager) untilRevalidation() time.Duration {
	return m.opts.Revalidate*4/5 + rand.N(m.opts.Revalidate*2/5+1)
}

// revalidate checks that the sessions of the open sockets are still in the store. It closes the
// sockets of those that are not.
func (m *Manager) revalidate() {
	known := m.sockets.expiries()
	keys := make([]string, 0, len(known))
	for key := range known {
		keys = append(keys, key)
	}
	for len(keys) > 0 {
		n := min(len(keys), revalidateBatch)
		if err := m.revalidateSome(keys[:n], known); err != nil {
			// The sockets stay open: they must not be closed only because the store is down.
			m.logLimited(slog.LevelWarn, "websession: sessions of open sockets not looked up", "err", err)
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

// expiries returns when the sessions that have sockets expire, by the store's key.
func (s *sockets) expiries() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	expiries := make(map[string]time.Time, len(s.groups))
	for _, g := range s.groups {
		expiries[g.key] = g.expiry
	}
	return expiries
}

func (m *Manager) revalidateSome(keys []string, knownExpiries map[string]time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	expiries, err := m.store.Expiries(ctx, keys)
	if err != nil {
		return err
	}
	for _, key := range keys {
		fp := fingerprint(key)
		expiry, alive := expiries[key]
		switch {
		case alive && !m.ended.has(fp):
			if !expiry.Equal(knownExpiries[key]) {
				m.sockets.extend(fp, expiry)
			}
		case m.expired(knownExpiries[key]):
			m.end(fp, renewed)
		default:
			m.end(fp, destroyed)
		}
	}
	return nil
}

// expired reports whether a session that is no longer in the store may have expired, and was
// not deleted. With an idle timeout and a store that does not tell its expiries, this cannot be
// known, and the answer is true.
func (m *Manager) expired(expiry time.Time) bool {
	return !time.Now().Before(expiry) || m.plain != nil && m.scs.IdleTimeout > 0
}
