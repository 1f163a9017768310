package simcluster

import (
	"slices"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// Values returns what the history has of a keyed topic: the newest value of each key.
func (s *Sim) Values(topic string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values(topic)
}

func (s *Sim) values(topic string) map[string]string {
	values := make(map[string]string)
	for _, entry := range s.topic(topic).at(time.Now()).kept(time.Now()) {
		if !entry.Removed {
			values[entry.Key] = string(entry.Data)
		}
	}
	return values
}

// hasSpace reports whether a topic may have the key of a publication; mu is held.
func (s *Sim) hasSpace(topic string, o broker.PublishOptions) bool {
	values := s.values(topic)
	_, known := values[o.Key]
	return o.Remove || known || len(values) < o.History
}

// takeKey makes a publication the newest of its key. kept is what the history had before. mu is held.
func (s *Sim) takeKey(t *simTopic, entry *Entry, kept []*Entry, o broker.PublishOptions) {
	t.keyed = true
	entry.Prev, entry.Gone = 0, time.Time{}
	for _, old := range kept {
		if old.Key == entry.Key {
			entry.Prev = old.Offset
			old.Gone = entry.Time
		}
	}
	for _, old := range t.eras[len(t.eras)-1].all() {
		if old != entry && old.Key == entry.Key && old.next == nil {
			old.next = entry
		}
	}
	switch {
	case o.Remove && s.faults.Forget > 0:
		entry.Gone = entry.Time.Add(s.faults.Forget)
	case !o.Remove && o.HistoryAge > 0:
		time.AfterFunc(o.HistoryAge, func() { s.expire(t, entry, o) })
	}
}

// expire removes a key whose value is too old, unless it has another value by then.
func (s *Sim) expire(t *simTopic, entry *Entry, o broker.PublishOptions) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	isKept := func(e *Entry) bool { return e.first() == entry }
	if !slices.ContainsFunc(t.at(now).kept(now), isKept) {
		return
	}
	o.Remove = true
	p := &broker.Publication{Topic: t.name, Key: entry.Key, Removed: true, Time: now}
	s.take(s.roll("expire", -1, t.name), t, p, o)
	for _, to := range s.nodes {
		to.carry(nil, p)
	}
}

// replacedAt reports whether the key of a publication has a newer one at a time.
func (e *Entry) replacedAt(now time.Time) bool { return e.next != nil && !e.next.Time.After(now) }

// droppable returns what a history may drop when it has no space. A keyed topic drops removals only, since
// no client would be told of another key.
func droppable(kept []*Entry) []*Entry {
	return slices.DeleteFunc(kept, func(e *Entry) bool { return e.Key != "" && !e.Removed })
}
