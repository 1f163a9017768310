package live

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// SessionEnd tells how a session of this server has ended, and what its client had not got by then.
type SessionEnd struct {
	Time      time.Time     // when the session ended
	SessionID string        // the first 128 bytes
	UserID    string        // the first 128 bytes; "": no user in particular
	Age       time.Duration // how long the session lasted

	// Why is the name of the field of Closings in which the end counts, such as "QueueFull".
	Why string

	// Code is that of the close frame; see CloseNormal. It is the client's code if Why is "Client". 0:
	// there was no close frame, because the connection broke or the client took nothing any more.
	Code   int
	Reason string // of the close frame; the first 123 bytes

	// Error is the text of the session's CloseError, the first 256 bytes of it. "": either side closed
	// the session on purpose.
	Error string

	QueuedMessages int // waited for the client
	QueuedBytes    int // of these messages
	Unhandled      int // messages of the client that waited for the application
	Topics         int // subscriptions
	CatchingUp     int // subscriptions that read from history
}

const (
	// maxEnds is how many ends a server remembers. An operator who is asked why a user was thrown out
	// looks for the reason within minutes. The ends take 0.2 MB as a rule, and 0.8 MB with the longest
	// texts.
	maxEnds = 1000

	// These bound the texts of an end in bytes. The application makes them, so they may have any
	// length. A close frame has space for 123 bytes of reason (RFC 6455, section 5.5).
	maxEndName   = 128
	maxEndReason = 123
	maxEndError  = 256
)

// ending is what is known about an end before the session has left its topics.
type ending struct {
	at             time.Time
	age            time.Duration
	code           int
	reason         string
	queuedMessages int
	queuedBytes    int
	unhandled      int
}

// newEnding notes what waits while the session ends. It is called before the queues are dropped.
func (s *Session) newEnding(c *closing) ending {
	e := ending{at: time.Now(), age: time.Duration(clock.Now() - s.began), code: c.code, reason: c.reason}
	e.queuedMessages, e.queuedBytes = s.out.Queued()
	s.inbound.mu.Lock()
	e.unhandled = s.inbound.waiting
	s.inbound.mu.Unlock()
	return e
}

// noteEnd remembers how a session has ended. It formats the error, which is the application's or
// the connection's. So no lock is held.
func (s *Session) noteEnd(e ending, topics, catchingUp int) {
	end := SessionEnd{
		Time:           e.at,
		SessionID:      clip(s.id, maxEndName),
		UserID:         clip(s.user, maxEndName),
		Age:            e.age,
		Why:            whyNames[s.why],
		Code:           e.code,
		Reason:         clip(e.reason, maxEndReason),
		QueuedMessages: e.queuedMessages,
		QueuedBytes:    e.queuedBytes,
		Unhandled:      e.unhandled,
		Topics:         topics,
		CatchingUp:     catchingUp,
	}
	if err := s.CloseError(); err != nil {
		end.Error = clip(fmt.Sprint(err), maxEndError) // unlike Error, Sprint does not panic
	}
	s.server.ends.add(end)
}

// whyNames has the fields of Closings.
var whyNames = [closeReasons]string{
	closedLost:          "Lost",
	closedByClient:      "Client",
	closedForProtocol:   "Protocol",
	closedTooBig:        "TooBig",
	closedByApplication: "Application",
	closedUser:          "User",
	closedExpired:       "Expired",
	closedRefused:       "Refused",
	closedShutdown:      "Shutdown",
	closedAge:           "Age",
	closedQueueFull:     "QueueFull",
	closedUserBytes:     "UserBytes",
	closedReplaced:      "Replaced",
	closedPingTimeout:   "PingTimeout",
	closedWriteFailed:   "WriteFailed",
	closedPanic:         "Panic",
}

// clip returns the first bytes of a text, without half a rune. It copies them, so that a long text can
// be freed.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.Clone(strings.ToValidUTF8(text[:most], ""))
}

// endRing holds the newest ends.
type endRing struct {
	mu   sync.Mutex   // guards the fields below; no other lock is taken under it
	ends []SessionEnd // a ring once it is full
	next int          // the index of the oldest end; the next end takes its place if ends is full
}

func (r *endRing) add(e SessionEnd) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ends) < maxEnds {
		r.ends = append(r.ends, e)
		return
	}
	r.ends[r.next] = e
	r.next = (r.next + 1) % maxEnds
}

func (r *endRing) newestFirst() []SessionEnd {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Concat(r.ends[r.next:], r.ends[:r.next])
	slices.Reverse(all)
	return all
}

// RecentEnds returns how the last thousand sessions of this server have ended, the newest first. So an
// operator can see why a user was thrown out. The end of a session is among them before its OnClose is
// called.
func (s *Server) RecentEnds() []SessionEnd { return s.ends.newestFirst() }
