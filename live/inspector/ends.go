package inspector

import (
	"cmp"
	"net/http"
	"strconv"

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

// kindByWhy has what SessionEnd.Why means.
var kindByWhy = map[string]endKind{
	"Client":      {"Client left", "The page was closed, or it closed the connection itself."},
	"Lost":        {"Connection lost", "The connection broke without a close frame: the network failed, the device slept, or the program was killed. live.js comes back by itself."},
	"Protocol":    {"Broke the protocol", "The client sent bytes that are no valid frame, or a message that took too long to arrive. The error says which."},
	"TooBig":      {"Message too big", "The client sent a message larger than ReadLimit."},
	"Application": {"Closed by the application", "The application called Close or Disconnect, or somebody closed the session in the inspector."},
	"User":        {"Thrown out or signed out", "DisconnectUser was called: the user may not connect any more, or has signed out."},
	"Expired":     {"Sign-in expired", "The time of ExpireAt has come. The client comes back at once, with a new token."},
	"Refused":     {"Refused", "OnConnect returned an error."},
	"Shutdown":    {"Restart", "The server shut down, and told the client when to come back."},
	"Age":         {"Session too old", "The session reached MaxSessionAge. Its client comes back within a second, perhaps to another server."},
	"QueueFull": {"Queue full", "The client read more slowly than messages came for it, until they reached QueueSize or QueueBytes. " +
		"On a topic with History the client would have read on there, at its own pace. On others an Overflow that drops messages keeps the session."},
	"UserBytes":   {"Too much for the user", "What waited for all sessions of the user together was more than MaxBytesPerUser, and most of it waited for this one."},
	"Replaced":    {"Replaced", "The user had MaxSessionsPerUser sessions, and a newer session took the place of this one."},
	"PingTimeout": {"No answer to ping", "The client was silent for PingInterval, and then did not answer a ping within PingTimeout. It was probably gone before."},
	"WriteFailed": {"Took nothing", "The client took no byte for WriteTimeout, or the connection broke while the server wrote. live.js comes back, and gets what it missed where the topic keeps history."},
	"Panic":       {"Callback failed", "A callback of the application panicked. The log has its stack."},
}

// kindOf returns what an end means.
func kindOf(e *live.SessionEnd) endKind {
	if kind, known := kindByWhy[e.Why]; known {
		return kind
	}
	return endKind{name: e.Why}
}
