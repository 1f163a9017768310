package live

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
	"github.com/livetopic/livetopic/live/internal/inbox"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// retryAfter returns the time after which a refused client may come back, in seconds. Clients that are
// refused in a storm are told different times, so that they do not all come back together.
func retryAfter(r *refusal) string {
	if r.reason == refusedQueueFull || r.reason == refusedQueueTimeout {
		return strconv.Itoa(2 + rand.IntN(9))
	}
	return "5"
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.accept(w, r); err != nil {
		s.noteRefusal(r, err)
	}
}

// accept takes a client through the handshake, cheapest check first, and begins its session.
// It has answered w when it returns.
//
// net/http needs much stack when the connection is taken over. If accept had much on its stack by
// then, the stack would have to grow. That means copying it, which is 4 % of a handshake's cost. So
// code that needs much stack is in functions that have returned before.
func (s *Server) accept(w http.ResponseWriter, r *http.Request) error {
	if err := checkRequest(r); err != nil {
		ignoreBody(w, r)
		return refuse(w, err)
	}
	if err := s.checkOrigin(r); err != nil {
		return refuse(w, err)
	}
	if err := s.beginHandshake(); err != nil {
		return refuse(w, err)
	}
	sess := &Session{server: s}
	begun := false
	defer func() { // also when a callback, or a middleware's ResponseWriter, panics
		if !begun && sess.reserved {
			s.releaseUser(sess.user)
			s.release()
		}
		s.running.Done()
	}()
	began, err := sess.identify(r)
	if err != nil {
		return refuse(w, err)
	}
	if !hijackable(w) { // after OnAuth, so that a test of OnAuth can use a ResponseRecorder of httptest
		return refuse(w, errNotHijackable)
	}
	var own [maxHeaders]string // on the stack
	conn, ahead, err := switchProtocols(w, sess.agree(r, own[:0]), s.opts.WriteTimeout)
	switch {
	case errors.Is(err, errClientGone):
		return err
	case err != nil:
		refuse(w, errNotHijackable)
		return fmt.Errorf("%w (%w)", err, errNotHijackable)
	}
	sess.open(conn, ahead, r.Context())
	begun = true
	s.begin(sess, began)
	return nil
}

// identify asks the application for the client's value, its user and the session's ID. began is when
// OnAuth was called, for revokedSince.
func (sess *Session) identify(r *http.Request) (began time.Time, err error) {
	s := sess.server
	if began, sess.value, err = sess.authenticate(r); err != nil {
		return began, err
	}
	var user string
	if err := s.guard("UserID", r, func() { user = s.opts.UserID(sess.value) }); err != nil {
		return began, err
	}
	if err := s.guard("IDGenerator", r, func() { sess.id = s.opts.IDGenerator() }); err != nil {
		return began, err
	}
	if err := s.reserveUser(user); err != nil {
		return began, err
	}
	sess.user = user
	return began, nil
}

// agree chooses the subprotocol and the compression. It appends the headers of the answer that
// tell the client.
func (sess *Session) agree(r *http.Request, own headers) headers {
	own = append(own, "Upgrade", "websocket", "Connection", "Upgrade",
		"Sec-WebSocket-Accept", acceptKey(r.Header.Get(headerKey)))
	if offer := offeredSubprotocol(r.Header); offer != "" {
		own = append(own, "Sec-WebSocket-Protocol", offer)
		sess.wire = wireV1
	}
	if sess.server.opts.Compression {
		if answer := acceptDeflate(r.Header); answer != "" {
			own = append(own, "Sec-WebSocket-Extensions", answer)
			sess.compressed = true
		}
	}
	return own
}

// open makes the session's outbox and inbox. They keep nothing of net/http's. So when the handler
// returns, its goroutine ends and its buffers are freed.
func (sess *Session) open(conn net.Conn, ahead []byte, request context.Context) {
	s := sess.server
	sess.out, sess.in = new(outbox.Box), new(inbox.Reader)
	sess.out.Init(s.writers, conn, (*writing)(sess))
	sess.in.Init(conn, sess.out.Raw(), ahead, (*reading)(sess), inbox.Options{ReadLimit: s.opts.ReadLimit, Compressed: sess.compressed})
	if sess.wire == wireV1 {
		sess.out.PingWith(pingFrame)
		sess.out.GreetFirst() // hello
	} else {
		sess.out.HideGaps()
	}
	if sess.compressed {
		sess.out.Compress()
	}
	sess.began = clock.Now()
	phase := s.pingPhase()
	sess.in.Age(phase)
	sess.watch.pinged = clock.Now() - int64(phase)
	sess.ctx, sess.cancel = context.WithCancel(context.WithoutCancel(request))
}

// begin makes the session one of the server's, starts its reader, and has OnConnect called.
func (s *Server) begin(sess *Session, began time.Time) {
	if s.opts.OnConnect == nil {
		s.add(sess, began)
	} else {
		sess.connecting = true
		sess.inbound.working = true // messages wait until OnConnect has returned
		sess.calls.Lock()           // OnClose waits too
		s.add(sess, began)
		s.workers.run(sess)
	}
	go sess.read() // ends with the connection
}

// refuse answers a handshake with an error and returns it.
func refuse(w http.ResponseWriter, err error) error {
	answer := refusalOf(err)
	switch answer.status {
	case http.StatusUpgradeRequired:
		w.Header().Set("Sec-WebSocket-Version", "13")
		w.Header().Set("Upgrade", "websocket") // RFC 9110, section 15.5.22
		w.Header().Add("Connection", "Upgrade")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter(answer))
	}
	http.Error(w, answer.text, answer.status)
	return err
}

// checkRequest checks a handshake as RFC 6455, section 4.2.1, says.
func checkRequest(r *http.Request) error {
	switch {
	case r.Method != http.MethodGet:
		return errMethod
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return errHTTP1
	case !hasToken(r.Header, "Connection", "upgrade") || !hasToken(r.Header, "Upgrade", "websocket"):
		return errUpgrade
	case r.Header.Get(headerVersion) != "13":
		return errVersion
	case !validKey(r.Header.Values(headerKey)):
		return errKey
	case r.ContentLength != 0:
		return errBody // OnAuth would wait for it, and what comes of it later would be taken for frames
	}
	return nil
}

// ignoreBody has net/http answer and close the connection at once. Else it would wait for up to 256 KB
// of the request's body, perhaps for ever.
func ignoreBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 {
		return
	}
	w.Header().Set("Connection", "close")
	http.NewResponseController(w).SetReadDeadline(time.Now()) // a writer without it has no connection that waits
}

func hasToken(h http.Header, key, token string) bool {
	for _, line := range h.Values(key) {
		for field := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(field), token) {
				return true
			}
		}
	}
	return false
}

func validKey(keys []string) bool {
	if len(keys) != 1 {
		return false
	}
	key := strings.TrimSpace(keys[0])
	if len(key) != 24 { // 16 bytes in base64
		return false
	}
	var decoded [18]byte // as many as 24 characters can stand for
	n, err := base64.StdEncoding.Decode(decoded[:], []byte(key))
	return err == nil && n == 16
}

// Token returns the token with which a client signs in. It is for OnAuth. The token is the
// bearer token of the Authorization header. A page cannot set that header. So it offers a
// subprotocol: "live.token." followed by the token in base64url. Token returns "" if there is no
// token.
func Token(r *http.Request) string {
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	for _, line := range r.Header.Values(headerProtocol) {
		for offer := range strings.SplitSeq(line, ",") {
			if coded, ok := strings.CutPrefix(strings.TrimSpace(offer), "live.token."); ok {
				token, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(coded, "="))
				if err == nil {
					return string(token)
				}
			}
		}
	}
	return ""
}

// authenticate takes a place for the session and calls OnAuth, when it is the handshake's turn. If OnAuth
// panics, takes too long, or fails because the client has left, the error wraps the refusal for that.
func (sess *Session) authenticate(r *http.Request) (began time.Time, value any, err error) {
	s := sess.server
	if err := s.auths.enter(r.Context(), r.RemoteAddr); err != nil {
		return began, nil, err
	}
	defer s.auths.leave()
	if err := s.reserve(); err != nil {
		return began, nil, err
	}
	sess.reserved = true
	began = time.Now()
	if s.opts.OnAuth == nil {
		return began, nil, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.opts.AuthTimeout)
	defer cancel()
	defer context.AfterFunc(s.handshakes, cancel)()
	broken := s.guard("OnAuth", r, func() { value, err = s.opts.OnAuth(ctx, r) })
	s.counters.authTime.Add(time.Since(began))
	if broken != nil {
		return began, nil, broken
	}
	return began, value, s.whyAuthFailed(ctx, r, err)
}

// whyAuthFailed returns why OnAuth has returned err. ctx is the context that OnAuth got. If ctx has ended
// because the client has left, or because the time of Shutdown is over, that is the refusal, whatever err
// is. If ctx has ended after AuthTimeout, an error that OnAuth has made with Refuse remains the answer.
func (s *Server) whyAuthFailed(ctx context.Context, r *http.Request, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w (%w)", err, errAuthSlow)
	case r.Context().Err() != nil:
		return fmt.Errorf("%w (%w)", errClientGone, err)
	case ctx.Err() != nil:
		return fmt.Errorf("%w (%w)", errDraining, err)
	}
	return err
}
