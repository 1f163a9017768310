// Package closecode is the table of WebSocket close codes. It says what a client does after each of
// them. The server, the Go client and live.js share it: the tests check live.js and docs/protocol.md
// against this table.
package closecode

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// The codes that the server and the clients know by name.
const (
	Normal        = 1000 // Session.Close
	GoingAway     = 1001 // the user leaves the page, or a proxy goes away
	ProtocolError = 1002 // RFC 6455 was broken
	NotUTF8       = 1007
	Refused       = 1008 // a limit was broken, or the application refused
	TooBig        = 1009
	Failed        = 1011 // a callback panicked
	Restart       = 1012
	Overloaded    = 1013
	Revoked       = 4001
	BadFrame      = 4002 // live.v1 was broken
	Replaced      = 4003 // by a newer session of the user
	QueueFull     = 4100
	PingTimeout   = 4101
	UserBytes     = 4103 // too much waits for all sessions of the user together
	SignInExpired = 4200
	None          = 1006 // no close frame came
)

// Action is what a client does about its connection.
type Action int

const (
	// BackOff: the client comes back after a random time, which grows with each failure.
	BackOff Action = iota

	// Return: the client comes back within the window that the server has named. Without one it
	// backs off.
	Return

	// Renew: the client waits for at most RenewWindow, fetches a new token, and comes back. If the
	// connection before this one has failed too, the client backs off.
	Renew

	// Stop: the client stays away.
	Stop
)

// Reaction is what a client does after a close code.
type Reaction struct {
	Action Action

	// Suspect says that a message of the client may be the cause. Messages without an answer are then
	// not sent again, because one of them could end each new connection.
	Suspect bool
}

const (
	// RenewWindow spreads the clients whose sign-ins expire together.
	RenewWindow = time.Second

	// MaxWindow bounds the windows that a server may name. It protects clients from a server that
	// is wrong, or a proxy in front of it.
	MaxWindow = time.Minute
)

// table has the reactions to all codes except those after which a client only backs off.
var table = []struct {
	from, to int
	Reaction
}{
	{ProtocolError, ProtocolError, Reaction{BackOff, true}},
	{NotUTF8, TooBig, Reaction{BackOff, true}}, // 1008 too
	{Failed, Failed, Reaction{BackOff, true}},
	{Restart, Overloaded, Reaction{Return, false}},
	{4000, 4099, Reaction{Stop, false}},
	{4200, 4299, Reaction{Renew, false}},
}

// ReactionTo returns what a client does after a close code. With 1000 the reason counts: a server
// that ends a session on purpose gives one, and a proxy that restarts does not.
func ReactionTo(code int, reason string) Reaction {
	if code == Normal && reason != "" {
		return Reaction{Action: Stop}
	}
	for _, row := range table {
		if row.from <= code && code <= row.to {
			return row.Reaction
		}
	}
	return Reaction{Action: BackOff}
}

// WithWindow returns the reason of a close frame that tells within which time a client should come
// back.
func WithWindow(why string, within time.Duration) string {
	return fmt.Sprintf("%s; return within %d ms", why, within.Milliseconds())
}

var window = regexp.MustCompile(`(?s).*within (\d+) ms`)

// Window returns the time that a reason of WithWindow names, at most MaxWindow. 0: it names none, or the
// code is not one of Return.
func Window(code int, reason string) time.Duration {
	found := window.FindStringSubmatch(reason)
	if ReactionTo(code, reason).Action != Return || found == nil {
		return 0
	}
	ms, err := strconv.ParseUint(found[1], 10, 64)
	if err != nil || ms > uint64(MaxWindow.Milliseconds()) { // out of range
		return MaxWindow
	}
	return time.Duration(ms) * time.Millisecond
}

// ForApplications reports whether an application may close a session with a code. It excludes codes
// that only an implementation of the protocol may send (RFC 6455, section 7.4), such as the one for a
// message that was too big.
func ForApplications(code int) bool {
	switch code {
	case Normal, Refused, Failed, Restart, Overloaded:
		return true
	}
	return code >= 3000 && code <= 4999
}
