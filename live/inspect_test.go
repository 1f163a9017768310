package live_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// withUsers returns options whose clients say in the query who they are.
func withUsers(opts live.Options) live.Options {
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) { return r.URL.Query().Get("user"), nil }
	return opts
}

func TestSessionTellsWhoItIsAndWhatWaitsForIt(t *testing.T) {
	t.Parallel()
	opts, sessions := livetest.Connected(withUsers(live.Options{}))
	h := livetest.Hosting{Buffer: 8 << 10}.Start(t, opts)
	before := time.Now()
	livetest.DialV1(t, h.With("user=ann"))
	ann := livetest.Receive(t, sessions)
	bob := livetest.Connect(t, h.With("user=bob"), livetest.Dialing{Buffer: 8 << 10})
	bobs := livetest.Receive(t, sessions)
	h.Subscribe(ann, "a")
	h.Subscribe(ann, "b")

	st := ann.Stats()
	if st.ID != ann.ID() || st.UserID != "ann" || !st.LiveV1 || st.Topics != 2 || st.QueuedBytes != 0 || !st.Expires.IsZero() {
		t.Errorf("ann: %+v", st)
	}
	if now := time.Now(); st.Since.Before(before) || st.Since.After(now) || st.Heard.Before(st.Since) || st.Heard.After(now) {
		t.Errorf("ann has connected at %v and was heard at %v; it was between %v and %v", st.Since, st.Heard, before, now)
	}
	if !ann.IsSubscribed("a") || ann.IsSubscribed("c") || bobs.IsSubscribed("a") {
		t.Error("ann has a, nobody has c, and bob has nothing")
	}
	if h.SessionByID(bobs.ID()) != bobs || h.SessionByID("nobody's") != nil {
		t.Error("only bob's session has bob's ID")
	}

	bob.Line.Stall()
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	bobs.ExpireAt(expires)
	const message = 100_000
	livetest.Eventually(t, "something that waits for bob", func() bool {
		bobs.Send(live.Message{Data: []byte(livetest.Padded(1, message))})
		return bobs.Stats().QueuedMessages > 0
	})
	if st := bobs.Stats(); st.QueuedBytes < message || st.LiveV1 || !st.Expires.Equal(expires) {
		t.Errorf("bob: %+v", st)
	}
	var open []string
	for s := range h.Sessions() {
		open = append(open, s.UserID())
	}
	if slices.Sort(open); !slices.Equal(open, []string{"ann", "bob"}) {
		t.Error("open are the sessions of", open)
	}
}

func TestMessagesThatWaitForTheApplicationAreCounted(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	opts, sessions := livetest.Connected(live.Options{
		OnMessage: func(context.Context, *live.Session, string, []byte) { <-release },
	})
	h := livetest.Hosting{}.Start(t, opts)
	defer close(release)
	c := h.Connect(t, livetest.Dialing{})
	for range 3 {
		c.SendMessage("t", 1)
	}
	s := livetest.Receive(t, sessions)
	livetest.Eventually(t, "two messages that wait while the first is handled", func() bool { return s.Stats().Unhandled == 2 })
}

// A session that catches up says how far it has come, and that it is live when it has caught up.
func TestSessionThatCatchesUpSaysHowFarItHasCome(t *testing.T) {
	t.Parallel()
	const n = 100
	opts, sessions := livetest.Connected(live.Options{})
	h := slowHost(t, opts, live.TopicOptions{History: n})
	p := slowPeer(h, t, true, 0)
	s := livetest.Receive(t, sessions)
	h.Subscribe(s, "t")
	h.Subscribe(s, "quiet")
	p.Line.Stall()
	h.PublishNumbers(t, "t", 1, n, 1000)

	subs := s.Subscriptions()
	if len(subs) != 2 || subs[0].Topic != "quiet" || subs[1].Topic != "t" {
		t.Fatalf("the subscriptions are %+v", subs)
	}
	if quiet := subs[0]; quiet.CatchingUp || quiet.Behind != 0 {
		t.Errorf("of the quiet topic: %+v", quiet)
	}
	if far := subs[1]; !far.CatchingUp || far.Behind == 0 || far.Position.Offset+far.Behind != n {
		t.Errorf("of %d publications: %+v", n, far)
	}
	if st, _ := h.TopicStats("t"); s.Stats().CatchingUp != 1 || st.CatchingUp != 1 {
		t.Errorf("%d subscriptions of the session and %d of the topic catch up, want one", s.Stats().CatchingUp, st.CatchingUp)
	}

	p.Line.Resume()
	p.Attend()
	livetest.Eventually(t, "the session is live", func() bool { return s.Stats().CatchingUp == 0 })
	if live := s.Subscriptions()[1]; live.CatchingUp || live.Behind != 0 || live.Position.Offset != n {
		t.Errorf("in the end: %+v", live)
	}
	h.Unsubscribe(s, "t")
	if subs := s.Subscriptions(); len(subs) != 1 {
		t.Errorf("the subscriptions are still %+v", subs)
	}
}

func TestTopicTellsWhatIsPublishedAndWhoListens(t *testing.T) {
	t.Parallel()
	opts, sessions := livetest.Connected(withUsers(live.Options{Topics: func(topic string) live.TopicOptions {
		switch topic {
		case "room":
			return live.TopicOptions{History: 5, Presence: live.PresenceVisible}
		case "table":
			return live.TopicOptions{Keyed: true}
		}
		return live.TopicOptions{}
	}}))
	h := livetest.Hosting{}.Start(t, opts)
	for _, user := range []string{"ann", "ann", "bob"} {
		livetest.DialV1(t, h.With("user="+user))
		s := livetest.Receive(t, sessions)
		for _, topic := range []string{"room", "table", "plain"} {
			h.Subscribe(s, topic)
		}
	}
	listener, err := h.Listen("plain", func(live.Message) {})
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	for i := range 8 {
		data := fmt.Appendf(nil, "%d", i)
		h.Publish("room", data)
		h.Publish("plain", data)
		h.Publish("table", data, live.Key(fmt.Sprint("key ", i%3)))
	}
	all := make(map[string]live.TopicStats)
	for st := range h.Topics() {
		all[st.Topic] = st
	}
	room, table, plain := all["room"], all["table"], all["plain"]
	if len(all) != 3 {
		t.Errorf("the topics are %+v", all)
	}
	if room.Subscribers != 3 || room.Listeners != 0 || room.Published != 8 || room.History != 5 || room.Held != 5 ||
		room.Position.Offset != 8 || room.Presence != live.PresenceVisible || room.Present != 2 {
		t.Errorf("room: %+v", room)
	}
	if room.HeldSince.Before(before) || room.HeldSince.After(time.Now()) {
		t.Errorf("the oldest publication of room is of %v", room.HeldSince)
	}
	if table.Published != 8 || !table.Keyed || table.Held != 3 || !table.HeldSince.IsZero() {
		t.Errorf("table: %+v", table)
	}
	if plain.Published != 8 || plain.Listeners != 1 || plain.History != 0 || plain.Held != 0 || plain.Position != (live.Position{}) {
		t.Errorf("plain: %+v", plain)
	}

	if _, known := h.TopicStats("nobody's"); known {
		t.Error("a topic without a subscriber is known")
	}
	listener.Unsubscribe()
	for s := range h.Sessions() {
		h.Unsubscribe(s, "plain")
	}
	if st, known := h.TopicStats("plain"); known {
		t.Errorf("the topic is still known when its last subscriber has left: %+v", st)
	}
}

// A loop holds no lock: what it runs may publish, subscribe and close.
func TestLoopsOverSessionsAndTopicsMayDoAnything(t *testing.T) {
	t.Parallel()
	opts, sessions := livetest.Connected(live.Options{})
	h := livetest.Hosting{}.Start(t, opts)
	for range 3 {
		livetest.Dial(t, h.Endpoint)
		h.Subscribe(livetest.Receive(t, sessions), "t")
	}
	for st := range h.Topics() {
		for s := range h.Sessions() {
			h.Subscribe(s, "other")
			h.Publish(st.Topic, []byte("1"))
			s.Close()
		}
	}
	livetest.Eventually(t, "the end of the sessions", func() bool { return h.Stats().Sessions == 0 })
	for range h.Sessions() {
		t.Error("a session is still there")
	}
	for range h.Topics() {
		t.Error("a topic is still there")
	}
}
