package liveclient

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

var (
	// ErrClosed says that the client has ended, by Close or by the server. Client.Err says why.
	ErrClosed = errors.New("liveclient: client is closed")

	// ErrSubscribed is returned by Subscribe and Listen for a topic that has a Subscription of this
	// client already. Unsubscribe that one first, or share it.
	ErrSubscribed = errors.New("liveclient: topic has a subscription already")

	// ErrUnsubscribed is the error of a Subscription that its Unsubscribe has ended.
	ErrUnsubscribed = errors.New("liveclient: subscription was ended by Unsubscribe")

	// ErrDisconnected says that the connection broke after an operation was sent and before its
	// answer came. The server may or may not have carried it out.
	ErrDisconnected = errors.New("liveclient: connection lost before the answer")

	// ErrOffline says that there was no connection, and that the operation must not wait for one.
	// See OnlyConnected.
	ErrOffline = errors.New("liveclient: not connected")

	// ErrTooManyWaiting says that Options.MaxWaiting operations wait for a connection already.
	ErrTooManyWaiting = errors.New("liveclient: too many operations wait for a connection")

	// ErrTooBig says that an operation has more bytes than the server takes, or an answer more than
	// Options.ReadLimit allows.
	ErrTooBig = errors.New("liveclient: too big")

	// ErrTimeout says that no answer came within Options.CallTimeout.
	ErrTimeout = errors.New("liveclient: no answer in time")

	// ErrInvalidTopic says that a topic is empty or not UTF-8.
	ErrInvalidTopic = errors.New("liveclient: invalid topic")

	// ErrInvalidData says that a value cannot be sent, because it is not valid JSON in UTF-8, cannot be marshalled to JSON, or nests deeper
	// than 9,990 levels.
	ErrInvalidData = errors.New("liveclient: data is not JSON")

	// ErrBadFrame says that the server has sent a frame that is not one of live.v1.
	ErrBadFrame = errors.New("liveclient: the server sent a bad frame")

	// ErrNotLive says that a WebSocket server answered that does not speak live.v1.
	ErrNotLive = errors.New("liveclient: the server does not speak live.v1")

	// ErrSilent says that a connection was given up because the server sent nothing for its ping interval and ten
	// seconds more.
	ErrSilent = errors.New("liveclient: no sign of life from the server")
)

// The codes with which a server refuses an operation. Code returns them. An application may have codes of
// its own. docs/protocol.md says what they mean.
const (
	CodeBadRequest    = "bad_request"
	CodeUnknownOp     = "unknown_op"
	CodeForbidden     = "forbidden"
	CodeInvalidTopic  = "invalid_topic"
	CodeTooManyTopics = "too_many_topics"
	CodeRateLimited   = "rate_limited"
	CodeNoHistory     = "no_history"
	CodeTooManyKeys   = "too_many_keys"
	CodeNoPresence    = "no_presence"
	CodeTooBig        = "too_big"
	CodeUnavailable   = "unavailable"
	CodeInternal      = "internal"
)

// Error says why an operation or a subscription has failed.
type Error struct {
	Op    string // "publish", "subscribe", …
	Topic string // of the operation; "": it has none

	// Code is the server's, for example "forbidden". "": the server has not refused the operation,
	// and Err says what happened.
	Code string

	// Message is the server's, for a person.
	Message string

	// Sent says that the operation has gone to the server. If it is false, the server has not carried
	// the operation out, and never will. If it is true and Code is "", the server may or may not
	// have carried it out.
	Sent bool

	// Err is an error of this package, or that of the context. It is nil if there is a Code.
	Err error
}

// Error returns the operation, its topic and what has happened.
func (e *Error) Error() string {
	op := cmp.Or(e.Op, "operation")
	if e.Code != "" {
		text := fmt.Sprintf("liveclient: %s %q: the server answered %s", op, e.Topic, e.Code)
		if e.Message != "" {
			text += ": " + e.Message
		}
		return text
	}
	sent, why := "not sent", "it is not known why"
	if e.Sent {
		sent = "sent"
	}
	if e.Err != nil { // it is nil in an Error that a program has made itself
		why = strings.TrimPrefix(e.Err.Error(), "liveclient: ")
	}
	return fmt.Sprintf("liveclient: %s %q (%s): %s", op, e.Topic, sent, why)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Code returns the code with which the server has refused an operation. "": the error is not a refusal of
// the server.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Sent reports whether the operation that failed has gone to the server. If not, the server has not
// carried it out, and never will.
func Sent(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Sent
}

// CloseError says that the server has closed the connection.
type CloseError struct {
	Code   int    // see docs/protocol.md
	Reason string // the server's, for a person; "": there is none
}

// Error returns the code and the reason.
func (e *CloseError) Error() string {
	return fmt.Sprintf("liveclient: the server closed the connection with %d %q", e.Code, e.Reason)
}

// RefusedError says that the server has refused the handshake.
type RefusedError struct {
	Status int    // of the HTTP answer
	Text   string // the first bytes of its body, or the address of a redirect

	// RetryAfter is how long the server asks the client to wait. 0: it has not said.
	RetryAfter time.Duration
}

// Error returns the status and the text.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("liveclient: the server refused the connection with %d %s: %s", e.Status, http.StatusText(e.Status), e.Text)
}

// isLasting reports whether the same handshake would most likely be refused again.
func (e *RefusedError) isLasting() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return e.Status < 500
}
