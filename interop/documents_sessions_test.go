package interop

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	gorilla "github.com/gorilla/websocket"

	"github.com/livetopic/livetopic/interop/documents"
	"github.com/livetopic/livetopic/interop/documents/program"
	"github.com/livetopic/livetopic/live"
)

func TestSessionLifecycle(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var log documents.Log
		at := serve(t, p.Lifecycle(&log))

		if status := refusal(t, at, nil); status != http.StatusUnauthorized {
			t.Errorf("an error of OnAuth was answered with %d, want 401", status)
		}

		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		var aliceID, bobID string
		fmt.Sscanf(alice.ask(`{"topic":"join"}`), `{"topic":"id","data":%q}`, &aliceID)
		fmt.Sscanf(bob.ask(`{"topic":"join"}`), `{"topic":"id","data":%q}`, &bobID)
		if aliceID == "" || bobID == "" || aliceID == bobID {
			t.Fatalf("IDs are %q and %q", aliceID, bobID)
		}
		// It is the same for every message.
		check(t, "alice", alice.ask(`{"topic":"id"}`), `{"topic":"id","data":"`+aliceID+`"}`)

		// Subscriptions are the server's.
		check(t, "alice", alice.ask(`{"topic":"say","data":"hi"}`), `{"topic":"chat:room1","data":"hi"}`)
		check(t, "alice", alice.read(), `{"topic":"id","data":"`+aliceID+`"}`)
		check(t, "bob", bob.read(), `{"topic":"chat:room1","data":"hi"}`)
		check(t, "bob", bob.ask(`{"topic":"leave"}`), `{"topic":"id","data":"`+bobID+`"}`)
		check(t, "alice", alice.ask(`{"topic":"say","data":"alone"}`), `{"topic":"chat:room1","data":"alone"}`)
		check(t, "alice", alice.read(), `{"topic":"id","data":"`+aliceID+`"}`)
		check(t, "bob, who left,", bob.ask(`{"topic":"id"}`), `{"topic":"id","data":"`+bobID+`"}`)

		// The client ends one, the server the other.
		alice.leave()
		bob.send(`{"topic":"close"}`)
		if got, _ := bob.rest(); len(got) != 0 {
			t.Errorf("bob got %v after Close", got)
		}
		want := []string{
			"Closed " + aliceID + " of alice: true, true", "Session already closed",
			"Closed " + bobID + " of bob: true, true", "Session already closed",
		}
		await(t, "both OnClose", func() bool {
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
	c := join(t, serve(t, program.All.Lifecycle(&log)), "alice")
	c.send(`{"topic":"join"}`)
	c.send(`{"topic":"say","data":"last words"}`)
	c.send(`{"topic":"close"}`)
	got, code := c.rest()
	if len(got) != 3 || got[1] != `{"topic":"chat:room1","data":"last words"}` {
		t.Errorf("got %v", got)
	}
	if code != live.CloseNormal {
		t.Errorf("close code %d, want 1000", code)
	}
}

func TestSessionOutOfItsTopicsWhenItHasClosed(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var online sync.Map
		at := serve(t, p.PresenceTracking(&online))
		for range 20 { // each would hear the next, were it still subscribed
			c := join(t, at, "alice")
			check(t, "alice", c.ask(`{"topic":"init","data":{}}`), `{"topic":"presence","data":{"type":"join","user":"alice"}}`)
			c.leave()
			await(t, "OnClose", func() bool { _, ok := online.Load("alice"); return !ok })
		}
	})
}

func TestSendErrorsAreComparedWithEquals(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var log documents.Log
		conn := dialUnread(t, serve(t, p.SendErrors(&log)))
		if err := conn.WriteMessage(gorilla.TextMessage, []byte(`{"topic":"go"}`)); err != nil {
			t.Fatal(err)
		}
		want := []string{"Queue full, session closed", "Session already closed", "IsClosed: true", "Client couldn't keep up"}
		await(t, "four lines", func() bool { return len(log.Lines()) == len(want) })
		if got := log.Lines(); !slices.Equal(got, want) {
			t.Errorf("logged %q, want %q", got, want)
		}
	})
}

// dialUnread connects a client that reads nothing, with small buffers.
func dialUnread(t testing.TB, e endpoint) *gorilla.Conn {
	t.Helper()
	d := gorilla.Dialer{TLSClientConfig: e.tls, NetDial: func(network, addr string) (net.Conn, error) {
		conn, err := net.Dial(network, addr)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return conn, err
	}}
	conn, _, err := d.Dial(e.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.NetConn().Close() })
	return conn
}

func TestUserAuthentication(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var log documents.Log
		at := serve(t, p.Authentication(&log))
		for _, token := range []string{"", "Bearer mallory"} {
			if status := refusal(t, at, http.Header{"Authorization": {token}}); status != http.StatusUnauthorized {
				t.Errorf("token %q was answered with %d, want 401", token, status)
			}
		}
		alice := libraries[0].connect(t, at, http.Header{"Authorization": {"Bearer alice"}})
		bob := libraries[0].connect(t, at, http.Header{"Authorization": {"Bearer bob"}})

		check(t, "alice, an admin,", alice.ask(`{"topic":"admin","data":"reboot"}`), `{"topic":"handled","data":"reboot"}`)
		check(t, "bob, a member,", bob.ask(`{"topic":"admin","data":"reboot"}`), `{"topic":"error","data":"unauthorized"}`)
		check(t, "bob", bob.ask(`{"topic":"chat","data":"hi"}`), `{"topic":"handled","data":"hi"}`)

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
		at := serve(t, handler)
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		check(t, "alice", alice.ask(initial), welcome)
		check(t, "bob", bob.ask(initial), welcome)

		publish("user:alice", []byte(`1`))
		publish("global", []byte(`2`))
		check(t, "alice", alice.read(), `{"topic":"user:alice","data":1}`)
		check(t, "alice", alice.read(), `{"topic":"global","data":2}`)
		check(t, "bob", bob.read(), `{"topic":"global","data":2}`)

		// And an explicit subscription.
		bob.send(`{"topic":"subscribe","data":{"topic":"news"}}`)
		bob.settle(publish)
		publish("news", []byte(`3`))
		publish("global", []byte(`4`))
		check(t, "bob", bob.read(), `{"topic":"news","data":3}`)
		check(t, "bob", bob.read(), `{"topic":"global","data":4}`)
		check(t, "alice", alice.read(), `{"topic":"global","data":4}`)
	})
}

func TestClientThatReconnectsInitsAgain(t *testing.T) {
	const initial, welcome = `{"topic":"init","data":{}}`, `{"topic":"welcome","data":{"status":"connected"}}`
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		handler, publish := p.AutoSubscribe()
		at := serve(t, handler)
		c := join(t, at, "alice")
		check(t, "alice", c.ask(initial), welcome)
		for i, disconnect := range []func(){c.leave, c.drop} {
			disconnect()
			publish("user:alice", []byte(`"missed: nobody is there"`))

			c = join(t, at, "alice")
			publish("user:alice", []byte(`"missed: not subscribed yet"`))
			check(t, "alice", c.ask(initial), welcome)
			publish("user:alice", fmt.Appendf(nil, `%d`, i))
			check(t, "alice", c.read(), fmt.Sprintf(`{"topic":"user:alice","data":%d}`, i))
		}
	})
}

func TestPresenceTracking(t *testing.T) {
	const initial = `{"topic":"init","data":{}}`
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var online sync.Map
		at := serve(t, p.PresenceTracking(&online))
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		check(t, "alice", alice.ask(initial), `{"topic":"presence","data":{"type":"join","user":"alice"}}`)
		const bobJoined = `{"topic":"presence","data":{"type":"join","user":"bob"}}`
		check(t, "bob", bob.ask(initial), bobJoined)
		check(t, "alice", alice.read(), bobJoined)
		for _, user := range []string{"alice", "bob"} {
			if id, ok := online.Load(user); !ok || id == "" {
				t.Errorf("%s is not online", user)
			}
		}

		bob.drop() // without a word
		check(t, "alice", alice.read(), `{"topic":"presence","data":{"type":"leave","user":"bob"}}`)
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
		at := serve(t, p.DirectMessaging())
		alice, bob, carol := join(t, at, "alice"), join(t, at, "bob"), join(t, at, "carol")
		for _, c := range []*client{alice, bob, carol} {
			check(t, "a client", c.ask(`{"topic":"init"}`), `{"topic":"welcome"}`)
		}
		alice.send(`{"topic":"dm","data":{"to":"bob","text":"psst"}}`)
		check(t, "bob", bob.read(), `{"topic":"dm","data":{"from":"alice","text":"psst"}}`)
		bob.send(`{"topic":"dm","data":{"to":"alice","text":"what?"}}`)
		check(t, "alice", alice.read(), `{"topic":"dm","data":{"from":"bob","text":"what?"}}`)
		check(t, "carol, to whom nobody wrote,", carol.ask(`{"topic":"dm","data":{"to":"carol","text":"note to self"}}`),
			`{"topic":"dm","data":{"from":"carol","text":"note to self"}}`)

		// Who has left gets nothing, and it harms nobody.
		bob.leave()
		alice.send(`{"topic":"dm","data":{"to":"bob","text":"still there?"}}`)
		check(t, "alice", alice.ask(`{"topic":"dm","data":{"to":"alice","text":"he left"}}`), `{"topic":"dm","data":{"from":"alice","text":"he left"}}`)
	})
}

func TestRoomManagement(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		at := serve(t, p.RoomManagement())
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		check(t, "alice", alice.ask(`{"topic":"join_room","data":{"room":"go"}}`), `{"topic":"room:go","data":{"type":"join","user":"alice"}}`)
		const joined = `{"topic":"room:go","data":{"type":"join","user":"bob"}}`
		check(t, "bob", bob.ask(`{"topic":"join_room","data":{"room":"go"}}`), joined)
		check(t, "alice", alice.read(), joined)

		const said = `{"topic":"room:go","data":{"text":"hi","type":"message","user":"bob"}}`
		check(t, "bob", bob.ask(`{"topic":"room_message","data":{"room":"go","text":"hi"}}`), said)
		check(t, "alice", alice.read(), said)

		// Who leaves hears of it, and of nothing after.
		const left = `{"topic":"room:go","data":{"type":"leave","user":"bob"}}`
		check(t, "bob", bob.ask(`{"topic":"leave_room","data":{"room":"go"}}`), left)
		check(t, "alice", alice.read(), left)
		check(t, "bob, in a new room,", bob.ask(`{"topic":"join_room","data":{"room":"c"}}`), `{"topic":"room:c","data":{"type":"join","user":"bob"}}`)
		check(t, "alice", alice.ask(`{"topic":"room_message","data":{"room":"go","text":"bye"}}`),
			`{"topic":"room:go","data":{"text":"bye","type":"message","user":"alice"}}`)
		check(t, "bob", bob.ask(`{"topic":"room_message","data":{"room":"c","text":"hello?"}}`),
			`{"topic":"room:c","data":{"text":"hello?","type":"message","user":"bob"}}`)
	})
}

func TestHandleCloseGracefully(t *testing.T) {
	withPrograms(t, func(t *testing.T, p documents.Programs) {
		var onlineUsers, userSessions sync.Map
		at := serve(t, p.GracefulClose(&onlineUsers, &userSessions))
		alice, bob := join(t, at, "alice"), join(t, at, "bob")
		check(t, "alice", alice.ask(`{"topic":"init","data":{}}`), `{"topic":"welcome"}`)
		check(t, "bob", bob.ask(`{"topic":"init","data":{}}`), `{"topic":"welcome"}`)
		bob.leave()
		check(t, "alice", alice.read(), `{"topic":"presence","data":{"type":"leave","user":"bob"}}`)
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
