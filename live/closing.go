package live

import (
	"log/slog"
	"sync/atomic"

	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/inbox"
)

// closing is how a session ends.
type closing struct {
	code    int    // 0: no close frame, since nobody can read it; inbox.NoCode: a close frame without a code
	reason  string // for the client
	err     error  // for the application
	why     closeReason
	discard bool // do not send what is queued: the client cannot take it

	within int64 // milliseconds within which a live.v1 client is told to come back; 0: it is not told
}

// frames returns the last frames that the client gets.
func (c *closing) frames(w wire) []*frame.Frame {
	var last []*frame.Frame
	if c.within > 0 && w == wireV1 {
		last = append(last, drainFrame(c.within))
	}
	switch c.code {
	case 0:
	case inbox.NoCode:
		last = append(last, frame.EmptyClose)
	default:
		last = append(last, frame.Close(c.code, c.reason))
	}
	return last
}

// Closings counts the sessions that have ended, by reason.
type Closings struct {
	Client      uint64 `json:",omitzero"` // the client sent a close frame: its page was left, or closed the connection
	Lost        uint64 `json:",omitzero"` // the connection broke, or was closed without a close frame
	Protocol    uint64 `json:",omitzero"` // the client sent an invalid frame of WebSocket or of live.v1, or invalid UTF-8, or sent a message too slowly or in too many frames (1002, 1007, 1008, 4002)
	TooBig      uint64 `json:",omitzero"` // ErrMessageTooBig: a message was larger than ReadLimit (1009)
	Application uint64 `json:",omitzero"` // Session.Close or Disconnect
	User        uint64 `json:",omitzero"` // DisconnectUser (4001)
	Expired     uint64 `json:",omitzero"` // ExpireAt: the sign-in has expired (4200)
	Refused     uint64 `json:",omitzero"` // OnConnect returned an error (1008)
	Shutdown    uint64 `json:",omitzero"` // ErrServerClosed (1012)
	Age         uint64 `json:",omitzero"` // ErrSessionAge (1012)
	QueueFull   uint64 `json:",omitzero"` // ErrQueueFull (4100)
	UserBytes   uint64 `json:",omitzero"` // ErrUserBytes (4103)
	Replaced    uint64 `json:",omitzero"` // ErrReplaced (4003)
	PingTimeout uint64 `json:",omitzero"` // ErrPingTimeout (4101)
	WriteFailed uint64 `json:",omitzero"` // ErrWriteFailed
	Panic       uint64 `json:",omitzero"` // ErrPanic (1011)
}

// closeReason is why a session ended.
type closeReason uint8

const (
	closedLost closeReason = iota
	closedByClient
	closedForProtocol
	closedTooBig
	closedByApplication
	closedUser
	closedExpired
	closedRefused
	closedShutdown
	closedAge
	closedQueueFull
	closedUserBytes
	closedReplaced
	closedPingTimeout
	closedWriteFailed
	closedPanic
	closeReasons // how many reasons there are
)

// closeLog says how the end of a session is logged. The level is Debug for ends that happen every day,
// and for ends about which another line of the log says more.
var closeLog = [closeReasons]struct {
	level   slog.Level
	message string
}{
	closedLost:          {slog.LevelDebug, "live: session ended: connection lost"},
	closedByClient:      {slog.LevelDebug, "live: session ended: its client closed it"},
	closedForProtocol:   {slog.LevelInfo, "live: session closed: its client broke the protocol"},
	closedTooBig:        {slog.LevelInfo, "live: session closed: ReadLimit reached"},
	closedByApplication: {slog.LevelDebug, "live: session closed by the application"},
	closedUser:          {slog.LevelDebug, "live: session closed: DisconnectUser"},
	closedExpired:       {slog.LevelDebug, "live: session closed: sign-in expired"},
	closedRefused:       {slog.LevelInfo, "live: session closed: refused by OnConnect"},
	closedShutdown:      {slog.LevelDebug, "live: session closed: shutting down"},
	closedAge:           {slog.LevelDebug, "live: session closed: MaxSessionAge reached"},
	closedQueueFull:     {slog.LevelInfo, "live: session closed: its client reads too slowly"},
	closedUserBytes:     {slog.LevelDebug, "live: session ended: MaxBytesPerUser"}, // boundUsers logs it with the number of bytes
	closedReplaced:      {slog.LevelDebug, "live: session closed: replaced by a newer session of its user"},
	closedPingTimeout:   {slog.LevelDebug, "live: session closed: its client does not answer"},
	closedWriteFailed:   {slog.LevelDebug, "live: session ended: write failed"},
	closedPanic:         {slog.LevelDebug, "live: session closed: a callback panicked"}, // the panic is logged with its stack
}

// closedCounters counts the ends of sessions by reason.
type closedCounters [closeReasons]atomic.Uint64

// figures returns the counts, and their sum.
func (c *closedCounters) figures() (by Closings, sum uint64) {
	var n [closeReasons]uint64
	for i := range c {
		n[i] = c[i].Load()
		sum += n[i]
	}
	return Closings{
		Client:      n[closedByClient],
		Lost:        n[closedLost],
		Protocol:    n[closedForProtocol],
		TooBig:      n[closedTooBig],
		Application: n[closedByApplication],
		User:        n[closedUser],
		Expired:     n[closedExpired],
		Refused:     n[closedRefused],
		Shutdown:    n[closedShutdown],
		Age:         n[closedAge],
		QueueFull:   n[closedQueueFull],
		UserBytes:   n[closedUserBytes],
		Replaced:    n[closedReplaced],
		PingTimeout: n[closedPingTimeout],
		WriteFailed: n[closedWriteFailed],
		Panic:       n[closedPanic],
	}, sum
}
