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

// storeTimeout bounds what a call on a socket waits for the store: a person waits no
// longer for a click, and an SQLite file that is locked is given up then too.
const storeTimeout = 5 * time.Second

// Options configures a Manager. The zero value is ready for use.
type Options struct {
	// Revalidate is how often, within a fifth more or less, the sessions of the open
	// sockets are looked up in the store, in case somebody else has deleted one. 0: 24 s,
	// so that it is noticed within 30. Negative: never.
	Revalidate time.Duration

	// Logger gets what an operator should know, and no token. nil: slog.Default().
	Logger *slog.Logger
}

// Manager ties an scs.SessionManager to live servers. It is made with New; its methods
// may be called from any goroutine.
type Manager struct {
	scs     *scs.SessionManager
	store   Store       // as scs has it behind the guard, bounded
	plain   *plainStore // what store calls if the application's cannot compare; else nil
	opts    Options
	ended   endings
	sockets sockets
	logs    loglimit.Limiter
}

// New returns a manager of the sessions of sm; nil is one that keeps them in memory, with
// scs's defaults. sm must not be used by requests before. New puts a guard before
// sm.Store, which learns of sessions that end, whoever ends them; all else of sm may
// still be set, and all of its methods be used. There is one Manager for it.
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

// NewSQLiteSessionManager returns an scs.SessionManager, to be configured further and then
// given to New, that keeps its sessions in an SQLite database, where they survive a restart.
// It creates the table sessions and its index if they are not there, and converts a table of
// scs's sqlite3store. Nothing needs to stand in the DSN but the file.
//
// The error says what to do if the file cannot be opened or written, or if the database is in
// memory and the pool may have several connections. Package sqlitestore says which drivers there are,
// what is set at the database, and how long a call waits for a connection or a lock.
func NewSQLiteSessionManager(db *sql.DB) (*scs.SessionManager, error) {
	store, err := sqlitestore.New(db)
	if err != nil {
		return nil, err
	}
	sm := scs.New()
	sm.Store = store
	return sm, nil
}

// SCS returns the scs.SessionManager, for what it can and a Session cannot: RememberMe,
// say, with the context of a request. It is never nil.
func (m *Manager) SCS() *scs.SessionManager { return m.scs }

var errNotIterable = errors.New("websession: this store cannot list its sessions")

// Find returns the sessions whose values match, in no order: a user's, say, on all devices.
// It reads and decodes every session there is, which takes some 25 ms for a thousand
// in SQLite; a program with very many keeps a list of its own. One that does not decode is
// logged and left out. match must not change what it gets. The error is the store's, or says
// that it cannot list.
func (m *Manager) Find(ctx context.Context, match func(values map[string]any) bool) ([]*Session, error) {
	rows, err := all(ctx, m.store)
	if err != nil {
		return nil, fmt.Errorf("websession: find: %w", err)
	}
	var found []*Session
	for key, data := range rows {
		_, values, err := m.scs.Codec.Decode(data)
		if err != nil {
			// One that nobody can read any more must not keep the others from being signed out.
			m.logLimited(slog.LevelWarn, "websession: session does not decode", "session", fingerprint(key), "err", err)
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

// expiryOf returns when a session expires that is used now.
func expiryOf(sm *scs.SessionManager, deadline time.Time) time.Time {
	if sm.IdleTimeout > 0 {
		if idle := time.Now().Add(sm.IdleTimeout).UTC(); idle.Before(deadline) {
			return idle
		}
	}
	return deadline
}

// keyOf returns what the store knows a token by.
func (m *Manager) keyOf(token string) string {
	if token == "" || !m.scs.HashTokenInStore {
		return token
	}
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// fingerprint tells sessions apart, and nobody can get from it to the token, which has 256
// random bits.
func fingerprint(key string) string {
	if key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// NewServer is live.New with options that know of the sessions.
func (m *Manager) NewServer(o live.Options) *live.Server {
	server := live.New(m.configure(o))
	m.attach(server)
	return server
}

// logLimited logs at a bounded rate for each message text, which must be a constant.
func (m *Manager) logLimited(level slog.Level, message string, args ...any) {
	m.logs.Log(m.opts.Logger, level, message, args...)
}
