package inspector

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"

	"github.com/livetopic/livetopic/live"
)

// endRow is an end in the table. Times are in milliseconds.
type endRow struct {
	Key        string `json:"key"` // names the row
	Time       int64  `json:"time"`
	Session    string `json:"session"`
	User       string `json:"user"`
	Age        int64  `json:"age"`
	Code       int    `json:"code"` // 0: no close frame
	Reason     string `json:"reason"`
	ByClient   bool   `json:"byClient"`
	Error      string `json:"error"`
	Messages   int    `json:"messages"`
	Bytes      int    `json:"bytes"`
	Unhandled  int    `json:"unhandled"`
	Topics     int    `json:"topics"`
	CatchingUp int    `json:"catchingUp"`
	Kind       string `json:"kind"`
	Meaning    string `json:"meaning"`

	number int // 0: the newest
}

func rowOfEnd(e *live.SessionEnd, number int) endRow {
	kind := kindOf(e)
	return endRow{
		Key:        strconv.FormatInt(e.Time.UnixNano(), 36) + e.SessionID,
		Time:       e.Time.UnixMilli(),
		Session:    e.SessionID,
		User:       e.UserID,
		Age:        e.Age.Milliseconds(),
		Code:       e.Code,
		Reason:     e.Reason,
		ByClient:   e.ByClient,
		Error:      e.Error,
		Messages:   e.QueuedMessages,
		Bytes:      e.QueuedBytes,
		Unhandled:  e.Unhandled,
		Topics:     e.Topics,
		CatchingUp: e.CatchingUp,
		Kind:       kind.name,
		Meaning:    kind.meaning,
		number:     number,
	}
}

var endOrders = map[string]order[endRow]{
	"time":   func(a, b *endRow) int { return cmp.Compare(b.number, a.number) },
	"user":   func(a, b *endRow) int { return cmp.Compare(a.User, b.User) },
	"kind":   func(a, b *endRow) int { return cmp.Compare(a.Kind, b.Kind) },
	"code":   func(a, b *endRow) int { return cmp.Compare(a.Code, b.Code) },
	"age":    func(a, b *endRow) int { return cmp.Compare(a.Age, b.Age) },
	"queue":  func(a, b *endRow) int { return cmp.Compare(a.Bytes, b.Bytes) },
	"topics": func(a, b *endRow) int { return cmp.Compare(a.Topics, b.Topics) },
}

// newestEnd compares two ends so that the newer comes first.
func newestEnd(a, b *endRow) int { return cmp.Compare(a.number, b.number) }

// endTable is a page of ends, with how many of all remembered ends are of each kind.
type endTable struct {
	table[endRow]
	Kinds map[string]int `json:"kinds"`
}

// ends answers with a page of the ends that the server remembers. The parameter kind leaves only the
// ends of that kind.
func (in *inspector) ends(r *http.Request) (any, error) {
	q := queryOf(r)
	kind := r.URL.Query().Get("kind")
	all := in.server.RecentEnds()
	kinds := make(map[string]int)
	var found []endRow
	for i := range all {
		row := rowOfEnd(&all[i], i)
		kinds[row.Kind]++
		if (kind == "" || row.Kind == kind) &&
			q.finds(row.User, row.Session, row.Reason, row.Error, row.Kind, strconv.Itoa(row.Code)) {
			found = append(found, row)
		}
	}
	return endTable{tableOf(&q, found, len(all), endOrders, newestEnd), kinds}, nil
}

// endKind is what an end means, for the person who reads it.
type endKind struct{ name, meaning string }

var (
	leftKind     = endKind{"Client left", "The page was closed, or the program at the other end closed the connection on purpose."}
	lostKind     = endKind{"Connection lost", "The connection broke without a close frame: the network failed, the device slept, or the program was killed. live.js comes back by itself."}
	tookNothing  = endKind{"Took nothing", "The client took no byte for WriteTimeout, or the connection broke while the server wrote. What waited was dropped. live.js comes back, and resumes where the topic keeps history."}
	ageKind      = endKind{"Session too old", "The session reached MaxSessionAge. Its client comes back within a second, perhaps to another server."}
	otherKind    = endKind{"Closed by the application", "The application called Disconnect with a code of its own."}
	clientCode   = endKind{"Client closed with a code", "The page closed the connection with a code of its own."}
	protocolKind = endKind{"Broke the protocol", "The client sent bytes that are no valid frame. The error says which."}
)

// kindByCode has the kinds of ends that the server's close code tells; see live.CloseNormal.
var kindByCode = map[int]endKind{
	live.CloseNormal:        {"Closed on purpose", "The application closed the session, and the client stays away."},
	1002:                    protocolKind,
	1003:                    protocolKind,
	1007:                    protocolKind,
	live.CloseProtocol:      protocolKind,
	live.CloseRefused:       {"Refused", "OnConnect returned an error, or a message of the client took too long to arrive. The error says which."},
	live.CloseTooBig:        {"Message too big", "The client sent a message larger than ReadLimit."},
	live.ClosePanic:         {"Callback failed", "A callback of the application panicked. The log has its stack."},
	live.CloseRestart:       {"Restart", "The server shut down, and told the client when to come back."},
	live.CloseRevoked:       {"Signed out", "DisconnectUser was called: the user may not connect any more, or has signed out."},
	live.CloseReplaced:      {"Replaced", "The user had MaxSessionsPerUser sessions, and a newer session took this one's place."},
	live.CloseQueueFull:     {"Queue full", "The client read more slowly than messages came for it. Its queue reached QueueSize or QueueBytes on a topic that has no history to read on in. Give the topic a History, or an Overflow that drops, or send less."},
	live.ClosePingTimeout:   {"No answer to ping", "The client was silent for PingInterval, and then did not answer a ping within PingTimeout. It was probably gone long before."},
	live.CloseUserBytes:     {"Too much for the user", "What waited for all sessions of the user together was more than MaxBytesPerUser, and most of it waited for this one."},
	live.CloseSignInExpired: {"Sign-in expired", "ExpireAt has passed, or the sign-in was renewed. The client comes back at once with a new token."},
}

// kindOf returns what an end means.
func kindOf(e *live.SessionEnd) endKind {
	switch {
	case e.ByClient && e.Code < 3000:
		return leftKind
	case e.ByClient:
		return clientCode
	case strings.HasPrefix(e.Error, live.ErrWriteFailed.Error()):
		return tookNothing
	case e.Code == 0:
		return lostKind
	case e.Error == live.ErrSessionAge.Error():
		return ageKind
	}
	if kind, known := kindByCode[e.Code]; known {
		return kind
	}
	return otherKind
}
