package liveclient

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
)

// Presence says who is present in a topic.
type Presence struct {
	// Members are in the order of their IDs. It is nil if the server tells only their number.
	Members []Member

	// Count is how many members there are. It is -1 if the server has not told: before its first answer, and on a
	// topic without presence.
	Count int
}

// OnPresence is called when it becomes known who is present in the topic, and whenever that changes. It is called after OnJoin,
// OnLeave and OnChange. If a callback is slow, some changes are told together.
func OnPresence(fn func(Presence)) SubscribeOption { return func(h *hearing) { h.onPresence = fn } }

// OnJoin is called for each member that joins. Members that were there when it became known who is present have not joined. After a
// reconnect only what is different from before is told. A topic with so many members that only their number is told calls
// none of OnJoin, OnLeave and OnChange.
func OnJoin(fn func(Member)) SubscribeOption { return func(h *hearing) { h.onJoin = fn } }

// OnLeave is called for each member that leaves. See OnJoin.
func OnLeave(fn func(Member)) SubscribeOption { return func(h *hearing) { h.onLeave = fn } }

// OnChange is called for each member that has other sessions or infos than before. See OnJoin.
func OnChange(fn func(now, before Member)) SubscribeOption {
	return func(h *hearing) { h.onChange = fn }
}

// Info is what others see of this client in the topic's presence. It is marshalled to JSON of at most 1,024 bytes. The
// application may refuse it, and the subscription then. SetPresence changes it.
func Info(info any) SubscribeOption {
	return func(h *hearing) {
		raw, err := marshal(info)
		if err != nil {
			h.optionErr = err
			return
		}
		h.info = raw
	}
}

// Unseen watches the topic without being present in it.
func Unseen() SubscribeOption { return func(h *hearing) { h.unseen = true } }

// attendance is what a subscription knows of who is present. Client.mu guards it. A map is never changed once it is
// in members or told.
type attendance struct {
	members map[string]Member // nil: they are not known
	count   int               // -1: not known
	coming  map[string]Member // of a state that is not complete yet; nil: there is none

	noting bool              // an eventPresence is in the queue
	told   map[string]Member // the members that the callbacks know; nil: they know none
}

// attend takes a presence frame; mu is held.
func (c *Client) attend(f *frame) {
	s := c.subs[f.topic]
	begins := f.count >= 0 || f.hasMembers && !f.continued
	if s == nil || !(begins || s.coming != nil || s.count >= 0) {
		return // it is for an older subscription
	}
	next := s.coming
	switch {
	case begins:
		next = make(map[string]Member)
	case next == nil:
		next = maps.Clone(s.members)
		if next == nil {
			next = make(map[string]Member)
		}
	}
	for _, list := range [][]Member{f.members, f.joined, f.changed} {
		for _, member := range list {
			next[member.ID] = member
		}
	}
	for _, id := range f.left {
		delete(next, id)
	}
	if (begins || s.coming != nil) && f.count < 0 && (!f.hasMembers || f.more) {
		s.coming = next
		return
	}
	s.coming = nil
	s.members, s.count = next, len(next)
	if f.count > 0 {
		s.members, s.count = nil, f.count
	}
	if !s.noting {
		s.noting = true
		s.enqueue(event{kind: eventPresence})
	}
}

// presenceCalls returns a function that tells the callbacks what has changed since they were told; mu is held.
func (s *Subscription) presenceCalls() func() {
	before, now, who := s.told, s.members, s.presence()
	s.noting, s.told = false, now
	return func() {
		if before != nil && now != nil {
			s.tellChanges(before, now)
		}
		if s.onPresence != nil {
			s.onPresence(who)
		}
	}
}

func (s *Subscription) tellChanges(before, now map[string]Member) {
	for _, id := range slices.Sorted(maps.Keys(before)) {
		if _, stays := now[id]; !stays && s.onLeave != nil {
			s.onLeave(before[id])
		}
	}
	for _, id := range slices.Sorted(maps.Keys(now)) {
		member := now[id]
		old, was := before[id]
		switch {
		case !was && s.onJoin != nil:
			s.onJoin(member)
		case was && s.onChange != nil && !member.equal(old):
			s.onChange(member, old)
		}
	}
}

// equal reports whether two members have the same infos. Servers may list them in another order.
func (m Member) equal(other Member) bool {
	sorted := func(infos []json.RawMessage) []string {
		texts := make([]string, len(infos))
		for i, info := range infos {
			texts[i] = string(info)
		}
		slices.Sort(texts)
		return texts
	}
	return slices.Equal(sorted(m.Sessions), sorted(other.Sessions))
}

// presence returns what is known; mu is held.
func (s *Subscription) presence() Presence {
	p := Presence{Count: s.count}
	for _, id := range slices.Sorted(maps.Keys(s.members)) {
		p.Members = append(p.Members, s.members[id])
	}
	return p
}

// Presence returns who is present in the topic, as far as the server has told this subscription. While the connection is lost it is who
// was there before.
func (s *Subscription) Presence() Presence {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.presence()
}

// Presence asks the server who is present in a topic now, whether it is subscribed or not. It waits and fails as Request does.
func (c *Client) Presence(ctx context.Context, topic string, opts ...CallOption) (Presence, error) {
	f, err := c.do(ctx, "presence", topic, callOptions(opts), nil)
	switch {
	case err != nil:
		return Presence{Count: -1}, err
	case f.count >= 0:
		return Presence{Count: f.count}, nil
	}
	return Presence{Members: f.members, Count: len(f.members)}, nil
}

// ownInfo is what others see of this client in a topic. Client.mu guards it.
type ownInfo struct {
	info json.RawMessage  // what the server has accepted, or what a subscribe will tell; nil: nothing yet
	next *json.RawMessage // of a SetPresence that the server may not have yet; nil: there is none
}

// SetPresence makes this client present in a topic, whether it is subscribed or not, and gives it an info that others see:
// at most 1,024 bytes of JSON. info is marshalled as by Publish; nil is no info. SetPresence returns the ID of this
// client's member.
//
// From then on each new connection does the same by itself. It does so even if the call has failed with an error whose Code is
// "". So others see the newest info that the program has given. Unsubscribing ends it.
//
// It waits and fails as Request does. Code of the error is CodeForbidden if the application's OnPresence refuses, and
// CodeNoPresence if the topic has no presence.
func (c *Client) SetPresence(ctx context.Context, topic string, info any, opts ...CallOption) (member string, err error) {
	raw, err := marshal(info)
	if err != nil {
		return "", err
	}
	if err := checkTopic(topic); err != nil {
		return "", err
	}
	c.mu.Lock()
	if err := c.isClosed(); err != nil {
		c.mu.Unlock()
		return "", &Error{Op: "present", Topic: topic, Err: err}
	}
	own := c.infos[topic]
	if own == nil {
		own = &ownInfo{}
		c.infos[topic] = own
	}
	next := &raw
	own.next = next
	call := c.newCall("present", topic, withInfo(raw))
	c.mu.Unlock()
	f, err := c.await(ctx, call, callOptions(opts))
	c.mu.Lock()
	c.shown(topic, own, next, err)
	c.mu.Unlock()
	if err != nil {
		return "", err
	}
	return f.member, nil
}

func withInfo(info json.RawMessage) func([]byte) []byte {
	return func(b []byte) []byte { return append(append(b, `,"info":`...), info...) }
}

// shown takes the outcome of a present operation; mu is held.
func (c *Client) shown(topic string, own *ownInfo, next *json.RawMessage, err error) {
	unsure := err != nil && Code(err) == "" && !errors.Is(err, ErrUnsubscribed)
	if own.next == next && !unsure {
		own.next = nil
	}
	if err != nil {
		if own.next == nil && own.info == nil && c.infos[topic] == own {
			delete(c.infos, topic)
		}
		return
	}
	own.info = *next
	if s := c.subs[topic]; s != nil && c.infos[topic] == own {
		s.unseen = false
	}
}

// showAgain makes this client present on a new connection, where a subscribe does not do it; mu is held.
func (c *Client) showAgain() {
	for topic, own := range c.infos {
		next := own.next
		if s := c.subs[topic]; next == nil && (s == nil || s.local) {
			next = &own.info
		}
		if next == nil || c.isShowing(topic) {
			continue
		}
		call := c.newCall("present", topic, withInfo(*next))
		call.settle = func(_ *frame, err error) {
			c.shown(topic, own, next, err)
			if err != nil && Code(err) != "" {
				c.report(err)
			}
		}
		call.moved = make(chan struct{}, 1)
		c.give(c.conn, call)
	}
}

// isShowing reports whether a present operation of SetPresence is under way for a topic; mu is held.
func (c *Client) isShowing(topic string) bool {
	for _, call := range c.asked {
		if call.op == "present" && call.topic == topic {
			return true
		}
	}
	return false
}

// ClearPresence makes this client not present in a topic. A subscription goes on, unseen. It waits and fails as Request does.
func (c *Client) ClearPresence(ctx context.Context, topic string, opts ...CallOption) error {
	c.mu.Lock()
	delete(c.infos, topic)
	if s := c.subs[topic]; s != nil {
		s.unseen = true
	}
	c.mu.Unlock()
	_, err := c.do(ctx, "absent", topic, callOptions(opts), nil)
	return err
}
