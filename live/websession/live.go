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

// visits holds the visit of every open socket of all managers, for FromLive. A visit is in it
// from OnConnect until OnClose has returned.
var visits sync.Map // of *live.Session to *visit

func visitOfSocket(s *live.Session) *visit {
	v, ok := visits.Load(s)
	if !ok {
		return nil
	}
	return v.(*visit)
}

// Authenticate returns an OnAuth that admits a client if its session has a non-empty string
// under key, for example "username". The string becomes the live session's Value, and so its
// user for DisconnectUser. Any other client is refused with 401. If the store cannot be read,
// every client is refused with 503. For other rules, write an OnAuth that calls FromRequest.
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
	errRenewed     = errors.New("websession: the token is out of date: the session was renewed and has a new one")
)

// configure returns o with callbacks around its own. They tie each live session to its cookie
// session: FromLive finds the cookie session, and both end together. ExpireAt of the live
// session is set to the expiry of the cookie session.
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
		defer m.leave(s)
		if onClose != nil {
			onClose(s, err)
		}
	}
	return o
}

// attach makes a session that ends here end its sockets at server, and at all servers that share
// its Broker. It is called once for a server, before the server serves.
func (m *Manager) attach(server *live.Server) {
	server.OnBroadcast(m.kind(), m.receive)
	m.sockets.mu.Lock()
	defer m.sockets.mu.Unlock()
	m.sockets.servers = append(m.sockets.servers, server)
}

// kind names this manager's broadcasts. The managers of the same application on other servers
// have the same cookie name, and so the same kind.
func (m *Manager) kind() string { return "websession " + m.scs.Cookie.Name }

// admit refuses a handshake outside Middleware with 500, and a handshake with a token that was
// just renewed with 401. In the second case the browser may not have the new cookie yet. If the
// client were admitted, it would count as not signed in until its next reload.
func (m *Manager) admit(ctx context.Context) error {
	v := m.visitOf(ctx)
	if v == nil {
		m.logLimited(slog.LevelError, "websession: the live server's handler must be behind Manager.Middleware")
		return live.Refuse(http.StatusInternalServerError, "internal error")
	}
	for _, key := range v.handshakeKeys() {
		if fp := fingerprint(key); m.ended.justRenewed(fp) {
			m.logLimited(slog.LevelInfo, "websession: a handshake came with a token that was just renewed: "+
				"if this goes on, find out why responses that set the new cookie do not arrive", "session", fp)
			return errRenewed
		}
	}
	return nil
}

// join ties a socket to its session. alive is false if the session has ended since the handshake
// began. Then join has closed the socket.
func (m *Manager) join(ctx context.Context, s *live.Session, v *visit) (alive bool, err error) {
	if v.key == "" {
		return true, nil // a socket without a session
	}
	fp := fingerprint(v.key)
	m.sockets.add(m, fp, v.key, s)
	// The order matters. If the session ended before add, find says so. If it ends after add,
	// the socket is in m.sockets and is closed.
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
		r.expiry = expiryOf(m.scs, deadline) // the handshake has restarted the idle timeout
	}
	m.sockets.extend(fp, r.expiry)
	return true, nil
}

// leave forgets a socket.
func (m *Manager) leave(s *live.Session) {
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

// sockets are the open sockets, by the fingerprint of their session.
type sockets struct {
	mu      sync.Mutex // guards what follows
	groups  map[string]*group
	servers []*live.Server
	timer   *time.Timer // of the revalidation; nil while none is planned
}

// group is the sockets of one session.
type group struct {
	key     string    // the store's key of the session
	expiry  time.Time // of the session; zero until it is known
	members map[*live.Session]struct{}
}

func (s *sockets) add(m *Manager, fp, key string, socket *live.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[fp]
	if g == nil {
		g = &group{key: key, members: make(map[*live.Session]struct{})}
		s.groups[fp] = g
	}
	g.members[socket] = struct{}{}
	if s.timer == nil && m.opts.Revalidate > 0 {
		s.timer = time.AfterFunc(m.untilRevalidation(), m.revalidate)
	}
}

func (s *sockets) remove(fp string, socket *live.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[fp]
	if g == nil {
		return
	}
	delete(g.members, socket)
	if len(g.members) == 0 {
		delete(s.groups, fp)
	}
	if len(s.groups) == 0 && s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// of returns the sockets of a session, and the store's key of the session.
func (s *sockets) of(fp string) (key string, members []*live.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[fp]
	if g == nil {
		return "", nil
	}
	for socket := range g.members {
		members = append(members, socket)
	}
	return g.key, members
}

// extend notes when a session expires, and tells its sockets.
func (s *sockets) extend(fp string, expiry time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[fp]
	if g == nil {
		return
	}
	g.expiry = expiry
	for socket := range g.members {
		socket.ExpireAt(expiry)
	}
}
