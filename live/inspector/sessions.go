package inspector

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"github.com/livetopic/livetopic/live"
)

// sessionRow is a session in the table. Times are Unix times in milliseconds.
type sessionRow struct {
	ID         string `json:"id"`
	User       string `json:"user"`
	Since      int64  `json:"since"`
	Heard      int64  `json:"heard"`
	Expires    int64  `json:"expires,omitempty"` // 0: never
	Topics     int    `json:"topics"`
	CatchingUp int    `json:"catchingUp"`
	Messages   int    `json:"messages"`
	Bytes      int    `json:"bytes"`
	Unhandled  int    `json:"unhandled"`
	LiveV1     bool   `json:"liveV1"`
	Compressed bool   `json:"compressed"`
}

func rowOfSession(s *live.Session) sessionRow {
	st := s.Stats()
	return sessionRow{
		ID:         st.ID,
		User:       clip(st.UserID),
		Since:      st.Since.UnixMilli(),
		Heard:      st.Heard.UnixMilli(),
		Expires:    millis(st.Expires),
		Topics:     st.Topics,
		CatchingUp: st.CatchingUp,
		Messages:   st.QueuedMessages,
		Bytes:      st.QueuedBytes,
		Unhandled:  st.Unhandled,
		LiveV1:     st.LiveV1,
		Compressed: st.Compressed,
	}
}

// maxUser is how many bytes of a user's name are shown. The application makes the names, and a page of the
// table has a hundred of them.
const maxUser = 256

// clip returns the beginning of a user's name, without half a rune.
func clip(user string) string {
	if len(user) <= maxUser {
		return user
	}
	return strings.ToValidUTF8(user[:maxUser], "") + "…"
}

// millis returns a Unix time in milliseconds; 0 for the zero Time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

var sessionOrders = map[string]order[sessionRow]{
	"user":   func(a, b *sessionRow) int { return cmp.Compare(a.User, b.User) },
	"age":    func(a, b *sessionRow) int { return cmp.Compare(b.Since, a.Since) },
	"heard":  func(a, b *sessionRow) int { return cmp.Compare(b.Heard, a.Heard) },
	"topics": func(a, b *sessionRow) int { return cmp.Compare(a.Topics, b.Topics) },
	"queue": func(a, b *sessionRow) int {
		return cmp.Or(cmp.Compare(a.Bytes, b.Bytes), cmp.Compare(a.CatchingUp, b.CatchingUp))
	},
	"position":  func(a, b *sessionRow) int { return cmp.Compare(a.CatchingUp, b.CatchingUp) },
	"unhandled": func(a, b *sessionRow) int { return cmp.Compare(a.Unhandled, b.Unhandled) },
}

func bySessionID(a, b *sessionRow) int { return cmp.Compare(a.ID, b.ID) }

// sessions answers with a page of the sessions of this server. The parameter topic leaves only the
// sessions that are subscribed to it.
func (in *inspector) sessions(r *http.Request) (any, error) {
	q := queryOf(r)
	topic := r.URL.Query().Get("topic")
	total := 0
	var found []sessionRow
	for s := range in.server.Sessions() {
		total++
		if q.finds(s.UserID(), s.ID()) && (topic == "" || s.IsSubscribed(topic)) {
			found = append(found, rowOfSession(s))
		}
	}
	return tableOf(&q, found, total, sessionOrders, bySessionID), nil
}

// subscriptionRow is a subscription of a session.
type subscriptionRow struct {
	Topic      string `json:"topic"`
	Position   string `json:"position"` // "": the topic keeps no history
	CatchingUp bool   `json:"catchingUp"`
	Behind     uint64 `json:"behind"`
}

// sessionDetail is one session with its subscriptions. Only the first page of them is sent, and Topics
// tells how many there are.
type sessionDetail struct {
	sessionRow
	Subscriptions []subscriptionRow `json:"subscriptions"`
}

// session answers with the session whose ID the parameter id has.
func (in *inspector) session(r *http.Request) (any, error) {
	s, err := in.find(r.URL.Query().Get("id"))
	if err != nil {
		return nil, err
	}
	detail := sessionDetail{sessionRow: rowOfSession(s), Subscriptions: []subscriptionRow{}}
	subs := s.Subscriptions()
	for _, sub := range subs[:min(len(subs), pageSize)] {
		row := subscriptionRow{Topic: sub.Topic, CatchingUp: sub.CatchingUp, Behind: sub.Behind}
		if sub.Position != (live.Position{}) {
			row.Position = sub.Position.String()
		}
		detail.Subscriptions = append(detail.Subscriptions, row)
	}
	return detail, nil
}

// find returns an open session of this server.
func (in *inspector) find(id string) (*live.Session, error) {
	s := in.server.SessionByID(id)
	if s == nil {
		return nil, problemf(http.StatusNotFound, "the session has ended, or it is at another server")
	}
	return s, nil
}
