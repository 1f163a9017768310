package live_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// present returns options under which all topics have presence, but those that begin with "off",
// and a client is whoever it says.
func present(o live.TopicOptions) live.Options {
	opts := livetest.Permissive()
	opts.OnAuth = byHeader
	opts.Topics = func(topic string) live.TopicOptions {
		if strings.HasPrefix(topic, "off") {
			return live.TopicOptions{}
		}
		return o
	}
	opts.OnPresence = func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil }
	return opts
}

var visible = live.TopicOptions{Presence: live.PresenceVisible}

// viewer is a client of live.v1 with what it knows of who is in topic t.
type viewer struct {
	*livetest.Client
	t       *testing.T
	members map[string]string // infos by ID; nil: only the count is known
	count   int
	frames  int  // of presence
	part    bool // more of a state is to come
}

func enter(t *testing.T, h *livetest.Host, user, more string) *viewer {
	t.Helper()
	v := watcher(t, h, user)
	v.Send(`{"op":"subscribe","id":1,"topic":"t"` + more + `}`)
	if f, before := v.Answer(); f.Op != "reply" || len(before) > 0 {
		t.Fatalf("answered by %s after %d frames", f.Raw, len(before))
	}
	return v
}

func watcher(t *testing.T, h *livetest.Host, user string) *viewer {
	c := h.Connect(t, livetest.Dialing{V1: true, Header: http.Header{"User": {user}}}).Attend().Greeted()
	return &viewer{Client: c, t: t}
}

// take takes a frame of presence, as docs/protocol.md says.
func (v *viewer) take(f livetest.Frame) {
	if f.Op != "presence" || f.Topic != "t" {
		return
	}
	v.frames++
	v.part = f.More
	if f.Count != nil {
		v.members, v.count = nil, *f.Count
		return
	}
	if f.Members != nil && !f.Continued {
		v.members = make(map[string]string)
	}
	for _, list := range [][]livetest.Member{f.Members, f.Joined, f.Changed} {
		for _, m := range list {
			v.members[m.ID] = fmt.Sprintf("%s", m.Sessions)
		}
	}
	for _, id := range f.Left {
		delete(v.members, id)
	}
	v.count = len(v.members)
}

// sees waits until the client knows of these members and no others.
func (v *viewer) sees(want map[string]string) {
	v.t.Helper()
	for fmt.Sprint(v.members) != fmt.Sprint(want) || v.part {
		v.take(v.Next())
	}
}

// hearsNothing checks that no frame comes for so long.
func (v *viewer) hearsNothing(d time.Duration) {
	v.t.Helper()
	time.Sleep(d)
	if f := v.Settled(); len(f) > 0 {
		v.t.Errorf("got %s", f[0].Raw)
	}
}

// inTopic is who is in topic t for the application.
func inTopic(s *live.Server) string {
	var all []string
	for _, m := range s.Presence("t") {
		all = append(all, fmt.Sprintf("%s %d", m.UserID, len(m.Sessions)))
	}
	return strings.Join(all, ", ")
}

func TestClientsSeeWhoJoinsChangesAndLeaves(t *testing.T) {
	t.Parallel()
	opts := present(visible)
	opts.PresenceGrace = 100 * time.Millisecond
	h := livetest.Hosting{}.Start(t, opts)
	anna := enter(t, h, "anna", `,"info":{"typing":false}`)
	anna.sees(map[string]string{"anna": `[{"typing":false}]`})
	bert := enter(t, h, "bert", "")
	both := map[string]string{"anna": `[{"typing":false}]`, "bert": `[null]`}
	anna.sees(both)
	bert.sees(both)
	bert.Send(`{"op":"present","id":2,"topic":"t","info":"busy"}`)
	f, _ := bert.Answer()
	livetest.Same(t, "present", f.Raw, `{"op":"reply","id":2,"member":"bert"}`)
	anna.sees(map[string]string{"anna": `[{"typing":false}]`, "bert": `["busy"]`})
	bert.Leave()
	anna.sees(map[string]string{"anna": `[{"typing":false}]`})
	enter(t, h, "carl", "").Reset() // ends badly
	enter(t, h, "dora", "").Send(livetest.UnsubscribeFrom(2, "t"))
	last := enter(t, h, "emil", "")
	anna.sees(map[string]string{"anna": `[{"typing":false}]`, "emil": `[null]`})
	last.Send(`{"op":"absent","id":3,"topic":"t"}`)
	anna.sees(map[string]string{"anna": `[{"typing":false}]`})
	last.sees(anna.members) // it is subscribed still
	if h.PresenceCount("t") != 1 || h.PresenceCount("nobody") != 0 {
		t.Errorf("%d are counted", h.PresenceCount("t"))
	}
}

func TestThreeTabsOfAUserAreOneMember(t *testing.T) {
	t.Parallel()
	opts := present(visible)
	opts.PresenceGrace = 50 * time.Millisecond
	h := livetest.Hosting{}.Start(t, opts)
	other := enter(t, h, "viewer", `,"unseen":true`)
	var tabs []*viewer
	for range 3 {
		tabs = append(tabs, enter(t, h, "anna", ""))
	}
	other.sees(map[string]string{"anna": `[null null null]`})
	if got := inTopic(h.Server); got != "anna 3" {
		t.Error(got)
	}
	for i, want := range []string{`[null null]`, `[null]`} {
		tabs[i].Leave()
		other.sees(map[string]string{"anna": want})
	}
	tabs[2].Leave()
	other.sees(map[string]string{})
}

func TestReloadShowsNothingToTheOthers(t *testing.T) {
	t.Parallel()
	h := livetest.Hosting{}.Start(t, present(visible))
	viewer := enter(t, h, "viewer", "")
	anna := enter(t, h, "anna", `,"info":1`)
	viewer.sees(map[string]string{"anna": `[1]`, "viewer": `[null]`})
	for range 3 {
		anna.Leave()
		livetest.Eventually(t, "the session is gone", func() bool { return h.Stats().Sessions == 1 })
		viewer.hearsNothing(300 * time.Millisecond)
		anna = enter(t, h, "anna", `,"info":1`)
	}
	viewer.hearsNothing(3300 * time.Millisecond)
	if got := inTopic(h.Server); got != "anna 1, viewer 1" {
		t.Error(got)
	}
}

func TestSessionsWithoutAUserAreMembersOfTheirOwn(t *testing.T) {
	t.Parallel()
	h := livetest.Hosting{}.Start(t, present(visible))
	enter(t, h, "", "")
	enter(t, h, "", "")
	enter(t, h, ":x", "")
	livetest.Eventually(t, "all are present", func() bool { return h.PresenceCount("t") == 3 }) // a reply comes a moment before
	all := h.Presence("t")
	if len(all) != 3 || all[0].ID == all[1].ID || h.PresenceCount("t") != 3 {
		t.Fatalf("%+v", all)
	}
	users := map[string]int{}
	for _, m := range all {
		users[m.UserID]++
		if m.ID[0] != ':' || strings.HasPrefix(m.ID, "::") != (m.UserID == ":x") {
			t.Errorf("%+v", m)
		}
	}
	if users[""] != 2 || users[":x"] != 1 {
		t.Errorf("%v", users)
	}
}

func TestLargeTopicsAreCounted(t *testing.T) {
	t.Parallel()
	o := visible
	o.PresenceLimit = 10
	opts := present(o)
	opts.PresenceGrace = -1
	h := livetest.Hosting{}.Start(t, opts)
	first := enter(t, h, "first", `,"unseen":true`)
	var crowd []*viewer
	for i := range 12 {
		crowd = append(crowd, enter(t, h, fmt.Sprint("user ", i), ""))
	}
	last := enter(t, h, "last", `,"unseen":true`)
	for _, v := range []*viewer{first, last} {
		for v.count != 12 || v.members != nil {
			v.take(v.Next())
		}
	}
	last.Send(`{"op":"presence","id":9,"topic":"t"}`)
	f, _ := last.Answer()
	livetest.Same(t, "presence", f.Raw, `{"op":"reply","id":9,"count":12}`)
	for _, v := range crowd[2:] {
		v.Drop()
	}
	for _, v := range []*viewer{first, last} {
		v.sees(map[string]string{"user 0": "[null]", "user 1": "[null]"})
	}
}

// Members in parts, and differences in several frames, all arrive.
func TestLargeStatesComeInParts(t *testing.T) {
	t.Parallel()
	opts := present(visible)
	opts.QueueBytes = 16 << 10 // a part has 4 KB
	h := livetest.Hosting{}.Start(t, opts)
	first := enter(t, h, "first", `,"unseen":true`)
	want := make(map[string]string)
	info := `"` + strings.Repeat("x", 900) + `"`
	for i := range 40 {
		id := fmt.Sprintf("user %d", i)
		enter(t, h, id, `,"info":`+info)
		want[id] = "[" + info + "]"
	}
	first.sees(want)
	last := enter(t, h, "last", `,"unseen":true`)
	last.sees(want)
	if last.frames < 8 {
		t.Errorf("%d frames", last.frames)
	}
	last.Send(`{"op":"presence","id":5,"topic":"t"}`)
	n := 0
	for {
		f := last.Next()
		last.take(f)
		if f.Op == "reply" {
			if n += len(f.Members); !f.More {
				break
			}
		}
	}
	if n != 40 {
		t.Errorf("%d members in the answer", n)
	}
}

// A client that reads nothing is told nothing more, and is not closed. Then it gets the state.
func TestSlowClientGetsTheStateAgain(t *testing.T) {
	t.Parallel()
	opts := present(visible)
	opts.QueueSize, opts.QueueBytes = 8, 16<<10
	opts.WriteTimeout = time.Minute
	opts.PresenceGrace = -1
	h := livetest.Hosting{Buffer: livetest.SmallBuffer}.Start(t, opts)
	c := h.Connect(t, livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer, Header: http.Header{"User": {"slow"}}}).Greeted()
	slow := &viewer{Client: c, t: t}
	slow.Send(`[{"op":"subscribe","id":1,"topic":"off"},{"op":"subscribe","id":2,"topic":"t","unseen":true}]`)
	slow.Next()
	slow.Next()
	busy := enter(t, h, "busy", `,"unseen":true`)
	info := ""
	for i := range 60 {
		info = fmt.Sprintf(`"%d %s"`, i, strings.Repeat("x", 900))
		busy.Send(`{"op":"present","id":2,"topic":"t","info":` + info + `}`)
		for v := ""; v != "["+info+"]"; v = busy.members["busy"] {
			busy.take(busy.Next())
		}
	}
	for range 3 { // there is space for them: presence takes half of a queue at most
		h.Publish("off", []byte("1"))
	}
	slow.Attend()
	slow.sees(map[string]string{"busy": "[" + info + "]"})
	if slow.frames >= busy.frames {
		t.Errorf("the slow client got %d frames, the other %d", slow.frames, busy.frames)
	}
	if n := h.Stats().Sessions; n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// However long the answer to a subscribe takes, nothing of the topic comes before it.
func TestPresenceWaitsForTheReply(t *testing.T) {
	t.Parallel()
	for name, presence := range map[string]live.Presence{"visible": live.PresenceVisible, "counted": live.PresenceCounted} {
		t.Run(name, func(t *testing.T) {
			asked, goOn := make(chan bool, 1), make(chan bool)
			opts := present(live.TopicOptions{Presence: presence, Snapshot: func(context.Context, string) (any, error) {
				asked <- true
				<-goOn
				return 1, nil
			}})
			h := livetest.Hosting{}.Start(t, opts)
			anna, bert := watcher(t, h, "anna"), watcher(t, h, "bert")
			anna.Send(livetest.SubscribeTo(1, "t"))
			livetest.Receive(t, asked)
			for i := range 5 {
				bert.Send(livetest.Operation([]string{"present", "absent"}[i%2], 1, "t"))
				bert.Answer()
				time.Sleep(60 * time.Millisecond)
			}
			close(goOn)
			if f := anna.Next(); f.Op != "reply" {
				t.Errorf("the first frame is %s", f.Raw)
			}
			if f := anna.Next(); f.Op != "presence" {
				t.Errorf("the second frame is %s", f.Raw)
			}
		})
	}
}

// Clients that join at the same moment do not get a frame for each of the others.
func TestStormOfJoinsIsAHandfulOfFrames(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	n := 2000
	if withRace {
		n = 400
	}
	for name, limit := range map[string]int{"members": 2 * n, "numbers": n / 4} {
		t.Run(name, func(t *testing.T) {
			o := visible
			o.PresenceLimit = limit
			h := livetest.Hosting{}.Start(t, present(o))
			all := make([]*viewer, n)
			livetest.Each(20, func(worker int) {
				for i := worker; i < n; i += 20 {
					all[i] = watcher(t, h, fmt.Sprint("user ", i))
				}
			})
			begun := time.Now()
			livetest.Each(20, func(worker int) {
				for i := worker; i < n; i += 20 {
					all[i].Send(livetest.SubscribeTo(1, "t"))
				}
			})
			livetest.Eventually(t, "all have joined", func() bool { return h.PresenceCount("t") == n })
			joined := time.Since(begun)
			most, frames, bytes := 0, 0, 0
			for _, v := range all {
				for v.count < n || v.part {
					f := v.Next()
					v.take(f)
					bytes += len(f.Raw)
				}
				most, frames = max(most, v.frames), frames+v.frames
				if (v.members == nil) != (n > limit) {
					t.Fatalf("a client knows %d members, and the limit is %d", len(v.members), limit)
				}
			}
			took := time.Since(begun)
			t.Logf("%d joins in %v: %d frames, %.1f for each client and %d at most, %d KB for each; all have seen all after %v",
				n, joined, frames, float64(frames)/float64(n), most, bytes/n>>10, took)
			// At the beginning, with few clients, differences come every 100 ms; then less and less often.
			if handful := 10 + int(took/(500*time.Millisecond)); most > handful {
				t.Errorf("a client got %d frames, want %d at most", most, handful)
			}
		})
	}
}

func TestWhoMaySeePresence(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		presence live.Presence
		state    string // "" : none comes
		answer   string
	}{
		"off":     {live.PresenceOff, "", `{"op":"error","id":2,"topic":"t","code":"no_presence","message":"the topic does not tell who is present"}`},
		"private": {live.PresencePrivate, "", `{"op":"error","id":2,"topic":"t","code":"no_presence","message":"the topic does not tell who is present"}`},
		"counted": {live.PresenceCounted, `{"op":"presence","topic":"t","count":1}`, `{"op":"reply","id":2,"count":1}`},
		"visible": {live.PresenceVisible, `{"op":"presence","topic":"t","members":[{"id":"anna","sessions":[null]}]}`, `{"op":"reply","id":2,"members":[{"id":"anna","sessions":[null]}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			h := livetest.Hosting{}.Start(t, present(live.TopicOptions{Presence: test.presence}))
			anna := enter(t, h, "anna", "")
			livetest.Eventually(t, "she is present, or is not", func() bool {
				return (h.PresenceCount("t") == 1) == (test.presence != live.PresenceOff)
			})
			if test.state != "" {
				f := anna.Next()
				if f.Count != nil && *f.Count == 0 || f.Members != nil && len(f.Members) == 0 {
					f = anna.Next()
				}
				if f.Joined == nil {
					livetest.Same(t, "the state", f.Raw, test.state)
				}
			} else {
				anna.hearsNothing(200 * time.Millisecond)
			}
			anna.Send(`{"op":"presence","id":2,"topic":"t"}`)
			f, _ := anna.Answer()
			livetest.Same(t, "presence", f.Raw, test.answer)
		})
	}
}

func TestInfosOfAClientAreBounded(t *testing.T) {
	t.Parallel()
	opts := present(visible)
	h := livetest.Hosting{}.Start(t, opts)
	c := watcher(t, h, "anna")
	refused := func(what, op, code string) {
		t.Helper()
		c.Send(op)
		f, _ := c.Answer()
		livetest.Refused(t, what, f, 1, code)
		if code == "too_big" && !strings.Contains(string(f.Raw), "info") {
			t.Errorf("%s: the client is told %s", what, f.Raw)
		}
	}
	kilobyte := `"` + strings.Repeat("x", 1022) + `"`
	refused("a long info", `{"op":"present","id":1,"topic":"t","info":"x`+kilobyte[1:]+`}`, "too_big")
	refused("a topic without presence", `{"op":"present","id":1,"topic":"off","info":1}`, "no_presence")
	refused("an info of a topic without presence", `{"op":"subscribe","id":1,"topic":"off","info":1}`, "no_presence")
	refused("no topic", `{"op":"present","id":1}`, "bad_request")
	for i := range 64 {
		c.Send(fmt.Sprintf(`{"op":"present","id":1,"topic":"room %d","info":%s}`, i, kilobyte))
		if f, _ := c.Answer(); f.Op != "reply" {
			t.Fatalf("info %d: %s", i, f.Raw)
		}
	}
	refused("one kilobyte too much", `{"op":"present","id":1,"topic":"t","info":`+kilobyte+`}`, "too_big")
	refused("one kilobyte too much with a subscription", `{"op":"subscribe","id":1,"topic":"t","info":`+kilobyte+`}`, "too_big")
	livetest.Same(t, "subscribers", fmt.Sprint(h.Subscribers("t")), "0")
	for i := range 100 - 64 {
		c.Send(livetest.Operation("present", 1, fmt.Sprint("more ", i)))
		if f, _ := c.Answer(); f.Op != "reply" {
			t.Fatalf("topic %d: %s", i, f.Raw)
		}
	}
	refused("the 101st topic", `{"op":"present","id":1,"topic":"t"}`, "too_many_topics")
	c.Send(`{"op":"absent","id":1,"topic":"room 0"}`)
	c.Answer()
	c.Send(`{"op":"present","id":1,"topic":"t","info":` + kilobyte + `}`)
	if f, _ := c.Answer(); f.Op != "reply" {
		t.Errorf("after absent: %s", f.Raw)
	}
	c.Drop()
	livetest.Eventually(t, "it is gone everywhere", func() bool {
		n := 0
		for i := range 100 {
			n += h.PresenceCount(fmt.Sprint("room ", i)) + h.PresenceCount(fmt.Sprint("more ", i))
		}
		return n+h.PresenceCount("t") == 0
	})
}

// A session whose user is too long to be told subscribes unseen. The log that says so may go to
// subscribers of the same topic.
func TestHandlerOfALogMayPublishToTheTopicInWhichASessionIsNotSeen(t *testing.T) {
	t.Parallel()
	published := make(chan error, 1)
	var h *livetest.Host
	opts := present(visible)
	opts.Logger = slog.New(logCalls(func(line slog.Record) {
		if line.Message == "live: session is not shown as present" {
			published <- h.Publish("t", []byte(`1`))
		}
	}))
	h = livetest.Hosting{}.Start(t, opts)
	watcher(t, h, strings.Repeat("x", 16<<10)).Send(`{"op":"subscribe","topic":"t"}`)
	if err := livetest.Receive(t, published); err != nil {
		t.Error(err)
	}
}

// filledMeanwhile is a broker that calls f before it subscribes.
type filledMeanwhile struct {
	live.Broker
	f func()
}

func (b *filledMeanwhile) Subscribe(ctx context.Context, topic string) error {
	b.f()
	return b.Broker.Subscribe(ctx, topic)
}

// While a client subscribes with an info, the application sets so many infos of its session that the info
// has no space any more. The client gets one answer all the same.
func TestSubscriptionWithAnInfoHasOneAnswer(t *testing.T) {
	t.Parallel()
	opts := present(visible)
	opts.Logger = livetest.Quiet
	var session *live.Session
	opts.OnConnect = func(_ context.Context, s *live.Session) error { session = s; return nil }
	kilobyte := []byte(`"` + strings.Repeat("x", 1022) + `"`)
	opts.Broker = &filledMeanwhile{live.NewMemoryBroker(live.MemoryOptions{}), func() {
		for i := range 64 {
			if err := session.SetPresence(fmt.Sprint("room ", i), kilobyte); err != nil {
				t.Error(err)
			}
		}
	}}
	h := livetest.Hosting{}.Start(t, opts)
	c := watcher(t, h, "anna")
	c.Say(`{"op":"subscribe","id":1,"topic":"t","info":1}`, `{"op":"presence","id":2,"topic":"t"}`)
	if f, _ := c.Answer(); f.ID != 1 || f.Op != "reply" {
		t.Errorf("the first answer is %s", f.Raw)
	}
	if f, _ := c.Answer(); f.ID != 2 {
		t.Errorf("the second answer is %s", f.Raw)
	}
}

func TestPresenceWithoutOnPresenceIsForbidden(t *testing.T) {
	t.Parallel()
	opts := present(visible)
	opts.OnPresence = nil
	h := livetest.Hosting{}.Start(t, opts)
	c := watcher(t, h, "anna")
	for _, op := range []string{"present", "subscribe"} {
		c.Send(livetest.Operation(op, 1, "t", "info", 1))
		f, _ := c.Answer()
		livetest.Refused(t, op, f, 1, "forbidden")
	}
	if n := h.PresenceCount("t") + h.Subscribers("t"); n != 0 {
		t.Error("it is there all the same")
	}
}

// The application gives a session its info before others see it.
func TestSetPresenceInOnSubscribe(t *testing.T) {
	t.Parallel()
	opts := present(visible)
	sessions := make(chan *live.Session, 1)
	opts.OnSubscribe = func(_ context.Context, s *live.Session, topic string) error {
		sessions <- s
		return s.SetPresence(topic, map[string]string{"name": "Anna"})
	}
	h := livetest.Hosting{}.Start(t, opts)
	anna := enter(t, h, "anna", "")
	anna.sees(map[string]string{"anna": `[{"name":"Anna"}]`})
	s := livetest.Receive(t, sessions)
	if err := s.SetPresence("t", []byte("{")); !errors.Is(err, live.ErrInvalidData) {
		t.Errorf("no JSON: %v", err)
	}
	if err := s.SetPresence("off", nil); !errors.Is(err, live.ErrNoPresence) {
		t.Errorf("a topic without presence: %v", err)
	}
	if err := s.SetPresence("", nil); !errors.Is(err, live.ErrInvalidTopic) {
		t.Errorf("no topic: %v", err)
	}
	if err := s.SetPresence("elsewhere", 1); err != nil || h.PresenceCount("elsewhere") != 1 || h.Subscribers("elsewhere") != 0 {
		t.Errorf("present without being subscribed: %v", err)
	}
	s.ClearPresence("elsewhere")
	s.Unsubscribe("t")
	s.Close()
	if err := s.SetPresence("t", nil); !errors.Is(err, live.ErrSessionClosed) {
		t.Errorf("after Close: %v", err)
	}
	livetest.Eventually(t, "nobody is there", func() bool { return h.PresenceCount("t")+h.PresenceCount("elsewhere") == 0 })
}

func TestListenPresenceTellsWhoJoinsAndLeaves(t *testing.T) {
	t.Parallel()
	opts := present(live.TopicOptions{Presence: live.PresencePrivate})
	opts.PresenceGrace = -1
	h := livetest.Hosting{}.Start(t, opts)
	names := func(members []live.Member) (all []string) {
		for _, m := range members {
			all = append(all, fmt.Sprintf("%s/%d", m.UserID, len(m.Sessions)))
		}
		return all
	}
	enter(t, h, "first", "")
	changes := make(chan string, 100)
	l, err := h.ListenPresence("t", func(c live.PresenceChange) {
		changes <- fmt.Sprint(c.Topic, names(c.Joined), names(c.Changed), names(c.Left))
		panic("goes on")
	})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		if got := livetest.Receive(t, changes); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	expect("t[first/1] [] []")
	anna := enter(t, h, "anna", "")
	expect("t[anna/1] [] []")
	again := enter(t, h, "anna", "")
	expect("t[] [anna/2] []")
	anna.Leave()
	expect("t[] [anna/1] []")
	again.Leave()
	expect("t[] [] [anna/0]")
	l.Unsubscribe()
	l.Unsubscribe()
	enter(t, h, "nobody hears of", "")
	time.Sleep(200 * time.Millisecond)
	if len(changes) > 0 {
		t.Errorf("after Unsubscribe: %s", <-changes)
	}
	if _, err := h.ListenPresence("off", nil); !errors.Is(err, live.ErrNoPresence) {
		t.Error(err)
	}
	if _, err := h.ListenPresence("", nil); !errors.Is(err, live.ErrInvalidTopic) {
		t.Error(err)
	}
}

func TestOnUnsubscribeIsCalledOnceForEachEnd(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var calls []string
	opts := present(visible)
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, what)
	}
	opts.OnUnsubscribe = func(s *live.Session, topic string) { note(s.UserID() + " " + topic) }
	opts.OnClose = func(s *live.Session, _ error) { note("closed") }
	h := livetest.Hosting{}.Start(t, opts)
	c := watcher(t, h, "anna")
	for i, topic := range []string{"one", "off two"} {
		c.Send(livetest.SubscribeTo(1+i, topic))
		c.Answer()
	}
	c.Send(livetest.UnsubscribeFrom(3, "one"))
	c.Answer()
	c.Send(livetest.UnsubscribeFrom(4, "one"))
	c.Answer()
	c.Drop()
	livetest.Eventually(t, "the end", func() bool { mu.Lock(); defer mu.Unlock(); return len(calls) >= 3 })
	if got := strings.Join(calls, ", "); got != "anna one, anna off two, closed" {
		t.Error(got)
	}
}

// Many servers on one messaging system are one application.
func TestPresenceOverManyServers(t *testing.T) {
	t.Parallel()
	r := newRelay()
	var hosts []*livetest.Host
	for range 3 {
		opts := present(visible)
		opts.Broker = live.FromPubSub(r)
		opts.PresenceGrace = 300 * time.Millisecond
		hosts = append(hosts, livetest.Hosting{}.Start(t, opts))
	}
	other := enter(t, hosts[0], "viewer", `,"unseen":true`)
	tabs := []*viewer{enter(t, hosts[0], "anna", ""), enter(t, hosts[1], "anna", ""), enter(t, hosts[2], "bert", `,"info":7`)}
	other.sees(map[string]string{"anna": "[null null]", "bert": "[7]"})
	everywhere := func(want string) {
		t.Helper()
		for i, h := range hosts {
			livetest.Eventually(t, fmt.Sprintf("%q at server %d", want, i), func() bool { return inTopic(h.Server) == want })
		}
	}
	everywhere("anna 2, bert 1")
	tabs[0].Leave()
	everywhere("anna 1, bert 1")
	r.set(true) // the messaging system is down for a moment
	tabs[1].Drop()
	livetest.Eventually(t, "the end", func() bool { return hosts[1].Stats().Sessions == 0 })
	time.Sleep(200 * time.Millisecond)
	r.set(false)
	everywhere("bert 1")
	go hosts[2].Shutdown(context.Background()) // bert comes back elsewhere
	if _, code := tabs[2].Rest(); code != live.CloseRestart {
		t.Errorf("closed with %d", code)
	}
	time.Sleep(700 * time.Millisecond) // longer than the grace
	hosts = hosts[:2]
	everywhere("bert 1")
	enter(t, hosts[1], "bert", `,"info":7`)
	everywhere("bert 1")
	other.sees(map[string]string{"bert": "[7]"})
	other.hearsNothing(2 * time.Second)
	livetest.Eventually(t, "a server that comes later knows as much", func() bool {
		opts := present(visible)
		opts.Broker = live.FromPubSub(r)
		late := livetest.Hosting{}.Start(t, opts)
		if _, err := late.ListenPresence("t", func(live.PresenceChange) {}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		return inTopic(late.Server) == "bert 1"
	})
}

// A server without presence runs nothing for it, nor does one where nothing changes.
func TestQuietPresenceRunsNothing(t *testing.T) {
	noGoroutinesLeft(t)
	h := livetest.Hosting{}.Start(t, present(visible))
	c := enter(t, h, "anna", "")
	c.sees(map[string]string{"anna": "[null]"})
	livetest.Eventually(t, "nothing runs", func() bool { return !live.PresenceRuns(h.Server) })
	c.Drop()
	livetest.Eventually(t, "she is gone", func() bool { return h.PresenceCount("t") == 0 })
	livetest.Eventually(t, "nothing is left", func() bool { return live.PresenceLeft(h.Server) == 0 && !live.PresenceRuns(h.Server) })
}
