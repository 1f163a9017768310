package websession

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

// visits holds the visit of every open socket, of all managers: what FromLive looks in. One
// is in it from OnConnect until OnClose has returned.
var visits sync.Map // of *live.Session to *visit

func visitOfSocket(s *live.Session) *visit {
	v, ok := visits.Load(s)
	if !ok {
		return nil
	}
	return v.(*visit)
}

// Authenticate returns an OnAuth that lets those in whose session has a string under a
// key, as "username"; it becomes the live session's Value, and thereby its user, for
// DisconnectUser. Others are refused with 401, and everybody with 503 if the store cannot be
// read. For more, write an OnAuth with FromRequest.
func Authenticate(key string) func(ctx context.Context, r *http.Request) (any, error) {
	return func(_ context.Context, r *http.Request) (any, error) {
		s := FromRequest(r)
		name := s.GetString(key)
		if err := s.Err(); err != nil {
			return nil, fmt.Errorf("%w (%w)", err, errStoreDown)
		}
		if name == "" {
			return nil, errNotSignedIn
		}
		return name, nil
	}
}

var (
	errNotSignedIn = errors.New("websession: not signed in")
	errStoreDown   = live.Refuse(http.StatusServiceUnavailable, "the session cannot be read; try again")
	errRenewed     = errors.New("websession: the session has another token since it was renewed")
)

// configure returns options with callbacks around those of o, by which a live server's
// sessions are tied to theirs here: FromLive finds them, and they end together. The
// expiry of such a live session (ExpireAt) is that of its session. The server that is
// made with them is to be given to attach.
func (m *Manager) configure(o live.Options) live.Options {
	onAuth, onConnect, onClose := o.OnAuth, o.OnConnect, o.OnClose
	o.OnAuth = func(ctx context.Context, r *http.Request) (any, error) {
		if err := m.admit(ctx); err != nil {
			return nil, err
		}
		if onAuth == nil {
			return nil, nil
		}
		return onAuth(ctx, r)
	}
	o.OnConnect = func(ctx context.Context, s *live.Session) error {
		v := m.visitOf(ctx)
		visits.Store(s, v)
		if alive, err := m.join(ctx, s, v); err != nil || !alive {
			return err
		}
		if onConnect == nil {
			return nil
		}
		return onConnect(ctx, s)
	}
	o.OnClose = func(s *live.Session, err error) {
		defer m.part(s)
		if onClose != nil {
			onClose(s, err)
		}
	}
	return o
}

// attach has sessions that end here end their sockets at a server, and at all that share
// its Broker. It is called once for a server, before it serves.
func (m *Manager) attach(server *live.Server) {
	server.OnBroadcast(m.kind(), m.heard)
	m.sockets.mu.Lock()
	defer m.sockets.mu.Unlock()
	m.sockets.servers = append(m.sockets.servers, server)
}

// kind is of the broadcasts of this manager, and of those of the same application.
func (m *Manager) kind() string { return "websession " + m.scs.Cookie.Name }

// admit refuses a handshake that cannot be right. The client of a session that was renewed a
// moment ago gets 401: its browser may not have the new cookie yet, and were it let in it would be
// nobody until its next reload.
func (m *Manager) admit(ctx context.Context) error {
	v := m.visitOf(ctx)
	if v == nil {
		m.logLimited(slog.LevelError, "websession: the live server's handler must be behind Manager.Middleware")
		return live.Refuse(http.StatusInternalServerError, "internal error")
	}
	for _, key := range v.claimed() {
		if fp := fingerprint(key); m.ended.renewing(fp) {
			m.logLimited(slog.LevelInfo, "websession: a handshake came with a token that was just renewed: "+
				"if this goes on, find out why responses that set the new cookie do not arrive", "session", fp)
			return errRenewed
		}
	}
	return nil
}

// join ties a socket to its session. alive is false if that has ended since the handshake began,
// and the socket with it.
func (m *Manager) join(ctx context.Context, s *live.Session, v *visit) (alive bool, err error) {
	if v.key == "" {
		return true, nil // there is none
	}
	fp := fingerprint(v.key)
	m.sockets.add(m, fp, v.key, s)
	// First in, then looked at: who ends it before is seen here, who does after finds it.
	r, found, err := m.find(ctx, v.key)
	if err != nil {
		return false, err
	}
	if !found {
		how := m.ended.how(fp)
		if how == undecided {
			how = destroyed
		}
		disconnect(s, how)
		return false, nil
	}
	if r.expiry.IsZero() {
		deadline, _, err := m.scs.Codec.Decode(r.data)
		if err != nil {
			return false, err
		}
		r.expiry = expiryOf(m.scs, deadline) // the handshake was a use
	}
	m.sockets.extend(fp, r.expiry)
	return true, nil
}

// part forgets a socket.
func (m *Manager) part(s *live.Session) {
	if v := visitOfSocket(s); v != nil && v.key != "" {
		m.sockets.remove(fingerprint(v.key), s)
	}
	visits.Delete(s)
}

func disconnect(s *live.Session, how ending) {
	if how == destroyed {
		s.Disconnect(live.CloseRevoked, "signed out")
	} else {
		s.Disconnect(live.CloseSignInExpired, "session renewed")
	}
}

// sockets are the open ones, by the fingerprint of their session.
type sockets struct {
	mu      sync.Mutex // guards what follows
	groups  map[string]*group
	servers []*live.Server
	timer   *time.Timer // of the revalidation; runs while there are groups
}

// group is one session's.
type group struct {
	key     string
	expiry  time.Time // as far as it is known
	members map[*live.Session]struct{}
}

func (k *sockets) add(m *Manager, fp, key string, s *live.Session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.groups[fp]
	if g == nil {
		g = &group{key: key, members: make(map[*live.Session]struct{})}
		k.groups[fp] = g
	}
	g.members[s] = struct{}{}
	if k.timer == nil && m.opts.Revalidate > 0 {
		k.timer = time.AfterFunc(m.untilRevalidation(), m.revalidate)
	}
}

func (k *sockets) remove(fp string, s *live.Session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.groups[fp]
	if g == nil {
		return
	}
	delete(g.members, s)
	if len(g.members) == 0 {
		delete(k.groups, fp)
	}
	if len(k.groups) == 0 && k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
}

// of returns the sockets of a session, and the store's key of it.
func (k *sockets) of(fp string) (key string, members []*live.Session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.groups[fp]
	if g == nil {
		return "", nil
	}
	for s := range g.members {
		members = append(members, s)
	}
	return g.key, members
}

// extend notes when a session expires.
func (k *sockets) extend(fp string, expiry time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.groups[fp]
	if g == nil {
		return
	}
	g.expiry = expiry
	for s := range g.members {
		s.ExpireAt(expiry)
	}
}
