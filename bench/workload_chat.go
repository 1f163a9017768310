package main

import (
	"time"

	"github.com/livetopic/livetopic/bench/load"
	"github.com/livetopic/livetopic/bench/server"
	"github.com/livetopic/livetopic/bench/wire"
)

// chat is rooms whose members all talk. Each member has a window of its own messages
// under way, and sends the next one when one of them comes back.
type chat struct {
	Sessions int
	Room     int // members
	Window   int
	Payload  int
}

func (c chat) audience() audience {
	return audience{Topics: c.Sessions / max(c.Room, 1), Sessions: c.Sessions, Each: c.Room, Payload: c.Payload}
}

// sessions expect the stream of each member of their room. A stream has the number of its
// member.
func (c chat) sessions() []load.Session {
	sessions := c.audience().sessions()
	for i := range sessions {
		first := i / c.Room * c.Room
		streams := make([]uint32, c.Room)
		for j := range streams {
			streams[j] = uint32(first + j)
		}
		sessions[i].Streams = streams
	}
	return sessions
}

func (c chat) run(e env, kind server.Kind) (figures, error) {
	if err := c.audience().check(); err != nil {
		return figures{}, err
	}
	s, err := setUp(e, kind, c.sessions(), c.Payload)
	if err != nil {
		return figures{}, err
	}
	defer s.tearDown()
	t := talk{chat: c, stage: s, sent: make([]uint32, c.Sessions)}
	s.load.OnDelivery = t.heard
	if _, _, err := t.session(e.Time / 5); err != nil {
		return figures{}, err
	}
	usage, deliveries, err := t.session(e.Time)
	if err != nil {
		return figures{}, err
	}
	if err := s.load.Quiet(afterQuiet); err != nil {
		return figures{}, err
	}
	return perDelivery(usage, int(deliveries)), nil
}

// talk is a chat under way.
type talk struct {
	chat
	*stage
	sent   []uint32 // messages of each session
	total  uint64   // their deliveries, come or due
	ending bool     // nobody says anything new
	data   []byte
}

// session has all members talk for d, and waits until everything is delivered. It returns what
// the server used for it.
func (t *talk) session(d time.Duration) (server.Usage, uint64, error) {
	if err := t.open(); err != nil {
		return server.Usage{}, 0, err
	}
	before := t.total
	t.ending = false
	for range t.Window {
		for i := range t.Sessions {
			if err := t.say(i); err != nil {
				return server.Usage{}, 0, err
			}
		}
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
		// A little more each time: everything under way may be due still.
		if err := t.load.Receive(t.load.Delivered() + uint64(t.Room)); err != nil {
			return server.Usage{}, 0, err
		}
	}
	t.ending = true
	if err := t.load.Receive(t.total); err != nil {
		return server.Usage{}, 0, err
	}
	usage, err := t.close()
	return usage, t.total - before, err
}

func (t *talk) say(member int) error {
	m := wire.Mark{Stream: uint32(member), Seq: t.sent[member]}
	t.sent[member]++
	t.total += uint64(t.Room)
	t.data = wire.AppendPayload(t.data[:0], m, t.Payload)
	return t.load.Publish(member, wire.TopicName(member/t.Room), t.data)
}

// heard is called for each delivery.
func (t *talk) heard(member int, m wire.Mark) error {
	if t.ending || m.Stream != uint32(member) {
		return nil
	}
	return t.say(member)
}
