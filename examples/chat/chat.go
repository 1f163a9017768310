package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

const (
	// A room has two topics: this and its name for what is said there, which the
	// library remembers, …
	roomPrefix = "room:"

	// … and this for who is there: all of the list, whenever it changes.
	peoplePrefix = "people:"

	// maxHistory is how many messages a room remembers: a few screens. A page that
	// missed more than that is told that there is a gap.
	maxHistory = 100

	// leaveGrace is how long someone whose last tab is gone still counts as
	// here: a reload, or a short loss of the network, is no leaving.
	leaveGrace = 3 * time.Second

	// maxRooms bounds the memory for histories: 100 rooms of 100 messages of
	// 2,000 runes are 120 MB at the very worst. One more takes the place of the
	// room that has been quiet for longest and has nobody in it.
	maxRooms = 100

	// readLimit lets through the longest text with every rune written as a pair
	// of \u escapes, the longest form that JSON has.
	readLimit = 12*maxText + 2048

	// A person types no faster; more is read more slowly, and not lost.
	inboundRate, inboundBurst = 20, 40

	maxSessions  = 10_000
	maxTabs      = 50 // of one person
	maxTabTopics = 6  // of one tab: a page needs three, and a moment to change rooms
)

// The rooms that are always there.
var readyRooms = []string{"general", "random", buildRoom}

// Chat is the rooms, and the live server through which pages are in them.
type Chat struct {
	live  *live.Server
	grace time.Duration // leaveGrace; tests have less patience

	// One lock for everything is enough: nothing waits while it is held, since
	// Publish only queues. It makes a list that is older never come later, and
	// the same message never come twice.
	mu    sync.Mutex
	rooms map[string]people // those with someone in them
}

// NewChat returns a chat in which nothing has been said.
func NewChat() *Chat {
	c := &Chat{grace: leaveGrace, rooms: make(map[string]people)}
	c.live = live.New(live.Options{
		OnAuth:      c.recognize,
		OnSubscribe: c.mayHear,
		OnRequest:   c.asked,
		OnClose:     c.closed,

		Topics: topicOptions,
		Broker: live.NewMemoryBroker(live.MemoryOptions{MaxTopics: maxRooms}),

		ReadLimit:          readLimit,
		InboundRate:        inboundRate,
		InboundBurst:       inboundBurst,
		MaxSessions:        maxSessions,
		MaxSessionsPerUser: maxTabs,
		MaxTopics:          maxTabTopics,
	})
	return c
}

// topicOptions says what the library remembers of a topic. Pages that come back
// get what they missed of a room; of all else only the newest counts.
func topicOptions(topic string) live.TopicOptions {
	switch {
	case strings.HasPrefix(topic, roomPrefix):
		return live.TopicOptions{History: maxHistory}
	case topic == buildTopic:
		return live.TopicOptions{History: 1, Overflow: live.OverflowLatest}
	}
	return live.TopicOptions{Overflow: live.OverflowLatest}
}

// Shutdown closes every session; pages come back by themselves when there is a
// server again.
func (c *Chat) Shutdown(ctx context.Context) error { return c.live.Shutdown(ctx) }

// visitor is what a session stands for: one tab of a person. The callbacks of a
// session run one after another, so it needs no lock.
type visitor struct {
	person string
	name   string
	room   string // "": in none yet
}

// UserID is whose session it is, for MaxSessionsPerUser.
func (v *visitor) UserID() string { return v.person }

// recognize tells who connects. The answer comes from a cookie, never from what
// the page says about itself.
func (c *Chat) recognize(_ context.Context, r *http.Request) (any, error) {
	return &visitor{person: personOf(r)}, nil
}

// mayHear lets everyone hear everything that there is: rooms are public.
func (c *Chat) mayHear(_ context.Context, _ *live.Session, topic string) error {
	if topic == buildTopic {
		return nil
	}
	for _, prefix := range []string{roomPrefix, peoplePrefix} {
		if room, ok := strings.CutPrefix(topic, prefix); ok {
			return c.checkRoom(room)
		}
	}
	return errNoTopic
}

// checkRoom refuses names that are none, and new rooms when all are taken.
func (c *Chat) checkRoom(name string) error {
	if !roomName.MatchString(name) {
		return errRoomName
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.rooms[name] != nil || slices.Contains(readyRooms, name)
	// A room that is listened to has two topics.
	if !known && c.live.Stats().Topics > 2*maxRooms {
		return errTaken
	}
	return nil
}

// question is what a page may ask for.
type question struct {
	Room string `json:"room"`
	Name string `json:"name"` // here
	Text string `json:"text"` // say
	Key  string `json:"key"`  // say
}

// answer tells a page who it is, as in the list and beside messages.
type answer struct {
	You string `json:"you"`
}

// asked answers a page's requests: "here" says in which room the tab is and under
// which name, "say" says something in a room.
func (c *Chat) asked(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
	v := s.Value().(*visitor)
	var q question
	err := json.Unmarshal(data, &q)
	switch {
	case err != nil:
		err = errUnclear
	case topic == "here":
		err = c.enter(v, q.Room, q.Name)
	case topic == "say":
		_, err = c.Say(q.Room, message{Person: v.person, Name: v.name, Text: q.Text, Key: q.Key})
	default:
		err = errUnclear
	}
	return answer{You: v.person}, err
}

// message is something said in a room.
type message struct {
	Key    string    `json:"key"`              // tells it from all others of its person
	Person string    `json:"person,omitempty"` // who; empty if it came from no page
	Name   string    `json:"name"`
	Text   string    `json:"text"`
	Time   time.Time `json:"time"`
	Via    string    `json:"via,omitempty"` // "http" or "job", if it came from no page
}

// Say checks a message and publishes it. It is what pages, the HTTP route and the
// background job all use.
//
// A message that a person has sent before, which is one with the same key, is
// said once: a page that lost its connection sends again what it does not know to
// have arrived.
func (c *Chat) Say(room string, m message) (message, error) {
	err := c.checkRoom(room)
	if err == nil {
		err = m.clean()
	}
	if err != nil {
		return m, err
	}
	if m.Key == "" {
		m.Key = rand.Text()
	}
	m.Time = time.Now().UTC()

	c.mu.Lock()
	defer c.mu.Unlock()
	said, err := c.History(context.Background(), room)
	for _, known := range said {
		if known.Person == m.Person && known.Key == m.Key {
			return known, nil
		}
	}
	if err != nil {
		return m, err
	}
	return m, live.Publish(c.live, roomPrefix+room, m)
}

// History returns what a room remembers.
func (c *Chat) History(ctx context.Context, room string) ([]message, error) {
	return live.ReplayHistory[message](ctx, c.live, roomPrefix+room, maxHistory)
}
