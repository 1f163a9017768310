package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"time"

	"github.com/livetopic/livetopic/live"
)

// Where several instances share the rooms, each tells the others of the people whose
// pages it has, and adds theirs to its own. What was not heard is mended by the next
// report of everyone.

const (
	// reportEvery is how long an instance that has just come, or did not hear
	// something, is wrong at most.
	reportEvery = 2 * time.Second

	// forgetAfter is how long people of an instance that says nothing are still
	// here: it takes a cluster half of that to notice that a node is gone.
	forgetAfter = 10 * time.Second

	reportKind = "people"
)

// report is what an instance tells the others.
type report struct {
	From     string                     `json:"from"`               // the instance
	Rooms    map[string]map[string]here `json:"rooms"`              // by room and person
	Everyone bool                       `json:"everyone,omitempty"` // who is not in it is not there
	Bye      bool                       `json:"bye,omitempty"`      // the instance ends, and its pages go elsewhere
}

// here is a person in a room, as one instance sees it.
type here struct {
	Name string `json:"name"`
	Tabs int    `json:"tabs"` // 0: the last is gone, and may be back in a moment
	Gone bool   `json:"gone,omitempty"`
}

// instance is another one, and what is known of the people at it. Chat's lock guards it.
type instance struct {
	rooms map[string]map[string]here
	until time.Time // when it is forgotten, unless it says something
}

// tell sends the others a report; mu is held, so that they get them in order.
func (c *Chat) tell(r report) {
	if c.leaving {
		return
	}
	r.From = c.id
	data, err := json.Marshal(r)
	if err == nil {
		err = c.live.Broadcast(context.Background(), reportKind, data)
	}
	if err != nil && !errors.Is(err, live.ErrServerClosed) && !errors.Is(err, live.ErrUnavailable) {
		slog.Error("chat: others not told who is here", "err", err)
	}
}

// tellEveryone tells of all who are here; mu is held.
func (c *Chat) tellEveryone() {
	rooms := make(map[string]map[string]here)
	for room, all := range c.rooms {
		rooms[room] = make(map[string]here)
		for person := range all {
			rooms[room][person] = c.here(room, person)
		}
	}
	c.tell(report{Rooms: rooms, Everyone: true})
}

// here returns a person as this instance sees it; mu is held.
func (c *Chat) here(room, person string) here {
	p := c.rooms[room][person]
	if p == nil {
		return here{Gone: true}
	}
	return here{Name: p.name, Tabs: p.tabs}
}

// keepTelling tells the others from time to time, and forgets those that do not, until
// ctx ends.
func (c *Chat) keepTelling(ctx context.Context) {
	for {
		c.mu.Lock()
		c.tellEveryone()
		c.forgetOthers()
		c.mu.Unlock()
		if !sleep(ctx, c.times.report) {
			return
		}
	}
}

// sayGoodbye tells the others that this instance ends; nothing follows it.
func (c *Chat) sayGoodbye() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell(report{Bye: true})
	c.leaving = true
}

// heard takes a report.
func (c *Chat) heard(data []byte) {
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		slog.Error("chat: a report is not understood", "err", err)
		return
	}
	if r.From == c.id {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	it := c.others[r.From]
	switch {
	case r.Bye && it == nil:
		return
	case r.Bye:
		it.until = time.Now().Add(c.times.grace) // its pages come back here, or at a third
		return
	case it == nil:
		it = &instance{}
		c.others[r.From] = it
		c.tellEveryone() // who is new should not have to wait
	}
	it.until = time.Now().Add(c.times.silence)
	for _, room := range it.take(r) {
		c.showPeople(room)
	}
}

// take notes a report, and returns the rooms in which that changes something.
func (it *instance) take(r report) (changed []string) {
	if !r.Everyone {
		for room, all := range r.Rooms {
			changed = append(changed, room)
			it.note(room, all)
		}
		return changed
	}
	for room, all := range it.rooms {
		if !maps.Equal(all, r.Rooms[room]) {
			changed = append(changed, room)
		}
	}
	for room := range r.Rooms {
		if it.rooms[room] == nil {
			changed = append(changed, room)
		}
	}
	it.rooms = r.Rooms
	return changed
}

// note takes in what has become of some people in a room.
func (it *instance) note(room string, some map[string]here) {
	if it.rooms == nil {
		it.rooms = make(map[string]map[string]here)
	}
	if it.rooms[room] == nil {
		it.rooms[room] = make(map[string]here)
	}
	maps.Copy(it.rooms[room], some)
	maps.DeleteFunc(it.rooms[room], func(_ string, h here) bool { return h.Gone })
	if len(it.rooms[room]) == 0 {
		delete(it.rooms, room)
	}
}

// forgetOthers removes the people of instances that have said nothing for long; mu is
// held.
func (c *Chat) forgetOthers() {
	for id, it := range c.others {
		if time.Now().Before(it.until) {
			continue
		}
		delete(c.others, id)
		for room := range it.rooms {
			c.showPeople(room)
		}
	}
}
