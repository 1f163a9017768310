// Package livetest tests handlers of package live. A test connects clients to the application's own
// server, sends, and says what must come. It needs no port, no sleep and no browser.
//
//	func TestPagesInARoomHearEachOther(t *testing.T) {
//		srv := livetest.New(t, options()) // the application's live.Options
//		alice := srv.Dial(livetest.Value("alice"))
//		bob := srv.Dial(livetest.Value("bob"))
//		alice.Subscribe("room:1")
//		bob.Subscribe("room:2")
//
//		bob.Publish("room:1", map[string]any{"text": "hi"})
//
//		alice.Expect("room:1", map[string]any{"text": "hi", "by": "bob"})
//		bob.ExpectNothing()
//		bob.ExpectError("forbidden", func() { bob.Subscribe("admins") })
//	}
//
// New makes a live.Server of options. Its clients may have any Session.Value without signing in.
// Serve takes any http.Handler instead, for example the whole application with its middlewares, and
// clients sign in as pages and programs do.
//
// # Waiting
//
// A method that begins with Expect waits for what must happen, and the test fails if it does not happen
// within Server.Patience. Expect takes the messages of a topic one after another, so a test says
// all that a topic brings. Messages at which the test never looks are no failure. Client.Unread
// returns them, and Client.ExpectNothing says that there must be none.
//
// ExpectNothing does not sleep either. It asks the server something that the server answers last.
// Client.Sync says what that proves.
//
// # Time
//
// Connections are in memory. So a test may run in a bubble of testing/synctest, where hours pass at once:
//
//	synctest.Test(t, func(t *testing.T) {
//		srv := livetest.New(t, options())
//		alice := srv.Dial()
//		alice.StopReading()
//		time.Sleep(36 * time.Second) // PingInterval and PingTimeout, and a second more
//		alice.ExpectEnd(live.ErrPingTimeout)
//	})
//
// A callback that is still running when its session ends holds up the time of a bubble. A test of
// such a callback has to end the callback first, or run without a bubble.
//
// # Clients in trouble
//
// Client.StopReading and Client.SlowTo make a client slow. Client.Cut ends its connection without a
// word, and Client.Reconnect brings it back with its positions, as live.js does.
package livetest
