package inspector

import (
	"cmp"
	"net/http"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

// topicRow is a topic in the table.
type topicRow struct {
	Topic       string  `json:"topic"`
	Subscribers int     `json:"subscribers"`
	Listeners   int     `json:"listeners"`
	CatchingUp  int     `json:"catchingUp"`
	Published   uint64  `json:"published"`
	Rate        float64 `json:"rate"`       // publications a second; -1: not known yet
	Deliveries  float64 `json:"deliveries"` // a second, if each subscriber gets each publication; -1: not known yet
	History     int     `json:"history"`    // 0: none
	Held        int     `json:"held"`       // publications, or keys
	Span        int64   `json:"span"`       // milliseconds that the held publications reach back
	Keyed       bool    `json:"keyed"`      //
	Presence    bool    `json:"presence"`   // the topic has presence
	Present     int     `json:"present"`
	Position    string  `json:"position"` // "": the topic keeps no history
}

func rowOfTopic(st *live.TopicStats, now time.Time) topicRow {
	row := topicRow{
		Topic:       st.Topic,
		Subscribers: st.Subscribers,
		Listeners:   st.Listeners,
		CatchingUp:  st.CatchingUp,
		Published:   st.Published,
		History:     st.History,
		Held:        st.Held,
		Keyed:       st.Keyed,
		Presence:    st.Presence != live.PresenceOff,
		Present:     st.Present,
	}
	if !st.HeldSince.IsZero() {
		row.Span = max(now.Sub(st.HeldSince).Milliseconds(), 0)
	}
	if st.Position != (live.Position{}) {
		row.Position = st.Position.String()
	}
	return row
}

var topicOrders = map[string]order[topicRow]{
	"topic":       func(a, b *topicRow) int { return cmp.Compare(a.Topic, b.Topic) },
	"subscribers": func(a, b *topicRow) int { return cmp.Compare(a.Subscribers, b.Subscribers) },
	"rate": func(a, b *topicRow) int {
		return cmp.Or(cmp.Compare(a.Rate, b.Rate), cmp.Compare(a.Published, b.Published))
	},
	"deliveries": func(a, b *topicRow) int {
		return cmp.Or(cmp.Compare(a.Deliveries, b.Deliveries), cmp.Compare(a.Subscribers, b.Subscribers))
	},
	"published":  func(a, b *topicRow) int { return cmp.Compare(a.Published, b.Published) },
	"history":    func(a, b *topicRow) int { return cmp.Compare(a.Span, b.Span) },
	"presence":   func(a, b *topicRow) int { return cmp.Compare(a.Present, b.Present) },
	"catchingUp": func(a, b *topicRow) int { return cmp.Compare(a.CatchingUp, b.CatchingUp) },
}

// topics answers with a page of the topics of this server.
func (in *inspector) topics(r *http.Request) (any, error) {
	q := queryOf(r)
	now := time.Now()
	var all []live.TopicStats
	for st := range in.server.Topics() {
		all = append(all, st)
	}
	rateOf := in.rates.look(all, now)
	var found []topicRow
	for i := range all {
		if q.finds(all[i].Topic) {
			row := rowOfTopic(&all[i], now)
			row.Rate = rateOf(&all[i])
			row.Deliveries = row.Rate
			if row.Rate > 0 {
				row.Deliveries *= float64(row.Subscribers)
			}
			found = append(found, row)
		}
	}
	return tableOf(&q, found, len(all), topicOrders, topicOrders["topic"]), nil
}

// rates knows the rates of topics while somebody looks at them. A topic counts its publications, and a
// rate is the difference between two looks. All who look share the same two looks.
type rates struct {
	mu     sync.Mutex // guards the fields below
	before sample     // the rates are those between before and newest
	newest sample
	timer  *time.Timer // calls clear when nobody has looked for some time; nil: there are no samples
}

// sample is how many publications each topic had at a time.
type sample struct {
	at     time.Time
	counts map[string]uint64 // nil: there is no sample
}

// sampleEvery is the least time between two samples. A rate over a shorter time jumps.
const sampleEvery = time.Second

// look notes the counts of the topics, and returns a function that returns the rate of one of them. The
// rate is -1 at the first look, because nothing is known yet.
func (r *rates) look(all []live.TopicStats, now time.Time) func(*live.TopicStats) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil {
		r.timer = time.AfterFunc(idle, r.clear)
	} else {
		r.timer.Reset(idle)
	}
	if r.newest.counts == nil || now.Sub(r.newest.at) >= sampleEvery {
		counts := make(map[string]uint64, len(all))
		for i := range all {
			counts[all[i].Topic] = all[i].Published
		}
		r.before, r.newest = r.newest, sample{now, counts}
	}
	before, newest := r.before, r.newest // their maps do not change any more
	if before.counts == nil {
		return func(*live.TopicStats) float64 { return -1 }
	}
	seconds := newest.at.Sub(before.at).Seconds()
	return func(st *live.TopicStats) float64 {
		first, last := before.counts[st.Topic], newest.counts[st.Topic]
		if last < first { // its last subscriber had left, and it began anew
			first = 0
		}
		return float64(last-first) / seconds
	}
}

// clear forgets the samples.
func (r *rates) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before, r.newest, r.timer = sample{}, sample{}, nil
}
