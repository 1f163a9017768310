package interop

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/interop/documents"
	"github.com/livetopic/livetopic/interop/documents/program"
	"github.com/livetopic/livetopic/live"
)

func TestSessionLifecycle(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var log documents.Log
		at := livetest.Serve(t, p.Lifecycle(&log))

		if status := livetest.Refusal(t, at, nil); status != http.StatusUnauthorized {
			t.Errorf("an error of OnAuth was answered with %d, want 401", status)
		}

		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		var aliceID, bobID string
		fmt.Sscanf(alice.Ask(`{"topic":"join"}`), `{"topic":"id","data":%q}`, &aliceID)
		fmt.Sscanf(bob.Ask(`{"topic":"join"}`), `{"topic":"id","data":%q}`, &bobID)
		if aliceID == "" || bobID == "" || aliceID == bobID {
			t.Fatalf("IDs are %q and %q", aliceID, bobID)
		}
		// It is the same for every message.
		livetest.Check(t, "alice", alice.Ask(`{"topic":"id"}`), `{"topic":"id","data":"`+aliceID+`"}`)

		// Subscriptions are the server's.
		livetest.Check(t, "alice", alice.Ask(`{"topic":"say","data":"hi"}`), `{"topic":"chat:room1","data":"hi"}`)
		livetest.Check(t, "alice", alice.Read(), `{"topic":"id","data":"`+aliceID+`"}`)
		livetest.Check(t, "bob", bob.Read(), `{"topic":"chat:room1","data":"hi"}`)
		livetest.Check(t, "bob", bob.Ask(`{"topic":"leave"}`), `{"topic":"id","data":"`+bobID+`"}`)
		livetest.Check(t, "alice", alice.Ask(`{"topic":"say","data":"alone"}`), `{"topic":"chat:room1","data":"alone"}`)
		livetest.Check(t, "alice", alice.Read(), `{"topic":"id","data":"`+aliceID+`"}`)
		livetest.Check(t, "bob, who left,", bob.Ask(`{"topic":"id"}`), `{"topic":"id","data":"`+bobID+`"}`)

		// The client ends one, the server the other.
		alice.Leave()
		bob.Send(`{"topic":"close"}`)
		if got, _ := bob.Rest(); len(got) != 0 {
			t.Errorf("bob got %v after Close", got)
		}
		want := []string{
			"Closed " + aliceID + " of alice: true, true", "Session already closed",
			"Closed " + bobID + " of bob: true, true", "Session already closed",
		}
		livetest.Eventually(t, "both OnClose", func() bool {
			lines := strings.Join(log.Lines(), "\n")
			return strings.Contains(lines, want[0]) && strings.Contains(lines, want[2]) &&
				strings.Count(lines, want[1]) == 2
		})
		if first := log.Lines()[0]; first != "Message from session: "+aliceID {
			t.Errorf("the first line of the log is %q", first)
		}
	})
}

// What mizu's page only says, "closes the connection gracefully", is here a
// promise: the client gets what was queued, and code 1000.
func TestSessionCloseIsGraceful(t *testing.T) {
	var log documents.Log
	c := join(t, livetest.Serve(t, program.All.Lifecycle(&log)), "alice")
	c.Send(`{"topic":"join"}`)
	c.Send(`{"topic":"say","data":"last words"}`)
	c.Send(`{"topic":"close"}`)
	got, code := c.Rest()
	if len(got) != 3 || got[1].Raw != `{"topic":"chat:room1","data":"last words"}` {
		t.Errorf("got %v", got)
	}
	if code != live.CloseNormal {
		t.Errorf("close code %d, want 1000", code)
	}
}

func TestSessionOutOfItsTopicsWhenItHasClosed(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var online sync.Map
		at := livetest.Serve(t, p.PresenceTracking(&online))
		for range 20 { // each would hear the next, were it still subscribed
			c := join(t, at, "alice")
			livetest.Check(t, "alice", c.Ask(`{"topic":"init","data":{}}`), `{"topic":"presence","data":{"type":"join","user":"alice"}}`)
			c.Leave()
			livetest.Eventually(t, "OnClose", func() bool { _, ok := online.Load("alice"); return !ok })
		}
	})
}

func TestSendErrorsAreComparedWithEquals(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var log documents.Log
		livetest.Connect(t, livetest.Serve(t, p.SendErrors(&log)), livetest.Dialing{Buffer: livetest.SmallBuffer}).Send(`{"topic":"go"}`)
		want := []string{"Queue full, session closed", "Session already closed", "IsClosed: true", "Client couldn't keep up"}
		livetest.Eventually(t, "four lines", func() bool { return len(log.Lines()) == len(want) })
		if got := log.Lines(); !slices.Equal(got, want) {
			t.Errorf("logged %q, want %q", got, want)
		}
	})
}

func TestUserAuthentication(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var log documents.Log
		at := livetest.Serve(t, p.Authentication(&log))
		for _, token := range []string{"", "Bearer mallory"} {
			if status := livetest.Refusal(t, at, http.Header{"Authorization": {token}}); status != http.StatusUnauthorized {
				t.Errorf("token %q was answered with %d, want 401", token, status)
			}
		}
		alice := livetest.Connect(t, at, livetest.Dialing{Header: http.Header{"Authorization": {"Bearer alice"}}}).Attend()
		bob := livetest.Connect(t, at, livetest.Dialing{Header: http.Header{"Authorization": {"Bearer bob"}}}).Attend()

		livetest.Check(t, "alice, an admin,", alice.Ask(`{"topic":"admin","data":"reboot"}`), `{"topic":"handled","data":"reboot"}`)
		livetest.Check(t, "bob, a member,", bob.Ask(`{"topic":"admin","data":"reboot"}`), `{"topic":"error","data":"unauthorized"}`)
		livetest.Check(t, "bob", bob.Ask(`{"topic":"chat","data":"hi"}`), `{"topic":"handled","data":"hi"}`)

		want := []string{"Message from user: Alice", "Message from user: Bob", "Message from user: Bob"}
		if got := log.Lines(); !slices.Equal(got, want) {
			t.Errorf("logged %q, want %q", got, want)
		}
	})
}

func TestAutoSubscribeOnInit(t *testing.T) {
	const initial, welcome = `{"topic":"init","data":{}}`, `{"topic":"welcome","data":{"status":"connected"}}`
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.AutoSubscribe()
		at := livetest.Serve(t, handler)
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		livetest.Check(t, "alice", alice.Ask(initial), welcome)
		livetest.Check(t, "bob", bob.Ask(initial), welcome)

		publish("user:alice", []byte(`1`))
		publish("global", []byte(`2`))
		livetest.Check(t, "alice", alice.Read(), `{"topic":"user:alice","data":1}`)
		livetest.Check(t, "alice", alice.Read(), `{"topic":"global","data":2}`)
		livetest.Check(t, "bob", bob.Read(), `{"topic":"global","data":2}`)

		// And an explicit subscription.
		bob.Send(`{"topic":"subscribe","data":{"topic":"news"}}`)
		settle(t, bob, publish)
		publish("news", []byte(`3`))
		publish("global", []byte(`4`))
		livetest.Check(t, "bob", bob.Read(), `{"topic":"news","data":3}`)
		livetest.Check(t, "bob", bob.Read(), `{"topic":"global","data":4}`)
		livetest.Check(t, "alice", alice.Read(), `{"topic":"global","data":4}`)
	})
}

func TestClientThatReconnectsInitsAgain(t *testing.T) {
	const initial, welcome = `{"topic":"init","data":{}}`, `{"topic":"welcome","data":{"status":"connected"}}`
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.AutoSubscribe()
		at := livetest.Serve(t, handler)
		c := join(t, at, "alice")
		livetest.Check(t, "alice", c.Ask(initial), welcome)
		for i, disconnect := range []func(){c.Leave, c.Drop} {
			disconnect()
			publish("user:alice", []byte(`"missed: nobody is there"`))

			c = join(t, at, "alice")
			publish("user:alice", []byte(`"missed: not subscribed yet"`))
			livetest.Check(t, "alice", c.Ask(initial), welcome)
			publish("user:alice", fmt.Appendf(nil, `%d`, i))
			livetest.Check(t, "alice", c.Read(), fmt.Sprintf(`{"topic":"user:alice","data":%d}`, i))
		}
	})
}

func TestPresenceTracking(t *testing.T) {
	const initial = `{"topic":"init","data":{}}`
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var online sync.Map
		at := livetest.Serve(t, p.PresenceTracking(&online))
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		livetest.Check(t, "alice", alice.Ask(initial), `{"topic":"presence","data":{"type":"join","user":"alice"}}`)
		const bobJoined = `{"topic":"presence","data":{"type":"join","user":"bob"}}`
		livetest.Check(t, "bob", bob.Ask(initial), bobJoined)
		livetest.Check(t, "alice", alice.Read(), bobJoined)
		for _, user := range []string{"alice", "bob"} {
			if id, ok := online.Load(user); !ok || id == "" {
				t.Errorf("%s is not online", user)
			}
		}

		bob.Drop() // without a word
		livetest.Check(t, "alice", alice.Read(), `{"topic":"presence","data":{"type":"leave","user":"bob"}}`)
		if _, ok := online.Load("bob"); ok {
			t.Error("bob is still online")
		}
		if _, ok := online.Load("alice"); !ok {
			t.Error("alice is no longer online")
		}
	})
}

func TestDirectMessaging(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		at := livetest.Serve(t, p.DirectMessaging())
		alice, bob, carol := join(t, at, "alice"), join(t, at, "bob"), join(t, at, "carol")
		for _, c := range []*livetest.Client{alice, bob, carol} {
			livetest.Check(t, "a client", c.Ask(`{"topic":"init"}`), `{"topic":"welcome"}`)
		}
		alice.Send(`{"topic":"dm","data":{"to":"bob","text":"psst"}}`)
		livetest.Check(t, "bob", bob.Read(), `{"topic":"dm","data":{"from":"alice","text":"psst"}}`)
		bob.Send(`{"topic":"dm","data":{"to":"alice","text":"what?"}}`)
		livetest.Check(t, "alice", alice.Read(), `{"topic":"dm","data":{"from":"bob","text":"what?"}}`)
		livetest.Check(t, "carol, to whom nobody wrote,", carol.Ask(`{"topic":"dm","data":{"to":"carol","text":"note to self"}}`),
			`{"topic":"dm","data":{"from":"carol","text":"note to self"}}`)

		// Who has left gets nothing, and it harms nobody.
		bob.Leave()
		alice.Send(`{"topic":"dm","data":{"to":"bob","text":"still there?"}}`)
		livetest.Check(t, "alice", alice.Ask(`{"topic":"dm","data":{"to":"alice","text":"he left"}}`), `{"topic":"dm","data":{"from":"alice","text":"he left"}}`)
	})
}

func TestRoomManagement(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		at := livetest.Serve(t, p.RoomManagement())
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		livetest.Check(t, "alice", alice.Ask(`{"topic":"join_room","data":{"room":"go"}}`), `{"topic":"room:go","data":{"type":"join","user":"alice"}}`)
		const joined = `{"topic":"room:go","data":{"type":"join","user":"bob"}}`
		livetest.Check(t, "bob", bob.Ask(`{"topic":"join_room","data":{"room":"go"}}`), joined)
		livetest.Check(t, "alice", alice.Read(), joined)

		const said = `{"topic":"room:go","data":{"text":"hi","type":"message","user":"bob"}}`
		livetest.Check(t, "bob", bob.Ask(`{"topic":"room_message","data":{"room":"go","text":"hi"}}`), said)
		livetest.Check(t, "alice", alice.Read(), said)

		// Who leaves hears of it, and of nothing after.
		const left = `{"topic":"room:go","data":{"type":"leave","user":"bob"}}`
		livetest.Check(t, "bob", bob.Ask(`{"topic":"leave_room","data":{"room":"go"}}`), left)
		livetest.Check(t, "alice", alice.Read(), left)
		livetest.Check(t, "bob, in a new room,", bob.Ask(`{"topic":"join_room","data":{"room":"c"}}`), `{"topic":"room:c","data":{"type":"join","user":"bob"}}`)
		livetest.Check(t, "alice", alice.Ask(`{"topic":"room_message","data":{"room":"go","text":"bye"}}`),
			`{"topic":"room:go","data":{"text":"bye","type":"message","user":"alice"}}`)
		livetest.Check(t, "bob", bob.Ask(`{"topic":"room_message","data":{"room":"c","text":"hello?"}}`),
			`{"topic":"room:c","data":{"text":"hello?","type":"message","user":"bob"}}`)
	})
}

func TestHandleCloseGracefully(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var onlineUsers, userSessions sync.Map
		at := livetest.Serve(t, p.GracefulClose(&onlineUsers, &userSessions))
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		livetest.Check(t, "alice", alice.Ask(`{"topic":"init","data":{}}`), `{"topic":"welcome"}`)
		livetest.Check(t, "bob", bob.Ask(`{"topic":"init","data":{}}`), `{"topic":"welcome"}`)
		bob.Leave()
		livetest.Check(t, "alice", alice.Read(), `{"topic":"presence","data":{"type":"leave","user":"bob"}}`)
		_, online := onlineUsers.Load("bob")
		_, reachable := userSessions.Load("bob")
		if online || reachable {
			t.Errorf("bob is online: %v, reachable: %v", online, reachable)
		}
		if _, ok := userSessions.Load("alice"); !ok {
			t.Error("alice is not reachable")
		}
	})
}

// A request that is no WebSocket handshake is answered, not upgraded.
func TestPlainRequestIsAnswered(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		w := httptest.NewRecorder()
		p.SingleSession().ServeHTTP(w, httptest.NewRequest("GET", "/ws", nil))
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "websocket upgrade required") {
			t.Errorf("answered %d %q, want 400 and what is required", w.Code, w.Body)
		}
	})
}
