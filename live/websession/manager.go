package websession

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/loglimit"
	"github.com/livetopic/livetopic/live/websession/sqlitestore"
)

// storeTimeout bounds how long a call on a socket waits for the store. A person does not wait
// longer for a click. Package sqlitestore gives up on a locked file after the same time.
const storeTimeout = 5 * time.Second

// Options configures a Manager. The zero value is ready for use.
type Options struct {
	// Revalidate is the time between two checks that the sessions of the open sockets are still
	// in the store. The checks find sessions that another program has deleted. Each wait is
	// random, up to a fifth shorter or longer. 0: 24 s, so that a deletion is noticed within
	// 30 s. Negative: never.
	Revalidate time.Duration

	// Logger gets messages for the operator. No message has a token in it.
	// nil: slog.Default().
	Logger *slog.Logger
}

// Manager ties an scs.SessionManager to live servers. It is made with New; its methods
// may be called from any goroutine.
type Manager struct {
	scs     *scs.SessionManager
	store   Store       // the store behind the guard, with deadlines
	plain   *plainStore // between store and the application's store, if that is not a Store; else nil
	opts    Options
	ended   endings
	sockets sockets
	logs    loglimit.Limiter
}

// New returns a manager of the sessions of sm. If sm is nil, the sessions are kept in memory,
// with scs's defaults. No request may use sm before New. New replaces sm.Store by a guard, which
// calls the old store and learns of every session that ends. All other fields of sm may still be
// set, and all of its methods may be used. An sm has at most one Manager.
func New(sm *scs.SessionManager, o Options) *Manager {
	if sm == nil {
		sm = scs.New()
	}
	if o.Revalidate == 0 {
		o.Revalidate = 24 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	m := &Manager{scs: sm, opts: o}
	store := adapt(sm)
	m.plain, _ = store.(*plainStore)
	m.store = &bounded{store, m}
	m.ended.byFingerprint = make(map[string]ending)
	m.sockets.groups = make(map[string]*group)
	sm.Store = &guard{m}
	if s, ok := store.(*sqlitestore.Store); ok {
		for _, warning := range s.Warnings() {
			o.Logger.Warn("websession: the session database could be set up better", "advice", warning)
		}
	}
	return m
}

// NewSQLiteSessionManager returns an scs.SessionManager that keeps its sessions in an SQLite
// database, where they survive a restart. Set its other fields as you need, then give it to New.
// It creates the table sessions and its index if they are not there, and converts a table of
// scs's sqlite3store. The DSN needs to name only the file.
//
// The error says what to do if the file cannot be opened or written, or if the database is in
// memory and the pool may have several connections. Package sqlitestore says which drivers work,
// what it sets at the database, and how long a call waits for a connection or a lock.
func NewSQLiteSessionManager(db *sql.DB) (*scs.SessionManager, error) {
	store, err := sqlitestore.New(db)
	if err != nil {
		return nil, err
	}
	sm := scs.New()
	sm.Store = store
	return sm, nil
}

// SCS returns the scs.SessionManager, for what a Session does not offer. An example is
// RememberMe, with the context of a request. SCS never returns nil.
func (m *Manager) SCS() *scs.SessionManager { return m.scs }

var errNotIterable = errors.New("websession: this store cannot list its sessions")

// Find calls match with the values of every session. It returns the sessions for which match
// returns true, in no order: for example the sessions of one user on all devices. It reads and
// decodes every session, which takes about 25 ms for a thousand of them in SQLite. A program with
// very many sessions should keep a list of its own. A session that cannot be decoded is logged and
// left out. match must not change the values. The error is the store's, or says that the store
// cannot list its sessions.
func (m *Manager) Find(ctx context.Context, match func(values map[string]any) bool) ([]*Session, error) {
	rows, err := listAll(ctx, m.store)
	if err != nil {
		return nil, fmt.Errorf("websession: find: %w", err)
	}
	var found []*Session
	for key, data := range rows {
		_, values, err := m.scs.Codec.Decode(data)
		if err != nil {
			// An unreadable session must not prevent the sign-out of the others.
			m.logLimited(slog.LevelWarn, "websession: a session does not decode and is left out", "session", fingerprint(key), "err", err)
			continue
		}
		if !match(values) || m.ended.has(fingerprint(key)) {
			continue
		}
		v := &visit{m: m, key: key}
		if !m.scs.HashTokenInStore {
			v.token = key
		}
		v.settled.Store(true)
		found = append(found, &Session{v: v})
	}
	return found, nil
}

// find returns a session as the store has it, unless it is known to have ended.
func (m *Manager) find(ctx context.Context, key string) (r record, found bool, err error) {
	if key == "" || m.ended.has(fingerprint(key)) {
		return record{}, false, nil
	}
	r.data, r.version, r.expiry, found, err = m.store.FindVersion(ctx, key)
	if err != nil {
		err = fmt.Errorf("websession: read the session: %w", err)
	}
	return r, found, err
}

// expiryOf returns when a session with this deadline expires if it is used now.
func expiryOf(sm *scs.SessionManager, deadline time.Time) time.Time {
	if sm.IdleTimeout > 0 {
		if idle := time.Now().Add(sm.IdleTimeout).UTC(); idle.Before(deadline) {
			return idle
		}
	}
	return deadline
}

// keyOf returns the store's key of a token: the token itself, or its hash.
func (m *Manager) keyOf(token string) string {
	if token == "" || !m.scs.HashTokenInStore {
		return token
	}
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// fingerprint returns a hash that tells sessions apart. Nobody can compute the token from it:
// the token has 256 random bits.
func fingerprint(key string) string {
	if key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// NewServer is live.New for a server that knows the sessions. FromLive finds the session of each
// of its sockets. A session that ends closes its sockets there, and at all servers that share the
// Broker. The expiry of a live session (ExpireAt) is set to that of its session.
func (m *Manager) NewServer(o live.Options) *live.Server {
	server := live.New(m.configure(o))
	m.attach(server)
	return server
}

// logLimited logs at a bounded rate for each message text, which must be a constant.
func (m *Manager) logLimited(level slog.Level, message string, args ...any) {
	m.logs.Log(m.opts.Logger, level, message, args...)
}
