package livetest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetest"
)

// start returns a server of open, on which New has been called.
func start(t testing.TB) *livetest.Server {
	t.Helper()
	opts, server := open()
	s := livetest.New(t, opts)
	*server = s.Live
	return s
}

func TestClientsHearEachOther(t *testing.T) {
	noGoroutinesLeft(t)
	srv := start(t)
	alice, bob := srv.Dial(livetest.Value("alice")), srv.Dial(livetest.Plain())
	alice.Subscribe("room")
	bob.Send("room", livetest.JSON(`{"text":"hi","n":1}`))
	alice.Expect("room", map[string]any{"text": "hi", "n": 1.0})
	bob.Send("elsewhere", "x")
	alice.ExpectNothing()
	bob.ExpectNothing()
	if got := alice.Session().UserID(); got != "alice" {
		t.Errorf("the user is %q", got)
	}
}

// Nothing is proven by ExpectNothing of one client while messages of others are not handled yet.
func TestExpectNothingWaitsForOtherClients(t *testing.T) {
	opts, server := open()
	opts.OnMessage = func(_ context.Context, _ *live.Session, topic string, data []byte) {
		time.Sleep(50 * time.Millisecond) // a slow callback
		(*server).Publish(topic, data)
	}
	for _, option := range []livetest.DialOption{livetest.Plain(), livetest.Name("v1")} {
		f := fake(t, func(t testing.TB) {
			srv := livetest.New(t, opts)
			*server = srv.Live
			alice, bob := srv.Dial(), srv.Dial(option)
			alice.Subscribe("room")
			bob.Send("room", 1)
			alice.ExpectNothing()
		})
		if len(f.failures) != 1 {
			t.Error(f.failures)
		}
	}
}

func TestExpectNothingWaitsForOnClose(t *testing.T) {
	opts, server := open()
	opts.OnClose = func(*live.Session, error) {
		time.Sleep(50 * time.Millisecond)
		(*server).Publish("room", []byte(`"left"`))
	}
	f := fake(t, func(t testing.TB) {
		srv := livetest.New(t, opts)
		*server = srv.Live
		alice, bob := srv.Dial(), srv.Dial()
		alice.Subscribe("room")
		bob.Cut()
		alice.ExpectNothing("other")
		alice.ExpectNothing()
	})
	if len(f.failures) != 1 {
		t.Error(f.failures)
	}
}

func TestDialWaitsForOnConnect(t *testing.T) {
	for _, option := range []livetest.DialOption{livetest.Plain(), livetest.Name("v1")} {
		srv := livetest.New(t, live.Options{OnConnect: func(_ context.Context, s *live.Session) error {
			time.Sleep(50 * time.Millisecond)
			return s.Subscribe("news")
		}})
		c := srv.Dial(option)
		srv.Publish("news", []byte(`"hello"`))
		c.Expect("news", "hello")
	}
}

func TestMessagesOfATopicAreTakenInOrder(t *testing.T) {
	srv := start(t)
	c := srv.Dial()
	c.Subscribe("a")
	c.Subscribe("b")
	srv.Publish("a", 1)
	srv.Publish("b", 2)
	srv.Publish("a", 3)
	c.Expect("b", 2)
	c.ExpectAll("a", 1, 3)
	srv.Publish("a", map[string]int{"n": 4})
	srv.Publish("a", map[string]int{"n": 5})
	srv.Publish("a", 6)
	livetest.Await(c, "a", func(v struct{ N int }) bool { return v.N == 5 })
	srv.Sync()
	if got := c.Next("a"); string(got.Data) != "6" || got.Topic != "a" {
		t.Error(got)
	}
	c.ExpectNothing()
}

func TestOperationsAreAnswered(t *testing.T) {
	srv := start(t)
	c := srv.Dial()
	c.Subscribe("kept")
	first := c.Publish("kept", "one")
	if first == "" || c.Publish("none", 1) != "" {
		t.Error("the positions are wrong")
	}
	c.Expect("kept", "one")
	if c.Position("kept") != first {
		t.Errorf("the position is %q, want %q", c.Position("kept"), first)
	}
	var answer struct{ N int }
	if c.Request("echo", livetest.JSON(`{"n":7}`), &answer); answer.N != 7 {
		t.Error(answer)
	}
	if all := c.History("kept", 10); len(all) != 1 || string(all[0].Data) != `"one"` || all[0].At != first {
		t.Error(all)
	}
	c.Unsubscribe("kept")
	c.Publish("kept", "two")
	c.ExpectNothing()
	c.Subscribe("kept", livetest.Since(first))
	c.Expect("kept", "two")
	srv.Dial().Subscribe("kept", livetest.Last(1))

	for _, operation := range []func(){
		func() { c.Subscribe("private") },
		func() { c.Publish("private", 1) },
		func() { c.Request("private", nil, &answer) },
		func() { c.History("private", 1) },
		func() { c.Subscribe("allowed"); c.Subscribe("private") },
	} {
		if err := c.ExpectError("private", operation); err.Message != "members only" {
			t.Error(err)
		}
	}
	c.ExpectError("no_history", func() { c.History("none", 1) })
}

// Answers that are too large for a frame come in parts.
func TestLargeAnswersAreJoined(t *testing.T) {
	srv := start(t)
	c := srv.Dial()
	large := make([]int, 100_000)
	var answer []int
	if c.Request("echo", large, &answer); len(answer) != len(large) {
		t.Errorf("%d elements", len(answer))
	}
	for range 3 {
		srv.Publish("kept", large)
	}
	if got := c.History("kept", 3); len(got) != 3 {
		t.Errorf("%d messages", len(got))
	}
	c.Subscribe("kept", livetest.Last(3))
	srv.Publish("kept", "new")
	for range 3 {
		if m := c.Next("kept"); !m.Past || len(m.Data) < 2*len(large) {
			t.Errorf("past: %v, %d bytes", m.Past, len(m.Data))
		}
	}
	if m := c.Next("kept"); m.Past || string(m.Data) != `"new"` {
		t.Error(m)
	}
}

func TestReconnectGetsWhatWasMissed(t *testing.T) {
	srv := start(t)
	c := srv.Dial(livetest.Value("alice"))
	c.Subscribe("kept")
	c.Subscribe("none")
	srv.Publish("kept", 1) // it comes before the cut, or after it
	c.Cut()
	c.ExpectEnd(io.EOF)
	srv.Publish("kept", 2)
	srv.Publish("none", 2)
	c.Reconnect()
	srv.Publish("kept", 3)
	srv.Publish("none", 3)
	c.ExpectAll("kept", 1, 2, 3)
	c.Expect("none", 3)
	c.ExpectNothing()

	c.Cut()
	for i := range 5 { // two more than are kept
		srv.Publish("kept", i)
	}
	c.Reconnect()
	c.ExpectGap("kept")
	c.ExpectNothing()
	if c.Session().UserID() != "alice" {
		t.Error("another user has come back")
	}
}

func TestEndsAreSeen(t *testing.T) {
	srv := start(t)
	c := srv.Dial()
	c.Close()
	c.ExpectEnd(nil)
	c.ExpectNothing()

	c = srv.Dial(livetest.Value("bob"))
	c.Session().Disconnect(4321, "enough")
	if reason := c.ExpectClosed(4321); reason != "enough" {
		t.Errorf("the reason is %q", reason)
	}
	c.ExpectEnd(live.ErrDisconnected)

	refusing := livetest.New(t, live.Options{OnConnect: func(context.Context, *live.Session) error { return errors.New("no") }})
	for _, option := range []livetest.DialOption{livetest.Plain(), livetest.Name("v1")} {
		refusing.Dial(option).ExpectClosed(live.CloseRefused)
	}
}

func TestSlowClientIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, _ := open()
		opts.QueueSize = 10
		srv := livetest.New(t, opts)
		c, paced := srv.Dial(), srv.Dial()
		c.Subscribe("room")
		paced.Subscribe("paced")
		c.StopReading()
		for i := range 100 {
			srv.Publish("room", make([]int, 100+i))
		}
		c.ExpectEnd(live.ErrQueueFull)

		begun := time.Now()
		paced.SlowTo(100)
		srv.Publish("paced", make([]int, 300)) // some 600 bytes
		srv.Publish("paced", "end")
		paced.Next("paced")
		if took := time.Since(begun); took < 5500*time.Millisecond || took > 7*time.Second {
			t.Errorf("600 bytes at 100 bytes a second took %v", took)
		}
		paced.ReadOn()
		paced.Expect("paced", "end")
	})
}

// A callback waits while its session ends. The bubble's time goes on.
func TestSessionMayEndDuringACallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const long = time.Minute
		var returned atomic.Bool
		opts, _ := open()
		opts.OnMessage = func(context.Context, *live.Session, string, []byte) {
			time.Sleep(long)
			returned.Store(true)
		}
		ended := make(chan bool, 1)
		opts.OnClose = func(*live.Session, error) { ended <- returned.Load() }
		srv := livetest.New(t, opts)
		c := srv.Dial()
		c.Send("room", 1)
		synctest.Wait()
		c.Cut()
		begun := time.Now()
		if after := <-ended; !after || time.Since(begun) != long {
			t.Errorf("OnClose ran after the callback: %v; after %v", after, time.Since(begun))
		}
	})
}

func TestTimeMayBeFalse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, _ := open()
		opts.PresenceGrace = time.Minute
		opts.Topics = func(topic string) live.TopicOptions {
			return live.TopicOptions{History: 10, HistoryAge: time.Hour, Presence: live.PresenceVisible}
		}
		srv := livetest.New(t, opts)
		alice, bob, plain := srv.Dial(livetest.Value("alice")), srv.Dial(livetest.Value("bob")), srv.Dial(livetest.Plain())
		alice.Subscribe("room")
		bob.Subscribe("room")
		alice.ExpectMembers("room", "alice", "bob")
		srv.Publish("room", 1)
		alice.Expect("room", 1)

		bob.StopReading() // and is found dead after 25 s + 10 s
		time.Sleep(36 * time.Second)
		bob.ExpectEnd(live.ErrPingTimeout)
		alice.ExpectMembers("room", "alice", "bob")
		time.Sleep(time.Minute)
		synctest.Wait()
		alice.ExpectMembers("room", "alice")

		time.Sleep(time.Hour)
		if all := alice.History("room", 10); len(all) != 0 {
			t.Errorf("%v is kept", all)
		}
		alice.ExpectNothing() // it has answered all pings
		plain.ExpectNothing()
	})
}

func TestKeysAndStatesAreSeen(t *testing.T) {
	srv := start(t)
	c := srv.Dial()
	c.Subscribe("table")
	srv.Publish("table", 1, live.Key("ann"))
	c.ExpectKey("table", "ann", 1)
	c.Cut()
	srv.Publish("table", 2, live.Key("ann"))
	srv.Publish("table", 3, live.Key("bob"))
	srv.Live.Remove("table", "bob")
	c.Reconnect()
	c.ExpectKey("table", "ann", 2)
	c.ExpectRemoved("table", "bob")
	c.ExpectNothing()

	c.Subscribe("state")
	c.ExpectState("state", map[string]any{"rows": []any{1, livetest.Any}})
	srv.Publish("state", "change")
	c.Expect("state", "change")
}

func TestMembersAreSeen(t *testing.T) {
	srv := start(t)
	alice, bob := srv.Dial(livetest.Value("alice")), srv.Dial(livetest.Value("bob"))
	alice.Subscribe("hall", livetest.Info("typing"))
	alice.ExpectMembers("hall", "alice")
	bob.Present("hall", "here")
	alice.ExpectMembers("hall", "bob", "alice")
	alice.ExpectCount("hall", 2)
	bob.Absent("hall")
	alice.ExpectMembers("hall", "alice")
	bob.Subscribe("hall", livetest.Unseen())
	bob.ExpectMembers("hall", "alice")
	alice.Unsubscribe("hall")
	bob.ExpectMembers("hall")

	bob.Subscribe("counted")
	bob.ExpectCount("counted", 1)
}

// A handler behind a middleware, with its own ways to sign in.
func TestApplicationIsServed(t *testing.T) {
	noGoroutinesLeft(t)
	opts, server := open()
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		if token := live.Token(r); token != "" {
			return token, nil
		}
		if cookie, err := r.Cookie("user"); err == nil {
			return cookie.Value, nil
		}
		if user := r.Header.Get("X-User") + r.FormValue("user"); user != "" {
			return user, nil
		}
		return nil, errors.New("who is it?")
	}
	opts.OnRequest = func(_ context.Context, s *live.Session, _ string, _ []byte) (any, error) { return s.UserID(), nil }
	*server = live.New(opts)
	t.Cleanup(func() { (*server).Shutdown(context.Background()) })
	srv := livetest.Serve(t, mounted(*server))

	browser := srv.Client()
	resp, err := browser.PostForm(srv.URL+"/login", url.Values{"user": {"ana"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, option := range []livetest.DialOption{
		livetest.Cookie("user", "ana"), livetest.Token("ana"), livetest.PageToken("ana"), livetest.Header("X-User", "ana"),
		livetest.Path("/live?user=ana"), livetest.As(browser),
	} {
		c := srv.Dial(option, livetest.Name("ana's page"))
		var user string
		if c.Request("who", nil, &user); user != "ana" {
			t.Errorf("it is %q", user)
		}
		c.Subscribe("room")
		c.Send("room", "hi")
		c.Expect("room", "hi")
		c.Sync()
		c.ExpectNothing()
	}
	if text := srv.ExpectRefused(http.StatusUnauthorized); text != "authentication failed" {
		t.Errorf("the text is %q", text)
	}
	srv.ExpectRefused(http.StatusNotFound, livetest.Path("/elsewhere"))
	srv.ExpectRefused(http.StatusForbidden, livetest.Token("ana"), livetest.Header("Origin", "https://evil.example"))
	plain := srv.Dial(livetest.Token("ana"), livetest.Plain())
	plain.Send("room", "hi")
	srv.Sync()
	plain.Cut()
	srv.Sync()
}
