package inspector

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

const (
	// tailPerSecond is how many publications of a second a tail gets. A person cannot read more, and
	// a topic may have ten thousand. Those that are left out cost next to nothing, and do not count as
	// dropped.
	tailPerSecond = 10

	// maxTailRows is how many publications a tail holds: those of ten seconds.
	maxTailRows = 100

	// maxTails bounds how many topics are followed at once. Each takes a call of Listen, and with
	// payloads up to 200 KB.
	maxTails = 8

	// maxPayload is how many bytes of a payload a tail keeps.
	maxPayload = 2000
)

// tails are the topics that somebody follows. A tail begins with the first request for its topic. It
// ends when nobody has asked for it for some time; see idle.
type tails struct {
	server *live.Server

	mu  sync.Mutex // guards the map; tail.mu may be taken under it
	all map[string]*tail
}

// tail follows a topic.
type tail struct {
	topic     string
	payloads  bool // data is kept
	stop      func() error
	timer     *time.Timer // ends it when nobody has asked for a while; set before it is in the map
	published uint64      // TopicStats.Published when the tail began; set before it is in the map

	mu     sync.Mutex // guards the fields below
	gaps   uint64     // how many times publications were lost before they came here
	number uint64     // of the newest publication in kept; a later tail of the topic begins with a greater number
	kept   []tailRow  // oldest first
}

// tailRow is a publication that a tail has kept.
type tailRow struct {
	Number   uint64  `json:"number"`
	Time     int64   `json:"time"` // when it came, as a Unix time in milliseconds
	Position string  `json:"position,omitempty"`
	Key      string  `json:"key,omitempty"`
	Removed  bool    `json:"removed,omitempty"`
	Size     int     `json:"size"` // bytes of its data
	Data     *string `json:"data,omitempty"`
	Clipped  bool    `json:"clipped,omitempty"` // Data has only the first bytes
}

// tailAnswer is what a tail has kept since the last request.
type tailAnswer struct {
	Topic  string    `json:"topic"`
	Seen   uint64    `json:"seen"` // publications that have come since the tail began
	Gaps   uint64    `json:"gaps"`
	Number uint64    `json:"number"` // for the parameter after of the next request
	Rows   []tailRow `json:"rows"`
}

// tail answers with what was published to the topic in the parameter topic, and begins to follow it.
// Only publications with a number greater than the parameter after are sent. Payloads are sent only
// if the parameter payloads is 1.
func (in *inspector) tail(r *http.Request) (any, error) {
	q := r.URL.Query()
	after, _ := strconv.ParseUint(q.Get("after"), 10, 64) // 0 if it is no number
	payloads := q.Get("payloads") == "1"
	if payloads && !in.opts.Allow.Payloads {
		return nil, problemf(http.StatusForbidden, "the inspector's Options do not allow to see payloads: see Allow.Payloads")
	}
	t, err := in.tails.follow(q.Get("topic"), in.opts.Allow.Payloads)
	if err != nil {
		return nil, err
	}
	answer := t.since(after, payloads)
	if st, ok := in.server.TopicStats(t.topic); ok && st.Published >= t.published {
		answer.Seen = st.Published - t.published
	}
	return answer, nil
}

// follow returns the tail of a topic, which lives for a while longer.
func (ts *tails) follow(topic string, payloads bool) (*tail, error) {
	if t, err := ts.find(topic); t != nil || err != nil {
		return t, err
	}
	t := &tail{topic: topic, payloads: payloads, number: uint64(time.Now().UnixMilli())}
	sub, err := ts.server.Listen(topic, t.note, live.Sampled(tailPerSecond), live.OnGap(func(string) { t.noteGap() }))
	switch {
	case errors.Is(err, live.ErrInvalidTopic):
		return nil, problemf(http.StatusBadRequest, "%v", err)
	case err != nil:
		return nil, problemf(http.StatusServiceUnavailable, "%v", err)
	}
	t.stop = sub.Unsubscribe
	if st, ok := ts.server.TopicStats(topic); ok {
		t.published = st.Published
	}
	if known, err := ts.add(t); known != t {
		sub.Unsubscribe()
		return known, err
	}
	return t, nil
}

// find returns the tail of a topic, and lets it live for a while longer. nil: there is none. The error
// says that there are too many others.
func (ts *tails) find(topic string) (*tail, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.all[topic]; t != nil {
		t.timer.Reset(idle)
		return t, nil
	}
	if len(ts.all) >= maxTails {
		return nil, errTooManyTails
	}
	return nil, nil
}

var errTooManyTails = problemf(http.StatusTooManyRequests,
	"%d topics are followed already: stop to follow another one, and wait for ten seconds", maxTails)

// add adds a tail, or returns the tail of the topic that another request has added meanwhile.
func (ts *tails) add(t *tail) (*tail, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if known := ts.all[t.topic]; known != nil {
		return known, nil
	}
	if len(ts.all) >= maxTails {
		return nil, errTooManyTails // another request was faster
	}
	if ts.all == nil {
		ts.all = make(map[string]*tail)
	}
	t.timer = time.AfterFunc(idle, func() { ts.remove(t) })
	ts.all[t.topic] = t
	return t, nil
}

// remove ends a tail.
func (ts *tails) remove(t *tail) {
	ts.mu.Lock()
	first := ts.all[t.topic] == t
	if first {
		delete(ts.all, t.topic)
	}
	ts.mu.Unlock()
	if first {
		t.stop()
	}
}

func (t *tail) noteGap() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gaps++
}

// note keeps a publication. It is called for the first few of each second; see tailPerSecond.
func (t *tail) note(m live.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.number++
	next := tailRow{Number: t.number, Time: time.Now().UnixMilli(), Key: m.Key, Removed: m.Removed, Size: len(m.Data)}
	if m.Position != (live.Position{}) {
		next.Position = m.Position.String()
	}
	if t.payloads {
		data := strings.ToValidUTF8(string(m.Data[:min(len(m.Data), maxPayload)]), "")
		next.Data, next.Clipped = &data, len(m.Data) > maxPayload
	}
	if len(t.kept) == maxTailRows {
		copy(t.kept, t.kept[1:])
		t.kept = t.kept[:maxTailRows-1]
	}
	t.kept = append(t.kept, next)
}

// since returns what was kept after a number. If no publication has such a number yet, it returns all.
func (t *tail) since(after uint64, payloads bool) tailAnswer {
	t.mu.Lock()
	defer t.mu.Unlock()
	if after > t.number { // it is of an earlier tail, and the clock was set back since then
		after = 0
	}
	answer := tailAnswer{Topic: t.topic, Gaps: t.gaps, Number: t.number, Rows: []tailRow{}}
	for _, row := range t.kept {
		if row.Number <= after {
			continue
		}
		if !payloads {
			row.Data, row.Clipped = nil, false
		}
		answer.Rows = append(answer.Rows, row)
	}
	return answer
}
