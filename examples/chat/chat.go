package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/natsbroker"
)

const (
	// A room is a topic: this and its name. The library remembers what is said there, and
	// knows who is there.
	roomPrefix = "room:"

	// maxHistory is how many messages a room remembers: a few screens. A page that
	// missed more than that is told that there is a gap.
	maxHistory = 100

	// maxRooms bounds the rooms that pages of one instance may open: a room with
	// nobody in it is known to nobody, and only its messages are kept.
	maxRooms = 100

	// readLimit lets through the longest text with every rune written as a pair
	// of \u escapes, the longest form that JSON has.
	readLimit = 12*maxText + 2048

	// A person does no more; more is read more slowly, and not lost. Each change of what the
	// others see, such as that somebody is typing, counts as twenty.
	inboundRate, inboundBurst = 100, 200

	maxSessions  = 10_000
	maxTabs      = 50 // of one person
	maxTabTopics = 4  // of one tab: a page needs two, and a moment to change rooms
)

// The rooms that are always there.
var readyRooms = []string{"general", "random", buildRoom}

// Chat is the rooms, and the live server through which pages are in them: one
// instance, and there may be others on the same NATS.
type Chat struct {
	live *live.Server

	mu     sync.Mutex
	saying map[utterance]func() (message, error) // guarded by mu
}

// NewChat returns a chat of what NATS has, until Shutdown, which closes the broker too. grace is how
// long someone whose last tab is gone still counts as here: a reload, or a short loss of the network, is
// no leaving. 0: three seconds.
func NewChat(nats *natsbroker.Broker, grace time.Duration) *Chat {
	c := &Chat{saying: make(map[utterance]func() (message, error))}
	c.live = live.New(live.Options{
		OnAuth:      c.recognize,
		OnSubscribe: c.mayHear,
		OnPresence:  c.mayShow,
		OnRequest:   c.asked,

		Topics:        topicOptions,
		Broker:        nats,
		PresenceGrace: grace,

		ReadLimit:          readLimit,
		InboundRate:        inboundRate,
		InboundBurst:       inboundBurst,
		MaxSessions:        maxSessions,
		MaxSessionsPerUser: maxTabs,
		MaxTopics:          maxTabTopics,
		ShutdownTimeout:    shutdownTimeout,
	})
	return c
}

// topicOptions says what is remembered of a topic; streams keep it. Pages that come
// back get what they missed of a room; of all else only the newest counts.
func topicOptions(topic string) live.TopicOptions {
	switch {
	case strings.HasPrefix(topic, roomPrefix):
		return live.TopicOptions{History: maxHistory, Presence: live.PresenceVisible}
	case topic == buildTopic:
		return live.TopicOptions{History: 1, Overflow: live.OverflowLatest}
	}
	return live.TopicOptions{Overflow: live.OverflowLatest}
}

// Run serves pages until ctx ends, or SIGTERM or Ctrl-C comes, and then ends the chat in order. See
// live.Server.Run.
func (c *Chat) Run(ctx context.Context, serve func() error, stop ...func(context.Context) error) error {
	return c.live.Run(ctx, serve, stop...)
}

// Shutdown closes every session; pages come back by themselves when there is a
// server again, or to another.
func (c *Chat) Shutdown(ctx context.Context) error {
	return c.live.Shutdown(ctx)
}

// visitor is what a session stands for: one tab of a person. The callbacks of a
// session run one after another, so it needs no lock.
type visitor struct {
	person string
	name   string // "": it has told none yet
}

// UserID is whose session it is: all tabs of a person are one member of a room.
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
	if room, ok := strings.CutPrefix(topic, roomPrefix); ok {
		return c.checkRoom(room)
	}
	return errNoTopic
}

// checkRoom refuses names that are none, and new rooms when all are taken.
func (c *Chat) checkRoom(name string) error {
	if !roomName.MatchString(name) {
		return errRoomName
	}
	known := slices.Contains(readyRooms, name) || c.live.PresenceCount(roomPrefix+name) > 0
	if !known && c.live.Stats().Topics > maxRooms {
		return errTaken
	}
	return nil
}

// question is what a page may ask for.
type question struct {
	Room string `json:"room"`
	Text string `json:"text"`
	Key  string `json:"key"`
}

// answer tells a page who it is, as in the list and beside messages, and which process it is connected to.
type answer struct {
	You     string `json:"you"`
	Process int    `json:"process"`
}

// asked answers a page's requests: "me" asks who it is, "say" says something in a room.
func (c *Chat) asked(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
	v := s.Value().(*visitor)
	var q question
	err := json.Unmarshal(data, &q)
	switch {
	case err != nil:
		err = errUnclear
	case topic == "me":
	case topic == "say":
		_, err = c.Say(q.Room, message{Person: v.person, Name: v.name, Text: q.Text, Key: q.Key})
	default:
		err = errUnclear
	}
	return answer{You: v.person, Process: os.Getpid()}, err
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

// utterance is what makes a message the same as another.
type utterance struct{ room, person, key string }

// Say checks a message and publishes it. It is what pages and the background job use.
//
// A message that a person has sent before, which is one with the same key, is
// said once: a page that lost its connection sends again what it does not know to
// have arrived, here or to another instance.
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
		return c.publish(room, m)
	}
	u := utterance{room, m.Person, m.Key}
	c.mu.Lock()
	say := c.saying[u]
	if say == nil {
		say = sync.OnceValues(func() (message, error) {
			defer func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.saying, u)
			}()
			return c.sayOnce(room, m)
		})
		c.saying[u] = say
	}
	c.mu.Unlock()
	return say()
}

// sayOnce publishes a message unless the room has it. Two instances that are asked
// within the same milliseconds both find that it has not, and then it stands there
// twice: pages show it once.
func (c *Chat) sayOnce(room string, m message) (message, error) {
	said, err := c.History(context.Background(), room)
	if err != nil {
		return m, err
	}
	for _, known := range said {
		if known.Person == m.Person && known.Key == m.Key {
			return known, nil
		}
	}
	return c.publish(room, m)
}

func (c *Chat) publish(room string, m message) (message, error) {
	m.Time = time.Now().UTC()
	return m, live.Publish(c.live, roomPrefix+room, m)
}

// show publishes what has nobody to return an error to.
func (c *Chat) show(topic string, v any) {
	if err := live.Publish(c.live, topic, v); err != nil && !errors.Is(err, live.ErrServerClosed) {
		slog.Error("chat: not published", "topic", topic, "err", err)
	}
}

// History returns what a room remembers.
func (c *Chat) History(ctx context.Context, room string) ([]message, error) {
	return live.History[message](ctx, c.live, roomPrefix+room, maxHistory)
}
