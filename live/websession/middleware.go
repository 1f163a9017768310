package websession

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/alexedwards/scs/v2"
)

// Middleware gives a Session to every request that goes through it. Use it instead of scs's
// LoadAndSave, around the live server's handler and around all handlers that use sessions. It
// reads and writes the same cookie as LoadAndSave. Over TLS the cookie is Secure even if
// sm.Cookie does not say so.
//
// A browser can send several cookies with the session's name, if another program or an older
// version of this program has set a cookie with another Path or Domain. The first cookie whose
// session exists counts. Only that session is changed, renewed or destroyed. At most eight of
// the cookies are looked up. A request with several of them is logged.
func (m *Manager) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.visitOf(r.Context()) != nil {
			next.ServeHTTP(w, r) // the middleware is around itself, and the outer one does the work
			return
		}
		w.Header().Add("Vary", "Cookie")
		v := &visit{m: m}
		ctx, err := m.load(context.WithValue(r.Context(), visitKey{}, v), v, m.tokens(r))
		if err != nil {
			m.scs.ErrorFunc(w, r, err)
			return
		}
		v.ctx = ctx
		r = r.WithContext(ctx)
		answer := &writer{ResponseWriter: w, visit: v, request: r}
		defer v.announceDeleted(renewed) // for a panic in next; otherwise settle has done it
		next.ServeHTTP(answer, r)
		answer.settle()
	})
}

// maxCookies bounds how many cookies with the session's name are looked up in the store. A
// browser has one for each pair of a Path and a Domain, which are two or three in practice. A
// hostile client sends hundreds, and each would cost a read.
const maxCookies = 8

// tokens returns the different values of the session's cookie in the order of the request, but
// at most the first maxCookies.
func (m *Manager) tokens(r *http.Request) []string {
	var tokens []string
	for _, cookie := range r.CookiesNamed(m.scs.Cookie.Name) {
		if cookie.Value == "" || slices.Contains(tokens, cookie.Value) {
			continue
		}
		if tokens = append(tokens, cookie.Value); len(tokens) == maxCookies {
			break
		}
	}
	return tokens
}

// load returns ctx with the request's copy of the first session that exists. If no session
// exists, the copy is empty.
func (m *Manager) load(ctx context.Context, v *visit, tokens []string) (context.Context, error) {
	for _, token := range tokens {
		v.presented = append(v.presented, m.keyOf(token))
	}
	if len(tokens) == 0 {
		return m.scs.Load(ctx, "")
	}
	var loaded context.Context
	for _, token := range tokens {
		var err error
		if loaded, err = m.scs.Load(ctx, token); err != nil {
			return nil, err
		}
		if m.scs.Token(loaded) != "" {
			break
		}
	}
	if len(tokens) > 1 {
		m.logLimited(slog.LevelWarn, "websession: a request has several cookies of the session's name: "+
			"delete those with another Path or Domain, or give this program's cookie another name (SessionManager.Cookie.Name)",
			"cookie", m.scs.Cookie.Name, "cookies", len(tokens), "session", fingerprint(m.keyOf(m.scs.Token(loaded))))
	}
	return loaded, nil
}

// commit saves the request's session if it has changed, and sets the cookie.
func (m *Manager) commit(v *visit, w http.ResponseWriter, r *http.Request) error {
	switch m.scs.Status(v.ctx) {
	case scs.Modified:
		token, expiry, err := m.scs.Commit(v.ctx)
		if err != nil {
			return err
		}
		if !v.dropped.Load() {
			m.setCookie(v.ctx, w, r, token, expiry)
		}
	case scs.Destroyed:
		m.setCookie(v.ctx, w, r, "", time.Time{})
	}
	return nil
}

func (m *Manager) setCookie(ctx context.Context, w http.ResponseWriter, r *http.Request, token string, expiry time.Time) {
	m.scs.WriteSessionCookie(ctx, w, token, expiry)
	if cookies := w.Header()["Set-Cookie"]; r.TLS != nil && !m.scs.Cookie.Secure && len(cookies) > 0 {
		cookies[len(cookies)-1] += "; Secure"
	}
}

// writer saves the session before the head of the response goes out.
type writer struct {
	http.ResponseWriter
	visit   *visit
	request *http.Request
	settled bool
	err     error // of saving; if set, ErrorFunc has answered, and what the handler writes is dropped
}

// settle saves the session and sets the cookie. It is called just before the head goes out.
func (w *writer) settle() {
	if w.settled {
		return
	}
	w.settled = true
	if w.err = w.visit.settle(w.ResponseWriter, w.request); w.err != nil {
		w.visit.m.scs.ErrorFunc(w.ResponseWriter, w.request, w.err)
	}
}

// settleHandshake is settle for a connection that is taken over. It only logs an error, since no
// error page can be sent.
func (w *writer) settleHandshake() {
	if w.settled {
		return
	}
	w.settled = true
	if err := w.visit.settle(w.ResponseWriter, w.request); err != nil {
		w.visit.m.logLimited(slog.LevelError, "websession: session not saved in a handshake", "err", err)
	}
}

// WriteHeader passes informational heads on without saving, since the final head follows them
// (RFC 9110, section 15.2). The 101 has no head after it, so it saves.
func (w *writer) WriteHeader(status int) {
	switch {
	case status == http.StatusSwitchingProtocols:
		w.settleHandshake()
	case status >= 200:
		w.settle()
	}
	if w.err == nil {
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *writer) Write(b []byte) (int, error) {
	if w.settle(); w.err != nil {
		return 0, w.err
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom lets the kernel send files.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	if w.settle(); w.err != nil {
		return 0, w.err
	}
	return io.Copy(w.ResponseWriter, r)
}

// FlushError is for http.ResponseController.
func (w *writer) FlushError() error {
	if w.settle(); w.err != nil {
		return w.err
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *writer) Flush() { w.FlushError() }

// Hijack is for a handler that takes the connection over before a head is sent.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.settleHandshake()
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
