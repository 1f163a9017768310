package live

import (
	"errors"

	"github.com/livetopic/livetopic/live/broker"
)

var (
	// ErrSessionClosed is returned for a session that has ended, whichever side ended it.
	ErrSessionClosed = errors.New("live: session closed")

	// ErrQueueFull is returned when a message would make a session's queue larger than
	// QueueSize or QueueBytes allow. It also ends the session, unless
	// TopicOptions.Overflow does something else, so that a client that cannot keep up does
	// not cost the others.
	ErrQueueFull = errors.New("live: send queue full")

	// ErrInvalidTopic is wrapped by the error for a topic that is empty, too
	// long or not UTF-8.
	ErrInvalidTopic = broker.ErrInvalidTopic

	// ErrInvalidData is wrapped by the error for data that is not JSON.
	ErrInvalidData = broker.ErrInvalidData

	// ErrTooManyTopics is wrapped by the error of Subscribe when a session has MaxTopics
	// topics already, and by that of SetPresence when a session is present in too many topics
	// without being subscribed.
	ErrTooManyTopics = errors.New("live: session has too many topics")

	// ErrNoHistory is wrapped by the error for a topic that keeps no history.
	ErrNoHistory = errors.New("live: topic keeps no history")

	// ErrUnavailable is wrapped by a Broker's error when the messaging system cannot
	// be reached, or cannot decide. A live.v1 client is told to try again later.
	ErrUnavailable = broker.ErrUnavailable

	// ErrTooLarge is wrapped by a Broker's error for a publication that is too large for the
	// messaging system, and by the error of SetPresence for an info that is too large. A live.v1
	// client that published or set it is told "too_big".
	ErrTooLarge = broker.ErrTooLarge

	// ErrTooManyKeys is wrapped by the error for a publication with one key more than a keyed
	// topic may have, in number or in bytes. Nothing was published.
	ErrTooManyKeys = broker.ErrTooManyKeys

	// ErrNoKey is wrapped by the error for a publication of a keyed topic without a Key.
	ErrNoKey = errors.New("live: publication of a keyed topic without a key")

	// ErrSnapshot is wrapped by the error that says why a topic's Snapshot returned no state.
	ErrSnapshot = errors.New("live: the topic's state cannot be had")

	// ErrServerClosed ends the sessions that Shutdown closes. Methods that are called after
	// Shutdown return it.
	ErrServerClosed = broker.ErrServerClosed

	// ErrSessionAge ends a session that has lasted for MaxSessionAge.
	ErrSessionAge = errors.New("live: session has reached its MaxSessionAge")

	// ErrInCallback is returned by Shutdown if a callback calls it.
	ErrInCallback = errors.New("live: Shutdown waits for the callbacks, so it cannot be called in one; call it in a goroutine of its own")

	// ErrDisconnected is wrapped by the error of a session that Disconnect,
	// DisconnectUser or ExpireAt ended. Its text names the close code and the reason.
	ErrDisconnected = errors.New("live: session disconnected")

	// ErrPingTimeout ends a session whose client did not answer a ping within PingTimeout. While
	// the server does not read from the client, it is enough that the client's kernel acknowledges it.
	ErrPingTimeout = errors.New("live: client does not answer")

	// ErrWriteFailed is wrapped by the error that ends a session when writing to its
	// connection fails, or when its client takes nothing for WriteTimeout.
	ErrWriteFailed = errors.New("live: write to client failed")

	// ErrMessageTooBig ends a session whose client sent a message larger than
	// ReadLimit.
	ErrMessageTooBig = errors.New("live: message from client is larger than ReadLimit")

	// ErrUserBytes ends a session of a user whose sessions together hold more than
	// MaxBytesPerUser.
	ErrUserBytes = errors.New("live: too much waits for the sessions of the user")

	// ErrReplaced ends a session whose place a newer session of the user has taken; see
	// ReplaceOldest.
	ErrReplaced = errors.New("live: a newer session of the user took the place")

	// ErrPanic is wrapped by the error that ends a session after one of its callbacks
	// panicked.
	ErrPanic = errors.New("live: callback panicked")
)

// The codes with which the server closes a session. A browser's page learns nothing else but
// the reason, so the range of the code tells a client what to do:
//
//	1000              the session was closed on purpose: stay away
//	1002              the client broke RFC 6455: back off
//	1007              a message was not UTF-8, or its compression was invalid: back off
//	1008, 1009, 1011  a limit was broken, or a callback failed: back off
//	1012, 1013        restart or overload: come back within the window in the reason
//	4000–4099         final: stop
//	4100–4199         the connection was bad: back off, then resume
//	4200–4299         signed in anew: come back within a second, with a new token
//	others            the application's, for Disconnect: back off, then resume
const (
	CloseNormal        = 1000 // Session.Close
	CloseRefused       = 1008 // OnConnect returned an error, or a message came too slowly
	CloseTooBig        = 1009 // a message over ReadLimit
	ClosePanic         = 1011 // a callback panicked
	CloseRestart       = 1012 // Shutdown; the reason names a window: "return within 5000 ms"
	CloseRevoked       = 4001 // DisconnectUser: not allowed any more, or signed out
	CloseProtocol      = 4002 // a live.v1 client sent a frame that is not valid in live.v1
	CloseReplaced      = 4003 // ErrReplaced: a newer session of the user took the place
	CloseQueueFull     = 4100 // ErrQueueFull: on topics without history, or with OverflowClose
	ClosePingTimeout   = 4101 // ErrPingTimeout
	CloseUserBytes     = 4103 // ErrUserBytes: too much waits for all sessions of the user together
	CloseSignInExpired = 4200 // ExpireAt: the sign-in expired, or was renewed
)
