package live

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
	"github.com/livetopic/livetopic/live/internal/presence"
)

// Presence says whether the servers keep track of who is present in a topic, and what clients see
// of it. A session is present in a topic while it is subscribed, or after SetPresence.
type Presence int

const (
	// PresenceOff: nobody is present.
	PresenceOff Presence = iota

	// PresencePrivate: only the application sees who is present, with Server.Presence and
	// ListenPresence.
	PresencePrivate

	// PresenceCounted: clients of live.v1 that are subscribed see how many members there are.
	PresenceCounted

	// PresenceVisible: clients of live.v1 that are subscribed see who is present: of each member
	// the ID, and the info of each of its sessions. In a topic with more members than
	// PresenceLimit they see how many there are.
	PresenceVisible
)

// Member is a user who is present in a topic, or a session without a user.
type Member struct {
	// ID is the name by which clients of live.v1 know the member. It is the UserID, or begins
	// with ':'.
	ID string

	// UserID is the user, as Options.UserID returned it. "": the member is one session without a
	// user.
	UserID string

	// Sessions has an element for each session of the user in this topic, on any server.
	Sessions []MemberSession
}

// MemberSession is a session of a Member.
type MemberSession struct {
	// Info is what the session, or its client, has told about itself; see SetPresence and
	// OnPresence. nil: nothing. It must not be changed.
	Info json.RawMessage
}

// ErrNoPresence is wrapped by the error for a topic whose TopicOptions.Presence is PresenceOff.
var ErrNoPresence = errors.New("live: topic has no presence")

func errNoPresence(topic string) error { return fmt.Errorf("%w: %q", ErrNoPresence, topic) }

// Presence returns who is present in a topic, on all servers of the Broker, in the order of the
// IDs. A session that has ended counts as present until PresenceGrace is over. News
// of other servers comes some tens of milliseconds later as a rule. The members of a server that
// is killed, or cut off, are gone within ten seconds.
func (s *Server) Presence(topic string) []Member {
	p := &s.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.table == nil {
		return nil
	}
	return membersOf(p.table.Members(topic))
}

// PresenceCount returns how many members Presence would return. It costs the same for any number.
func (s *Server) PresenceCount(topic string) int {
	p := &s.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.table == nil {
		return 0
	}
	return p.table.Count(topic)
}

// SetPresence makes the session present in a topic, whether it is subscribed or not. Others see it
// with an info, which is marshalled to JSON. JSON in a []byte stays as it is, and nil is no info. If
// the session is present already, only the info changes. OnSubscribe may call SetPresence, so that
// others see the session with its info from the beginning.
//
// A session stops being present when it is unsubscribed from the topic, when ClearPresence is
// called, and when it ends.
//
// The error is ErrSessionClosed if the session has ended. It wraps ErrInvalidTopic, ErrNoPresence
// or ErrInvalidData. It wraps ErrTooLarge if the info has more than 1 KB, if the infos of the
// session in all topics together have more than 64 KB, or if topic, user and info together have
// more than 16 KB. It wraps ErrTooManyTopics if the session is present in 100 other topics without
// being subscribed.
func (s *Session) SetPresence(topic string, info any) error {
	var data []byte
	if info != nil {
		var err error
		if data, err = marshal(info); err != nil {
			return err
		}
		data = bytes.Clone(data)
	}
	return s.setPresence(topic, data)
}

// setPresence is SetPresence for an info that is JSON already, and that nobody changes.
func (s *Session) setPresence(topic string, info []byte) error {
	if err := s.server.checkTopic(topic); err != nil {
		return err
	}
	if s.server.opts.Topics(topic).Presence == PresenceOff {
		return errNoPresence(topic)
	}
	if err := checkInfo(info); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrSessionClosed
	}
	return s.server.presence.set(s, topic, info, s.subs.find(topic) != nil)
}

// ClearPresence ends the presence of the session in a topic. A subscription goes on, unseen. It does
// nothing if the session is not present.
func (s *Session) ClearPresence(topic string) {
	s.server.presence.leave(s, topic)
}

// Unseen makes Subscribe leave the session as it is: the subscription does not make it present.
func Unseen() SubscribeOption {
	return func(o *subscribing) { o.unseen = true }
}

const (
	// maxInfo bounds the bytes of an info. Every server holds it, and every client that watches
	// gets it. A name, a colour and what the user does fit in it.
	maxInfo = 1 << 10

	// maxInfos bounds the bytes of the infos of one session together. Without it a client in
	// 10,000 topics could make every server hold 10 MB.
	maxInfos = 64 << 10

	// maxElsewhere bounds in how many topics a session is present without being subscribed.
	// Subscriptions are bounded by MaxTopics. A page has seldom more than a few such topics.
	maxElsewhere = 100
)

// checkInfo checks the size of an info, and that it is JSON.
func checkInfo(info []byte) error {
	if len(info) > maxInfo {
		return tooLarge("the info has %d bytes, and may have %d", len(info), maxInfo)
	}
	return broker.CheckData(info)
}

// largePresence says what is too large to be shown to others. It wraps ErrTooLarge.
type largePresence struct{ what string }

func tooLarge(format string, args ...any) error {
	return &largePresence{fmt.Sprintf(format, args...)}
}

func (e *largePresence) Error() string { return "live: " + e.what }
func (e *largePresence) Unwrap() error { return ErrTooLarge }

// presenceState is what a server knows of who is present in which topic.
type presenceState struct {
	server *Server
	wakes  chan struct{} // holds one element if something must be done soon

	mu        sync.Mutex                     // guards the fields below; see topics for the order of locks
	table     *presence.Table                // nil: presence was not used yet
	running   bool                           // the goroutine of run is there
	stopped   bool                           // by Shutdown
	ended     chan struct{}                  // closed when run has ended after stopped; nil: not stopped
	refs      map[presentKey]uint64          // the entries of this server's sessions in table
	extras    map[*Session]*extraInfos       // of sessions that have an info, or are present without being subscribed
	untold    map[string]bool                // topics whose clients or listeners may have to be told; true: members may have changed
	listeners map[string][]*presenceListener // by topic
}

// presentKey names the presence of a session in a topic.
type presentKey struct {
	session *Session
	topic   string
}

// extraInfos counts what most sessions do not have: infos, and presence without a subscription.
type extraInfos struct {
	bytes     int      // of the session's infos in all topics
	elsewhere []string // topics in which it is present without being subscribed
}

func (p *presenceState) init(s *Server) {
	p.server = s
	p.wakes = make(chan struct{}, 1)
	p.refs = make(map[presentKey]uint64)
	p.extras = make(map[*Session]*extraInfos)
	p.untold = make(map[string]bool)
	p.listeners = make(map[string][]*presenceListener)
}

// use returns the table, and makes it when it is used for the first time; mu is held.
func (p *presenceState) use() *presence.Table {
	if p.table == nil {
		c := presence.Config{Grace: max(p.server.opts.PresenceGrace, 0), Alone: p.server.isAlone()}
		rand.Read(c.Self[:]) // never fails
		p.table = presence.New(c)
	}
	return p.table
}

// figures returns what Stats tells of presence.
func (p *presenceState) figures() (present, peers int, junk uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.table == nil {
		return 0, 0, 0
	}
	return p.table.Own(), p.table.Peers(), p.table.Junk()
}

// set makes a session present, or changes its info.
//
// The session must be removed again when it ends. So the caller holds Session.mu, and has seen that
// the session is open: leaveAll comes later. Or the caller holds the mu of a topic to which the
// session is subscribed: the session leaves that topic later.
func (p *presenceState) set(s *Session, topic string, info []byte, subscribed bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.checkBounds(s, topic, info, subscribed); err != nil {
		return err
	}
	table, now := p.use(), clock.Now()
	extra := p.extras[s]
	if extra == nil {
		extra = &extraInfos{}
	}
	extra.bytes += len(info)
	key := presentKey{s, topic}
	if ref, known := p.refs[key]; known {
		extra.bytes -= len(table.Info(ref))
		table.Change(ref, info, now)
	} else {
		p.refs[key] = table.Enter(topic, memberID(s), info, now)
		if !subscribed {
			extra.elsewhere = append(extra.elsewhere, topic)
		}
	}
	p.keepExtra(s, extra)
	p.wake()
	return nil
}

// mayArrive returns why a session cannot be present with an info once it is subscribed to a topic;
// nil: it can.
func (p *presenceState) mayArrive(s *Session, topic string, info []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.checkBounds(s, topic, info, true)
}

// checkBounds returns why set must not make a session present with an info; nil: it may. mu is held.
func (p *presenceState) checkBounds(s *Session, topic string, info []byte, subscribed bool) error {
	bytes, elsewhere := len(info), 0
	if extra := p.extras[s]; extra != nil {
		bytes += extra.bytes
		elsewhere = len(extra.elsewhere)
	}
	ref, known := p.refs[presentKey{s, topic}]
	if known {
		bytes -= len(p.table.Info(ref)) // the new info takes its place
	}
	switch {
	case bytes > maxInfos:
		return tooLarge("the infos of the session have more than %d bytes together", maxInfos)
	case len(topic)+len(memberID(s))+len(info) > presence.MaxEntry:
		return tooLarge("topic and user have more than %d bytes", presence.MaxEntry-len(info))
	case !known && !subscribed && elsewhere == maxElsewhere:
		return fmt.Errorf("%w: it is present in %d without being subscribed", ErrTooManyTopics, maxElsewhere)
	}
	return nil
}

// arrived notes that a session has subscribed; topic.mu is held. If the session is present already,
// it stays present, and keeps its info unless the subscription brings another.
func (p *presenceState) arrived(sub *subscription, o *subscribing) {
	t := sub.topic
	if sub.wire == wireV1 && t.opts.Presence >= PresenceCounted {
		p.watch(t, sub)
	}
	p.mu.Lock()
	ref, known := p.refs[presentKey{sub.session, t.name}]
	if known {
		p.forgetElsewhere(sub.session, t.name)
	}
	info := o.info
	if known && !o.hasInfo {
		info = p.table.Info(ref)
	}
	p.mu.Unlock()
	if o.unseen && !known {
		return
	}
	if err := p.set(sub.session, t.name, info, true); err != nil {
		// The goroutine ends when the line is written. The topic is locked now, and a slog.Handler may publish to it.
		go p.server.logOfClient(slog.LevelWarn, "live: session is not shown as present", "topic", t.name, "session", sub.session.id, "err", err)
	}
}

// departed notes that a session is unsubscribed; topic.mu is held.
func (p *presenceState) departed(sub *subscription) {
	t := sub.topic
	if sub.wire == wireV1 && t.opts.Presence >= PresenceCounted {
		p.unwatch(t, sub)
	}
	p.leave(sub.session, t.name)
}

// leave ends the presence of a session in a topic.
func (p *presenceState) leave(s *Session, topic string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaveLocked(s, topic)
}

// leaveLocked is leave with mu held.
func (p *presenceState) leaveLocked(s *Session, topic string) {
	key := presentKey{s, topic}
	ref, known := p.refs[key]
	if !known {
		return
	}
	delete(p.refs, key)
	if len(p.refs) == 0 {
		p.refs = make(map[presentKey]uint64) // the old map keeps the space of the most entries that it ever had
	}
	if extra := p.extras[s]; extra != nil {
		extra.bytes -= len(p.table.Info(ref))
		p.keepExtra(s, extra)
	}
	p.forgetElsewhere(s, topic)
	p.table.Leave(ref, clock.Now())
	p.wake()
}

// leaveAll ends the presence of a session in topics without a subscription. It is called when the
// session has ended, and is unsubscribed from all topics.
func (p *presenceState) leaveAll(s *Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	extra := p.extras[s]
	if extra == nil {
		return
	}
	for _, topic := range slices.Clone(extra.elsewhere) {
		p.leaveLocked(s, topic)
	}
	delete(p.extras, s)
}

// forgetElsewhere notes that a session is subscribed to a topic, or no longer present in it; mu is held.
func (p *presenceState) forgetElsewhere(s *Session, topic string) {
	extra := p.extras[s]
	if extra == nil {
		return
	}
	if i := slices.Index(extra.elsewhere, topic); i >= 0 {
		extra.elsewhere = slices.Delete(extra.elsewhere, i, i+1)
		p.keepExtra(s, extra)
	}
}

// keepExtra keeps the counts of a session, unless they are all zero; mu is held.
func (p *presenceState) keepExtra(s *Session, extra *extraInfos) {
	if extra.bytes > 0 || len(extra.elsewhere) > 0 {
		p.extras[s] = extra
	} else {
		delete(p.extras, s)
	}
}

// memberID returns the ID of the member to which a session belongs. A session without a user is a
// member of its own. Such an ID does not tell the ID of the session, which a program may treat as a
// secret: it has 96 bits of a hash, so two sessions never share one.
func memberID(s *Session) string {
	switch {
	case s.user == "":
		sum := sha256.Sum256([]byte(s.id))
		return ":" + base64.RawURLEncoding.EncodeToString(sum[:12])
	case s.user[0] == ':':
		return ":" + strings.ToValidUTF8(s.user, "\uFFFD")
	}
	return strings.ToValidUTF8(s.user, "\uFFFD")
}

// userOf returns the user of a member.
func userOf(id string) string {
	switch {
	case strings.HasPrefix(id, "::"):
		return id[1:]
	case strings.HasPrefix(id, ":"):
		return ""
	}
	return id
}

func memberOf(m presence.Member) Member {
	sessions := make([]MemberSession, len(m.Sessions))
	for i, info := range m.Sessions {
		sessions[i].Info = info
	}
	return Member{ID: m.ID, UserID: userOf(m.ID), Sessions: sessions}
}

func membersOf(all []presence.Member) []Member {
	members := make([]Member, len(all))
	for i, m := range all {
		members[i] = memberOf(m)
	}
	return members
}
