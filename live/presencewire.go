package live

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/livetopic/livetopic/live/internal/frame"
	"github.com/livetopic/livetopic/live/internal/jsonscan"
	"github.com/livetopic/livetopic/live/internal/presence"
)

// Presence in live.v1: the frames that tell who is present, and the operations present, absent and
// presence. docs/protocol.md describes them.

// memberOverhead is how many bytes a member takes in a frame besides its ID and infos:
// {"id":"","sessions":[]} and a comma.
const memberOverhead = 24

// sizeOfMember is how many bytes a member takes in a frame, unless its ID needs escapes.
func sizeOfMember(m presence.Member) int {
	n := memberOverhead + len(m.ID)
	for _, info := range m.Sessions {
		n += max(len(info), len("null")) + 1
	}
	return n
}

// cutMembers splits members so that the first ones fit in so many bytes. first has at least one
// member, if there is any.
func cutMembers(all []presence.Member, bytes int) (first, rest []presence.Member) {
	for i, m := range all {
		if bytes -= sizeOfMember(m); bytes < 0 && i > 0 {
			return all[:i], all[i:]
		}
	}
	return all, nil
}

// appendMembers appends a member of a JSON object: its name, and members as an array.
func appendMembers(b []byte, name string, members []presence.Member) []byte {
	b = append(append(append(b, `,"`...), name...), `":[`...)
	for i, m := range members {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(jsonscan.AppendQuoted(append(b, `{"id":`...), []byte(m.ID)), `,"sessions":[`...)
		for i, info := range m.Sessions {
			if i > 0 {
				b = append(b, ',')
			}
			if info == nil {
				b = append(b, "null"...)
			} else {
				b = append(b, info...)
			}
		}
		b = append(b, "]}"...)
	}
	return append(b, ']')
}

// presenceHead begins a frame that tells who is present.
func presenceHead(t *topic) []byte {
	return jsonscan.AppendQuoted([]byte(`{"op":"presence","topic":`), []byte(t.name))
}

// stateOfMembers makes a frame with a topic's state, or with a part of it. continued says that a part
// came before, and more that a part follows.
func stateOfMembers(t *topic, members []presence.Member, continued, more bool) *frame.Frame {
	b := appendMembers(presenceHead(t), "members", members)
	if continued {
		b = append(b, `,"continued":true`...)
	}
	if more {
		b = append(b, `,"more":true`...)
	}
	return frame.Text(b, []byte{'}'})
}

// countFrame makes a frame that tells how many members a topic has.
func countFrame(t *topic, count int) *frame.Frame {
	b := strconv.AppendInt(append(presenceHead(t), `,"count":`...), int64(count), 10)
	return frame.Text(b, []byte{'}'})
}

// differenceFrames makes the frames that tell what has changed, each of about so many bytes. Each
// member is in one frame only.
func differenceFrames(t *topic, d *presence.Diff, size int) []*frame.Frame {
	var frames []*frame.Frame
	joined, changed, left := d.Joined, d.Changed, d.Left
	for len(joined)+len(changed)+len(left) > 0 {
		b := presenceHead(t)
		empty := len(b)
		hasSpace := func() bool { return len(b) < size || len(b) == empty } // no frame stays empty, however long the topic's name is
		take := func(name string, from *[]presence.Member) {
			if len(*from) > 0 && hasSpace() {
				var first []presence.Member
				first, *from = cutMembers(*from, size-len(b))
				b = appendMembers(b, name, first)
			}
		}
		take("joined", &joined)
		if len(joined) == 0 {
			take("changed", &changed)
		}
		if len(joined)+len(changed) == 0 && len(left) > 0 && hasSpace() {
			b, left = appendLeft(b, left, size)
		}
		frames = append(frames, frame.Text(b, []byte{'}'}))
	}
	return frames
}

// appendLeft appends as many IDs as fit in size, at least one, and returns those that are left.
func appendLeft(b []byte, left []string, size int) (with []byte, rest []string) {
	b = append(b, `,"left":[`...)
	for i, id := range left {
		if i > 0 {
			if len(b)+len(id) > size {
				return append(b, ']'), left[i:]
			}
			b = append(b, ',')
		}
		b = jsonscan.AppendQuoted(b, []byte(id))
	}
	return append(b, ']'), nil
}

// presentUnits is how many units of InboundRate the operation present counts: the change goes to all
// servers, and to all watching clients. With the default rate a client may make 50 changes in a
// second.
const presentUnits = 20

// opPresent is the operation present: it makes the session present, or changes its info.
func (s *Session) opPresent(op *operation) (answer, error) {
	info, err := s.mayBePresent(op)
	if err != nil {
		return nil, err
	}
	if err := s.setPresence(op.topic, info); err != nil {
		return nil, err
	}
	return func() {
		s.replyWithMember(op.id)
		if wait := s.owes(&s.inbound.received, presentUnits-1); wait > 0 { // one was counted already
			sleep(s.ctx, wait)
		}
	}, nil
}

// mayBePresent asks OnPresence whether a client may be present with an info. It returns the info that
// others see.
func (s *Session) mayBePresent(op *operation) ([]byte, error) {
	if err := s.server.checkTopic(op.topic); err != nil {
		return nil, err
	}
	if s.server.opts.Topics(op.topic).Presence == PresenceOff {
		return nil, errNoPresence(op.topic)
	}
	if len(op.info) > maxInfo {
		return nil, errInfoTooBig
	}
	ask := s.server.opts.OnPresence
	if ask == nil {
		s.server.logOnce("live: a client asked to be present with an info; Options.OnPresence is nil, so all are refused")
		return nil, errForbidden
	}
	info, err := ask(s.ctx, s, op.topic, op.info)
	if err != nil {
		return nil, refusedByApp{err}
	}
	if err := checkInfo(info); err != nil {
		return nil, failedInApp{fmt.Errorf("live: OnPresence returned an info that cannot be used: %w", err)}
	}
	return bytes.Clone(info), nil
}

var errInfoTooBig = &ClientError{"too_big", fmt.Sprintf("an info may have %d bytes", maxInfo)}

func (s *Session) replyWithMember(id uint64) {
	s.reply(id, `,"member":`+string(jsonscan.AppendQuoted(nil, []byte(memberID(s)))))
}

// opAbsent is the operation absent: it ends the presence of the session in a topic.
func (s *Session) opAbsent(op *operation) (answer, error) {
	if err := s.server.checkTopic(op.topic); err != nil {
		return nil, err
	}
	s.ClearPresence(op.topic)
	return func() { s.reply(op.id, "") }, nil
}

// opPresence is the operation presence: it answers who is present, or how many.
func (s *Session) opPresence(op *operation) (answer, error) {
	if err := s.mayRead(op.topic); err != nil {
		return nil, err
	}
	rules := s.server.opts.Topics(op.topic)
	if rules.Presence < PresenceCounted {
		return nil, errNoPresence(op.topic)
	}
	p := &s.server.presence
	count := s.server.PresenceCount(op.topic)
	if rules.Presence == PresenceCounted || count > rules.PresenceLimit {
		return func() { s.reply(op.id, `,"count":`+strconv.Itoa(count)) }, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var members []presence.Member
	if p.table != nil {
		members = p.table.Members(op.topic)
	}
	return func() { s.replyWithMembers(op.id, members) }, nil
}

// replyWithMembers answers with members, in as many replies as are needed. Without an id the client
// wants no answer.
func (s *Session) replyWithMembers(id uint64, members []presence.Member) {
	_, size := s.partLimits()
	for id != 0 {
		var first []presence.Member
		first, members = cutMembers(members, size)
		b := appendMembers(replyHead(id), "members", first)
		if len(members) > 0 {
			b = append(b, `,"more":true`...)
		}
		if s.awaitHalfFree() != nil || s.put(s.textFrame(append(b, '}'))) != nil {
			return
		}
		s.payForAnswer(len(b))
		if len(members) == 0 {
			return
		}
	}
}
