package live

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
)

// Refusals counts the handshakes that were refused, by reason.
type Refusals struct {
	BadHandshake    uint64 // it was no valid WebSocket handshake (400, 426), or a middleware does not let the server take over the connection (500)
	Origin          uint64 // a page of another origin asked (403)
	Draining        uint64 // the server shuts down (503)
	TooManySessions uint64 // the server had MaxSessions sessions (503)
	TooManyOfUser   uint64 // the user had MaxSessionsPerUser sessions (429)
	QueueFull       uint64 // MaxAuthsWaiting handshakes waited for OnAuth (503)
	QueueTimeout    uint64 // the handshake waited for OnAuth longer than AuthTimeout (503)
	Auth            uint64 // OnAuth returned an error (401, or the status given to Refuse)
	AuthTimeout     uint64 // OnAuth returned an error after AuthTimeout had passed (503)
	Panic           uint64 // a callback panicked (500)
	Gone            uint64 // the client left before OnAuth had returned, or did not read the answer
}

// refusalReason is why a handshake was refused.
type refusalReason uint8

const (
	refusedByAuth refusalReason = iota // also errors that are not a *refusal
	refusedHandshake
	refusedOrigin
	refusedDraining
	refusedSessions
	refusedUser
	refusedQueueFull
	refusedQueueTimeout
	refusedAuthTimeout
	refusedPanic
	refusedGone
	refusalReasons // how many reasons there are
)

// These are the refusals of a handshake whose text does not depend on the request.
var (
	errMethod          = &refusal{http.StatusBadRequest, "websocket: the method must be GET", refusedHandshake}
	errHTTP1           = &refusal{http.StatusUpgradeRequired, "websocket: HTTP/1.1 is needed", refusedHandshake}
	errUpgrade         = &refusal{http.StatusBadRequest, "websocket upgrade required: connect with a WebSocket client", refusedHandshake}
	errVersion         = &refusal{http.StatusUpgradeRequired, "unsupported WebSocket version: this server speaks 13", refusedHandshake}
	errKey             = &refusal{http.StatusBadRequest, "invalid Sec-WebSocket-Key: it must be 16 bytes in base64", refusedHandshake}
	errBody            = &refusal{http.StatusBadRequest, "websocket: a handshake has no body", refusedHandshake}
	errDraining        = &refusal{http.StatusServiceUnavailable, "the server is shutting down", refusedDraining}
	errTooManySessions = &refusal{http.StatusServiceUnavailable, "too many sessions", refusedSessions}
	errTooManyOfUser   = &refusal{http.StatusTooManyRequests, "too many sessions of this user", refusedUser}
	errQueueOfAuths    = &refusal{http.StatusServiceUnavailable, "too many clients connect at once", refusedQueueFull}
	errWaitOfAuths     = &refusal{http.StatusServiceUnavailable, "too many clients connect at once; this one waited too long", refusedQueueTimeout}
	errNotHijackable   = &refusal{http.StatusInternalServerError, "websocket: this connection cannot be taken over; " +
		"a middleware wraps the http.ResponseWriter without an Unwrap or Hijack method", refusedHandshake}
	errAuthFailed = &refusal{http.StatusUnauthorized, "authentication failed", refusedByAuth}
	errAuthSlow   = &refusal{http.StatusServiceUnavailable, "authentication took too long", refusedAuthTimeout}
	errInternal   = &refusal{http.StatusInternalServerError, "internal error", refusedPanic}
	errClientGone = &refusal{http.StatusServiceUnavailable, "the client has gone", refusedGone}
)

// Refuse returns an error for OnAuth to return. The handshake is then answered with the given
// HTTP status and text, instead of 401 and "authentication failed". The client sees the text. A
// status outside 400 to 599 becomes 401.
func Refuse(status int, text string) error {
	if status < 400 || status > 599 {
		status = http.StatusUnauthorized
	}
	return &refusal{status, text, refusedByAuth}
}

type refusal struct {
	status int
	text   string
	reason refusalReason
}

func (r *refusal) Error() string { return fmt.Sprintf("live: refused with %d: %s", r.status, r.text) }

// refusalOf returns the refusal that an error wraps. Any other error is one of OnAuth: 401.
func refusalOf(err error) *refusal {
	var r *refusal
	if !errors.As(err, &r) {
		return errAuthFailed
	}
	return r
}

// refusalLog says how a refusal is logged. It is a warning if the operator can do something about it.
// It is for debugging if clients cause it by mistake, or any port scanner does.
var refusalLog = [refusalReasons]struct {
	level   slog.Level
	message string
}{
	refusedByAuth:       {slog.LevelInfo, "live: client refused by OnAuth"},
	refusedHandshake:    {slog.LevelDebug, "live: client refused: bad handshake"},
	refusedOrigin:       {slog.LevelDebug, "live: client refused: origin"}, // checkOrigin logs it with advice
	refusedDraining:     {slog.LevelDebug, "live: client refused: shutting down"},
	refusedSessions:     {slog.LevelWarn, "live: client refused: MaxSessions reached"},
	refusedUser:         {slog.LevelInfo, "live: client refused: MaxSessionsPerUser reached"},
	refusedQueueFull:    {slog.LevelWarn, "live: client refused: MaxAuthsWaiting reached"},
	refusedQueueTimeout: {slog.LevelWarn, "live: client refused: it waited too long for OnAuth"},
	refusedAuthTimeout:  {slog.LevelWarn, "live: client refused: OnAuth took too long"},
	refusedPanic:        {slog.LevelDebug, "live: client refused: a callback panicked"}, // the panic is logged with its stack
	refusedGone:         {slog.LevelDebug, "live: client left during its handshake"},
}

// noteRefusal counts and logs a client that was refused.
func (s *Server) noteRefusal(r *http.Request, err error) {
	reason := refusalOf(err).reason
	s.counters.refuse(reason)
	l := refusalLog[reason]
	s.logOfClient(l.level, l.message, "remote", r.RemoteAddr, "err", err)
}

// refusedCounters counts refusals by reason.
type refusedCounters [refusalReasons]atomic.Uint64

func (c *counters) refuse(reason refusalReason) { c.refused[reason].Add(1) }

// figures returns the counts, and their sum.
func (c *refusedCounters) figures() (by Refusals, sum uint64) {
	var n [refusalReasons]uint64
	for i := range c {
		n[i] = c[i].Load()
		sum += n[i]
	}
	return Refusals{
		BadHandshake:    n[refusedHandshake],
		Origin:          n[refusedOrigin],
		Draining:        n[refusedDraining],
		TooManySessions: n[refusedSessions],
		TooManyOfUser:   n[refusedUser],
		QueueFull:       n[refusedQueueFull],
		QueueTimeout:    n[refusedQueueTimeout],
		Auth:            n[refusedByAuth],
		AuthTimeout:     n[refusedAuthTimeout],
		Panic:           n[refusedPanic],
		Gone:            n[refusedGone],
	}, sum
}
