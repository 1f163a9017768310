package main

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/livetopic/livetopic/live"
)

// maxShown is how many people a list names; the count is of all. Everyone gets
// the list whenever it changes, so it must not grow with its square.
const maxShown = 100

// people is who is in a room at this instance, by person. Chat's lock guards it.
type people map[string]*presence

// presence is one person in a room, whatever the number of tabs.
type presence struct {
	name string
	tabs int
	left time.Time // when the last tab went, if tabs is 0
}

// enter is a tab that comes into a room, out of the one where it was, or has a
// new name.
func (c *Chat) enter(v *visitor, room, name string) error {
	name, err := cleanName(name)
	if err == nil {
		err = c.checkRoom(room)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.room != room {
		c.leave(v)
		c.forget(v.room, v.person, 0)
		c.arrive(room, v.person)
	}
	v.room, v.name = room, name
	c.rooms[room][v.person].name = name
	c.changed(room, v.person)
	return nil
}

// closed is called when a session has ended, however it did. Who was there stays
// in the list for a while.
func (c *Chat) closed(s *live.Session, _ error) {
	v := s.Value().(*visitor)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(v)
	time.AfterFunc(c.times.grace, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(v.room, v.person, c.times.grace)
	})
}

// arrive notes another tab of a person; mu is held.
func (c *Chat) arrive(room, person string) {
	here := c.rooms[room]
	if here == nil {
		here = make(people)
		c.rooms[room] = here
	}
	if here[person] == nil {
		here[person] = &presence{}
	}
	here[person].tabs++
}

// leave takes away the tab of a person, who stays until forget; mu is held.
func (c *Chat) leave(v *visitor) {
	if p := c.rooms[v.room][v.person]; p != nil {
		p.tabs--
		p.left = time.Now()
		c.changed(v.room, v.person)
	}
}

// forget removes a person who has had no tab in a room for that long; mu is held.
func (c *Chat) forget(room, person string, after time.Duration) {
	here := c.rooms[room]
	p := here[person]
	if p == nil || p.tabs > 0 || time.Since(p.left) < after {
		return
	}
	delete(here, person)
	if len(here) == 0 {
		delete(c.rooms, room)
	}
	c.changed(room, person)
}

// changed tells pages, and other instances, that a person in a room has changed; mu is
// held.
func (c *Chat) changed(room, person string) {
	c.showPeople(room)
	c.tell(report{Rooms: map[string]map[string]here{room: {person: c.here(room, person)}}})
}

// occupied reports whether anyone is in a room, at whatever instance; mu is held.
func (c *Chat) occupied(room string) bool {
	for _, it := range c.others {
		if it.rooms[room] != nil {
			return true
		}
	}
	return c.rooms[room] != nil
}

// everyone returns who is in a room, at whatever instance; mu is held. Who is at
// several is one person with the tabs of all, called as here.
func (c *Chat) everyone(room string) map[string]here {
	all := make(map[string]here)
	add := func(person string, h here) {
		if known, ok := all[person]; ok {
			h = here{Name: known.Name, Tabs: known.Tabs + h.Tabs}
		}
		all[person] = h
	}
	for person := range c.rooms[room] {
		add(person, c.here(room, person))
	}
	for _, id := range slices.Sorted(maps.Keys(c.others)) {
		for person, h := range c.others[id].rooms[room] {
			add(person, h)
		}
	}
	return all
}

// list is who is in a room, as a page gets it.
type list struct {
	Count  int     `json:"count"`
	People []shown `json:"people"` // by name
}

type shown struct {
	Person string `json:"person"`
	Name   string `json:"name"`
	Tabs   int    `json:"tabs"`
}

// showPeople gives this instance's pages the list of a room: all of it every time, which mends
// itself whatever a page has missed. mu is held.
func (c *Chat) showPeople(room string) {
	everyone := c.everyone(room)
	all := make([]shown, 0, len(everyone))
	for person, h := range everyone {
		all = append(all, shown{Person: person, Name: h.Name, Tabs: max(h.Tabs, 1)})
	}
	slices.SortFunc(all, func(a, b shown) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Person, b.Person))
	})
	c.show(peoplePrefix+room, list{Count: len(all), People: all[:min(len(all), maxShown)]})
}

// show publishes what has nobody to return an error to.
func (c *Chat) show(topic string, v any) {
	if err := live.Publish(c.live, topic, v); err != nil && !errors.Is(err, live.ErrServerClosed) {
		slog.Error("chat: not published", "topic", topic, "err", err)
	}
}
