package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

const (
	// A room's topic is this and its name. On it travel {"type": …} objects:
	// history and refused to one session, message and people to all.
	roomPrefix = "room:"

	// leaveGrace is how long someone whose last tab is gone still counts as
	// here: a reload, or a short loss of the network, is no leaving.
	leaveGrace = 3 * time.Second

	// maxRooms bounds the memory for histories: 100 rooms of 100 messages of
	// 2,000 runes are 80 MB at the very worst. One more takes the place of the
	// room that has been quiet for longest and has nobody in it.
	maxRooms = 100

	// readLimit lets through the longest text with every rune written as a pair
	// of \u escapes, the longest form that JSON has.
	readLimit = 12*maxText + 2048

	// A person types no faster; more is read more slowly, and not lost.
	inboundRate, inboundBurst = 20, 40

	maxSessions  = 10_000
	maxTabs      = 50 // of one person
	maxTabTopics = 20 // of one tab: a page is in one room
)

// The rooms that are always there.
var readyRooms = []string{"general", "random", buildRoom}

var (
	errRoomsTaken = errors.New("all rooms are taken; come to one that exists")
	errNotInRoom  = errors.New("enter the room before you speak in it")
)

// Chat is the rooms, and the live server through which pages are in them.
type Chat struct {
	live  *live.Server
	grace time.Duration // leaveGrace; tests have less patience

	// One lock for everything is enough: nothing waits while it is held, since
	// Publish and Send only queue. It also makes what a room remembers and what
	// its topic carries the same, in the same order.
	mu     sync.Mutex
	rooms  map[string]*room
	lastID int64
	build  build
}

// NewChat returns a chat with its ready-made rooms.
func NewChat() *Chat {
	c := &Chat{grace: leaveGrace, rooms: make(map[string]*room)}
	for _, name := range readyRooms {
		c.rooms[name] = newRoom(name, c.nextID())
	}
	c.live = live.New(live.Options{
		OnAuth:    c.recognize,
		OnConnect: c.connected,
		OnMessage: c.received,
		OnClose:   c.closed,

		ReadLimit:          readLimit,
		InboundRate:        inboundRate,
		InboundBurst:       inboundBurst,
		MaxSessions:        maxSessions,
		MaxSessionsPerUser: maxTabs,
		MaxTopics:          maxTabTopics,
	})
	return c
}

// Shutdown closes every session; pages come back by themselves when there is a
// server again.
func (c *Chat) Shutdown(ctx context.Context) error { return c.live.Shutdown(ctx) }

// visitor is what a session stands for. The callbacks of a session run one
// after another, so its rooms need no lock.
type visitor struct {
	person string
	rooms  map[string]bool
}

// UserID is whose session it is, for MaxSessionsPerUser.
func (v *visitor) UserID() string { return v.person }

// recognize tells who connects. The answer comes from a cookie, never from what
// the page says about itself.
func (c *Chat) recognize(_ context.Context, r *http.Request) (any, error) {
	return &visitor{person: personOf(r), rooms: make(map[string]bool)}, nil
}

// connected is called first: everyone hears of the builds.
func (c *Chat) connected(_ context.Context, s *live.Session) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.live.Subscribe(s, buildTopic); err != nil {
		return err
	}
	return c.send(s, buildTopic, c.build)
}

// incoming is any message of a page.
type incoming struct {
	Topic string `json:"topic"`
	Name  string `json:"name"`  // subscribe, rename
	After int64  `json:"after"` // subscribe: what the page has already
	Data  struct {
		Text string `json:"text"`
		Key  string `json:"key"`
	} `json:"data"` // publish
}

// received is called for every message of a page.
func (c *Chat) received(_ context.Context, s *live.Session, topic string, data []byte) {
	var in incoming
	if err := json.Unmarshal(data, &in); err != nil {
		c.complain(s, fmt.Errorf("%q came with data that is not understood", topic))
		return
	}
	var err error
	switch topic {
	case "subscribe":
		err = c.enter(s, in)
	case "unsubscribe":
		err = c.leave(s, strings.TrimPrefix(in.Topic, roomPrefix))
	case "publish":
		c.speak(s, in)
	case "rename":
		err = c.rename(s, in.Name)
	default:
		err = fmt.Errorf("there is nothing called %q here", topic)
	}
	if err != nil {
		c.complain(s, err)
	}
}

// enter subscribes the session to a room, sends it what it missed there, and
// shows the others who came. With the lock held nothing is said in between, so
// the page gets every message once: in the history, or after it.
func (c *Chat) enter(s *live.Session, in incoming) error {
	name, err := roomOf(in.Topic)
	if err != nil {
		return err
	}
	person, err := cleanName(in.Name)
	if err != nil {
		return err
	}
	v := s.Value().(*visitor)

	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.room(name)
	if err != nil {
		return err
	}
	if err := c.live.Subscribe(s, in.Topic); err != nil {
		return err
	}
	h := r.since(in.After)
	h.You = v.person
	if err := c.send(s, in.Topic, h); err != nil {
		return err
	}
	r.enter(v.person, person, !v.rooms[name])
	v.rooms[name] = true
	c.publish(r, r.here())
	return nil
}

// leave is a page that goes to another room.
func (c *Chat) leave(s *live.Session, name string) error {
	v := s.Value().(*visitor)
	if !v.rooms[name] {
		return nil
	}
	delete(v.rooms, name)

	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[name]
	r.leave(v.person)
	r.forget(v.person, 0)
	c.publish(r, r.here())
	return c.live.Unsubscribe(s, roomPrefix+name)
}

// closed is called when a session has ended, however it did.
func (c *Chat) closed(s *live.Session, _ error) {
	v := s.Value().(*visitor)
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range v.rooms {
		r := c.rooms[name]
		r.leave(v.person)
		c.publish(r, r.here())
		time.AfterFunc(c.grace, func() { c.gone(r, v.person) })
	}
}

// gone takes a person off the list who has not come back in time.
func (c *Chat) gone(r *room, person string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.forget(person, c.grace) {
		c.publish(r, r.here())
	}
}

// rename gives the session's person another name, in the rooms of this tab.
func (c *Chat) rename(s *live.Session, to string) error {
	name, err := cleanName(to)
	if err != nil {
		return err
	}
	v := s.Value().(*visitor)
	c.mu.Lock()
	defer c.mu.Unlock()
	for in := range v.rooms {
		r := c.rooms[in]
		r.enter(v.person, name, false)
		c.publish(r, r.here())
	}
	return nil
}

// speak says what a page sends. What is refused the page is told with the key
// of its message, so that it can say so beside the text.
func (c *Chat) speak(s *live.Session, in incoming) {
	name, err := roomOf(in.Topic)
	if err != nil {
		c.complain(s, err)
		return
	}
	v := s.Value().(*visitor)
	if !v.rooms[name] {
		err = errNotInRoom
	} else {
		_, err = c.Say(name, message{Person: v.person, Text: in.Data.Text, Key: in.Data.Key})
	}
	if err != nil {
		c.send(s, in.Topic, refused{Type: "refused", Key: in.Data.Key, Reason: err.Error()})
	}
}

// Say checks a message, keeps it in the room's history and publishes it. It is
// what pages, the HTTP route and the background job all use.
//
// A message that a person has sent before, which is one with the same key, is
// said once: a page that lost its connection may send again what it does not
// know to have arrived.
func (c *Chat) Say(roomName string, m message) (message, error) {
	if err := checkRoom(roomName); err != nil {
		return m, err
	}
	var err error
	if m.Text, err = cleanText(m.Text); err != nil {
		return m, err
	}
	if len(m.Key) > maxKey {
		return m, errLongKey
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.room(roomName)
	if err != nil {
		return m, err
	}
	if m.Person != "" {
		m.Name = r.nameOf(m.Person)
	}
	if m.Name, err = cleanName(m.Name); err != nil {
		return m, err
	}
	if said, ok := r.find(m.Person, m.Key); ok {
		return said, nil
	}
	m.Type, m.ID, m.At = "message", c.nextID(), time.Now().UTC()
	r.add(m)
	c.publish(r, m)
	return m, nil
}

// History returns what a room remembers.
func (c *Chat) History(roomName string) []message {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.rooms[roomName]; r != nil {
		return r.since(0).Messages
	}
	return []message{}
}

// room finds or makes a room; mu is held.
func (c *Chat) room(name string) (*room, error) {
	if r := c.rooms[name]; r != nil {
		return r, nil
	}
	if len(c.rooms) >= maxRooms {
		idle := quietest(c.rooms)
		if idle == nil {
			return nil, errRoomsTaken
		}
		delete(c.rooms, idle.name)
	}
	r := newRoom(name, c.nextID())
	c.rooms[name] = r
	return r, nil
}

// nextID returns a number above all before it, also those of an earlier run of
// the program: the time in microseconds. mu is held, or c not yet shared.
func (c *Chat) nextID() int64 {
	c.lastID = max(c.lastID+1, time.Now().UnixMicro())
	return c.lastID
}

// publish sends v to everyone in the room; mu is held.
func (c *Chat) publish(r *room, v any) { c.publishTo(roomPrefix+r.name, v) }

func (c *Chat) publishTo(topic string, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		err = c.live.Publish(topic, data)
	}
	if err != nil && !errors.Is(err, live.ErrServerClosed) {
		slog.Error("chat: not published", "topic", topic, "err", err)
	}
}

// send sends v to one session.
func (c *Chat) send(s *live.Session, topic string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.Send(live.Message{Topic: topic, Data: data})
}

// complain tells a page what was wrong with what it sent. If the session has
// ended there is nobody to tell.
func (c *Chat) complain(s *live.Session, err error) {
	_ = c.send(s, "error", map[string]string{"message": err.Error()})
}
