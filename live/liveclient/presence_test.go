package liveclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

// room returns options whose topics tell who is present. The user is the value of the header User. An info of "bad" is refused.
func room(o live.TopicOptions) live.Options {
	if o.Presence == live.PresenceOff {
		o.Presence = live.PresenceVisible
	}
	opts := with(o)
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) { return r.Header.Get("User"), nil }
	opts.PresenceGrace = 200 * time.Millisecond
	opts.OnPresence = func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) {
		if string(info) == `"bad"` {
			return nil, errors.New("no")
		}
		return info, nil
	}
	return opts
}

func userOptions(name string) liveclient.Options {
	return liveclient.Options{Header: map[string][]string{"User": {name}}}
}

// watching returns options of a subscription that note who comes and goes.
func watching(h *heard) []liveclient.SubscribeOption {
	name := func(m liveclient.Member) string {
		return fmt.Sprintf("%s%s", m.ID, texts(m.Sessions))
	}
	return []liveclient.SubscribeOption{
		liveclient.OnJoin(func(m liveclient.Member) { h.note("+" + name(m)) }),
		liveclient.OnLeave(func(m liveclient.Member) { h.note("-" + name(m)) }),
		liveclient.OnChange(func(now, before liveclient.Member) { h.note("~" + name(before) + name(now)) }),
	}
}

func texts(infos []json.RawMessage) []string {
	all := make([]string, len(infos))
	for i, info := range infos {
		all[i] = string(info)
	}
	return all
}

// expectMembers waits until a subscription knows these members.
func expectMembers(t testing.TB, s *liveclient.Subscription, want ...string) {
	t.Helper()
	var got []string
	livetest.Eventually(t, fmt.Sprint("members ", want), func() bool {
		got = nil
		for _, m := range s.Presence().Members {
			got = append(got, m.ID)
		}
		return slices.Equal(got, want)
	})
	if n := s.Presence().Count; n != len(want) {
		t.Errorf("the count is %d, want %d", n, len(want))
	}
}

func TestPresenceTellsWhoComesAndGoes(t *testing.T) {
	t.Parallel()
	h := host(t, room(live.TopicOptions{}))
	ana := connect(t, h.Endpoint, userOptions("ana"))
	got := new(heard)
	s, _ := subscribe(t, ana, "room", append(watching(got), liveclient.Info(map[string]bool{"typing": false}))...)
	expectMembers(t, s, "ana")
	bob := connect(t, h.Endpoint, userOptions("bob"))
	subscribe(t, bob, "room")
	expectMembers(t, s, "ana", "bob")
	unseen := connect(t, h.Endpoint, userOptions("eve"))
	watcher, _ := subscribe(t, unseen, "room", liveclient.Unseen())
	expectMembers(t, watcher, "ana", "bob")
	if id, err := bob.SetPresence(background, "room", "typing"); id != "bob" || err != nil {
		t.Errorf("SetPresence: %q, %v", id, err)
	}
	got.expect(t, "+bob[]", `~bob[]bob["typing"]`)
	bob.Close()
	got.expect(t, "+bob[]", `~bob[]bob["typing"]`, `-bob["typing"]`)
	expectMembers(t, watcher, "ana")
	p, err := unseen.Presence(background, "room")
	if err != nil || p.Count != 1 || p.Members[0].ID != "ana" || string(p.Members[0].Sessions[0]) != `{"typing":false}` {
		t.Errorf("Presence: %+v, %v", p, err)
	}
}

// The first members have not joined: they were there.
func TestPresenceIsToldOnceItIsKnown(t *testing.T) {
	t.Parallel()
	h := host(t, room(live.TopicOptions{}))
	ana := connect(t, h.Endpoint, userOptions("ana"))
	subscribe(t, ana, "room")
	bob := connect(t, h.Endpoint, userOptions("bob"))
	changes, views := new(heard), new(heard)
	s, _ := subscribe(t, bob, "room", append(watching(changes), liveclient.OnPresence(func(p liveclient.Presence) {
		views.note(fmt.Sprint(p.Count, len(p.Members)))
	}))...)
	expectMembers(t, s, "ana", "bob")
	livetest.Eventually(t, "OnPresence", func() bool { return slices.Contains(views.all(), "2 2") })
	for _, text := range changes.all() {
		if strings.HasPrefix(text, "+ana") {
			t.Errorf("heard %s", brief(changes.all()))
		}
	}
}

// A connection that is lost for a moment is no event, and the next one shows the same info.
func TestPresenceSurvivesAReconnect(t *testing.T) {
	t.Parallel()
	opts := room(live.TopicOptions{})
	opts.PresenceGrace = 20 * time.Second
	h := host(t, opts)
	relay := newRoad(t, h.Endpoint)
	ana := connect(t, relay.Endpoint, userOptions("ana"))
	got := new(heard)
	s, _ := subscribe(t, ana, "room", watching(got)...)
	if _, err := ana.SetPresence(background, "room", "here"); err != nil {
		t.Fatal(err)
	}
	if _, err := ana.SetPresence(background, "elsewhere", "there"); err != nil {
		t.Fatal(err)
	}
	expectMembers(t, s, "ana")
	relay.cut()
	livetest.Eventually(t, "the next session", func() bool { return h.Stats().Accepted == 2 && h.Stats().Subscriptions == 1 })
	infoOf := func(topic string) string {
		p := h.Presence(topic)
		if len(p) != 1 || len(p[0].Sessions) != 1 {
			return fmt.Sprint(p)
		}
		return string(p[0].Sessions[0].Info)
	}
	livetest.Eventually(t, "the infos", func() bool { return infoOf("room") == `"here"` && infoOf("elsewhere") == `"there"` })
	bob := connect(t, h.Endpoint, userOptions("bob"))
	subscribe(t, bob, "room")
	livetest.Eventually(t, "bob", func() bool { return slices.Contains(got.all(), "+bob[]") })
	for _, text := range got.all() {
		if text != "+bob[]" && !strings.HasPrefix(text, "~ana") {
			t.Errorf("heard %s", brief(got.all()))
		}
	}
}

// After ClearPresence a subscription goes on unseen, also on the next connection.
func TestClearPresenceLasts(t *testing.T) {
	t.Parallel()
	h := host(t, room(live.TopicOptions{}))
	relay := newRoad(t, h.Endpoint)
	ana := connect(t, relay.Endpoint, userOptions("ana"))
	s, got := subscribe(t, ana, "room", liveclient.Info("here"))
	bob := connect(t, h.Endpoint, userOptions("bob"))
	subscribe(t, bob, "room")
	expectMembers(t, s, "ana", "bob")
	if err := ana.ClearPresence(background, "room"); err != nil {
		t.Fatal(err)
	}
	expectMembers(t, s, "bob")
	relay.cut()
	livetest.Eventually(t, "the next session", func() bool { return h.Stats().Accepted == 3 && h.Stats().Subscriptions == 2 })
	if _, err := ana.Request(deadline(t), "room", 1); err != nil { // after the subscribe
		t.Fatal(err)
	}
	if p := h.Presence("room"); len(p) != 1 || p[0].UserID != "bob" {
		t.Errorf("after a reconnect: %v", p)
	}
	publish(t, h, "room", "1")
	got.expect(t, "gap no_history", "1")
	if _, err := ana.SetPresence(background, "room", nil); err != nil {
		t.Fatal(err)
	}
	expectMembers(t, s, "ana", "bob")
	relay.block()
	livetest.Eventually(t, "the grace", func() bool { return len(h.Presence("room")) == 1 })
	relay.unblock()
	livetest.Eventually(t, "ana again", func() bool { return len(h.Presence("room")) == 2 })
}

// A client that was away for long shows the same again, also where it is not subscribed.
func TestPresenceIsShownAgain(t *testing.T) {
	t.Parallel()
	h := host(t, room(live.TopicOptions{}))
	relay := newRoad(t, h.Endpoint)
	ana := connect(t, relay.Endpoint, userOptions("ana"))
	if _, err := ana.SetPresence(background, "elsewhere", "there"); err != nil {
		t.Fatal(err)
	}
	relay.block()
	livetest.Eventually(t, "the grace", func() bool { return len(h.Presence("elsewhere")) == 0 })
	ctx, cancel := context.WithTimeout(background, time.Millisecond)
	defer cancel()
	if _, err := ana.SetPresence(ctx, "room", "here"); err == nil {
		t.Fatal("SetPresence has not waited")
	}
	relay.unblock()
	for topic, info := range map[string]string{"elsewhere": `"there"`, "room": `"here"`} {
		livetest.Eventually(t, "the member of "+topic, func() bool {
			p := h.Presence(topic)
			return len(p) == 1 && string(p[0].Sessions[0].Info) == info
		})
	}
}

func TestRefusedInfo(t *testing.T) {
	t.Parallel()
	h := host(t, room(live.TopicOptions{}))
	ana := connect(t, h.Endpoint, liveclient.Options{Header: map[string][]string{"User": {"ana"}}, OnError: func(error) {}})
	if _, err := ana.SetPresence(background, "room", "bad"); liveclient.Code(err) != liveclient.CodeForbidden {
		t.Errorf("SetPresence: %v", err)
	}
	s, err := ana.Subscribe("room", nil, liveclient.Info("bad"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(deadline(t)); liveclient.Code(err) != liveclient.CodeForbidden {
		t.Errorf("Subscribe: %v", err)
	}
	if _, err := ana.Subscribe("room", nil, liveclient.Info(func() {})); !errors.Is(err, liveclient.ErrInvalidData) {
		t.Errorf("an info that is not JSON: %v", err)
	}
	if _, err := ana.SetPresence(background, "room", strings.Repeat("x", 2000)); liveclient.Code(err) != liveclient.CodeTooBig {
		t.Errorf("a large info: %v", err)
	}
	if _, err := ana.SetPresence(background, "room", nil); err != nil {
		t.Errorf("without an info: %v", err)
	}
}

// A topic with many members tells their number only.
func TestPresenceOfManyIsANumber(t *testing.T) {
	t.Parallel()
	h := host(t, room(live.TopicOptions{PresenceLimit: 2}))
	ana := connect(t, h.Endpoint, userOptions("ana"))
	got := new(heard)
	s, _ := subscribe(t, ana, "room", watching(got)...)
	var others []*liveclient.Client
	for i := range 3 {
		others = append(others, connect(t, h.Endpoint, userOptions(fmt.Sprint("guest ", i))))
		subscribe(t, others[i], "room")
	}
	livetest.Eventually(t, "the number", func() bool { p := s.Presence(); return p.Count == 4 && p.Members == nil })
	if p, err := ana.Presence(background, "room"); err != nil || p.Count != 4 || p.Members != nil {
		t.Errorf("Presence: %+v, %v", p, err)
	}
	before := got.count()
	for _, other := range others {
		other.Close()
	}
	expectMembers(t, s, "ana")
	for _, text := range got.all()[before:] {
		if text[0] != '-' { // the members that are told again have not joined
			t.Errorf("heard %s", brief(got.all()))
		}
	}
}

// What a stuck callback has not been told yet is told together.
func TestPresenceOfAStuckCallbackIsToldTogether(t *testing.T) {
	t.Parallel()
	h := host(t, room(live.TopicOptions{}))
	ana := connect(t, h.Endpoint, userOptions("ana"))
	g := newGate()
	s, err := ana.Subscribe("room", g.message, watching(&g.heard)...)
	if err != nil {
		t.Fatal(err)
	}
	await(t, s)
	expectMembers(t, s, "ana")
	publish(t, h, "room", "1") // the callback is stuck from here on
	for i := range 3 {
		bob := connect(t, h.Endpoint, userOptions(fmt.Sprint("bob ", i)))
		subscribe(t, bob, "room")
		expectMembers(t, s, "ana", fmt.Sprint("bob ", i))
		bob.Close()
		expectMembers(t, s, "ana")
	}
	carl := connect(t, h.Endpoint, userOptions("carl"))
	subscribe(t, carl, "room")
	expectMembers(t, s, "ana", "carl")
	close(g.open)
	g.expect(t, "1", "+carl[]")
}
