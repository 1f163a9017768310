package main

import (
	"cmp"
	"slices"
	"time"
)

const (
	// maxHistory is how many messages a room remembers: a few screens.
	maxHistory = 100

	// maxShown is how many people a list names; the count is of all. Everyone
	// gets the list whenever it changes, so it must not grow with its square.
	maxShown = 100
)

// message is something said in a room.
type message struct {
	Type   string    `json:"type"`             // "message"
	ID     int64     `json:"id"`               // grows: a page's place in the history
	Person string    `json:"person,omitempty"` // who; empty if it came from no page
	Name   string    `json:"name"`
	Text   string    `json:"text"`
	At     time.Time `json:"at"`
	Key    string    `json:"key,omitempty"` // the page's own name for it
	Via    string    `json:"via,omitempty"` // "http" or "job", if it came from no page
}

// history is what a page gets when it enters: all that is remembered, or what
// it missed since it was here.
type history struct {
	Type     string    `json:"type"` // "history"
	You      string    `json:"you"`  // who the page's person is
	Messages []message `json:"messages"`
	Last     int64     `json:"last"` // the After of next time
	Gap      bool      `json:"gap"`  // some that it missed are no longer remembered
}

// people is who is in a room.
type people struct {
	Type   string  `json:"type"` // "people"
	Count  int     `json:"count"`
	People []shown `json:"people"` // by name
}

type shown struct {
	Person string `json:"person"`
	Name   string `json:"name"`
	Tabs   int    `json:"tabs"`
}

// refused tells a page that a message of its was not taken, and why.
type refused struct {
	Type   string `json:"type"` // "refused"
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// room is one room. Chat's lock guards it.
type room struct {
	name     string
	messages []message // at most maxHistory, oldest first
	last     int64     // ID of the newest, or of the room's beginning
	forgot   int64     // the same of the newest that is no longer in messages
	people   map[string]*presence
	used     time.Time
}

// presence is one person in a room, whatever the number of tabs.
type presence struct {
	name string
	tabs int
	left time.Time // when the last tab went, if tabs is 0
}

func newRoom(name string, id int64) *room {
	return &room{name: name, last: id, forgot: id, people: make(map[string]*presence), used: time.Now()}
}

// add remembers a message, and forgets the oldest when there are too many.
func (r *room) add(m message) {
	if len(r.messages) == maxHistory {
		r.forgot = r.messages[0].ID
		r.messages = slices.Delete(r.messages, 0, 1)
	}
	r.messages = append(r.messages, m)
	r.last = m.ID
	r.used = time.Now()
}

// since returns what came after the message with that ID. 0 is who has nothing
// yet. A place that is not of this room's memory, because it is too old or of
// another run of the program, gets everything and is told of the gap.
func (r *room) since(after int64) history {
	h := history{Type: "history", Messages: []message{}, Last: r.last}
	if after != 0 && (after < r.forgot || after > r.last) {
		h.Gap = true
		after = 0
	}
	for _, m := range r.messages {
		if m.ID > after {
			h.Messages = append(h.Messages, m)
		}
	}
	return h
}

// find returns the message that the person sent under that key.
func (r *room) find(person, key string) (message, bool) {
	if key == "" {
		return message{}, false
	}
	i := slices.IndexFunc(r.messages, func(m message) bool { return m.Person == person && m.Key == key })
	if i < 0 {
		return message{}, false
	}
	return r.messages[i], true
}

// enter notes a person's name, and another tab of theirs if it is one.
func (r *room) enter(person, name string, newTab bool) {
	p := r.people[person]
	if p == nil {
		p = &presence{}
		r.people[person] = p
	}
	p.name = name
	if newTab {
		p.tabs++
	}
	r.used = time.Now()
}

// leave takes one tab of a person away. The person stays until forget.
func (r *room) leave(person string) {
	p := r.people[person]
	p.tabs--
	p.left = time.Now()
	r.used = p.left
}

// forget removes a person who has had no tab here for that long, and reports
// whether it did.
func (r *room) forget(person string, after time.Duration) bool {
	p := r.people[person]
	if p == nil || p.tabs > 0 || time.Since(p.left) < after {
		return false
	}
	delete(r.people, person)
	return true
}

// nameOf returns a person's name; empty if they are not here.
func (r *room) nameOf(person string) string {
	if p := r.people[person]; p != nil {
		return p.name
	}
	return ""
}

// here lists who is in the room: all of it every time, which mends itself
// whatever a page has missed.
func (r *room) here() people {
	all := make([]shown, 0, len(r.people))
	for id, p := range r.people {
		all = append(all, shown{Person: id, Name: p.name, Tabs: max(p.tabs, 1)})
	}
	slices.SortFunc(all, func(a, b shown) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Person, b.Person))
	})
	return people{Type: "people", Count: len(all), People: all[:min(len(all), maxShown)]}
}

// quietest returns the room that has been unused for longest of those that are
// neither ready-made nor have anyone in them; nil if there is none.
func quietest(rooms map[string]*room) *room {
	var idle *room
	for _, r := range rooms {
		if len(r.people) > 0 || slices.Contains(readyRooms, r.name) {
			continue
		}
		if idle == nil || r.used.Before(idle.used) {
			idle = r
		}
	}
	return idle
}
