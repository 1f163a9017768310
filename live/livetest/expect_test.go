package livetest_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetest"
)

// failing are tests that must fail. The failure must have the text, and must point to a line that
// ends with the comment "fails".
var failing = []struct {
	name, text string
	test       func(t testing.TB, srv *livetest.Server, c *livetest.Client)
}{
	{"nothing comes", `alice: no message of "room" has come within 10s, want {"text":"hi"}`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Expect("room", map[string]string{"text": "hi"}) // fails
	}},
	{"another topic comes", "other messages have come:\n\t\"room\": 1", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", 1)
		c.Expect("elsewhere", 1) // fails
	}},
	{"without a subscription", `alice has not subscribed to "elsewhere" by itself`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("elsewhere", 1)
		c.Expect("elsewhere", 1) // fails
	}},
	{"another value", ".text: got \"ho\", want \"hi\"\ngot  {\"text\":\"ho\"}\nwant {\"text\":\"hi\"}", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", livetest.JSON(`{"text":"ho"}`))
		c.Expect("room", livetest.JSON(`{"text":"hi"}`)) // fails
	}},
	{"the second of all", "got 3, want 2", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", 1)
		srv.Publish("room", 3)
		c.ExpectAll("room", 1, 2) // fails
	}},
	{"no data", "no data, want 1", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Live.Publish("room", nil)
		c.Expect("room", 1) // fails
	}},
	{"after the end", `the server has closed the connection with 4001 "banned"`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Live.DisconnectUser("alice", "banned")
		c.Expect("room", 1) // fails
	}},
	{"after Close", "no message of \"room\" has come, want 1: the client has closed the connection itself", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Close()
		c.Expect("room", 1) // fails
	}},
	{"a close of the client", "the client has closed the connection itself, want the close code 1001", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Close()
		c.ExpectClosed(1001) // fails
	}},
	{"a close of the server, and Close after it", `the server has closed the connection with 4001 "banned", want the close code 1001`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Live.DisconnectUser("alice", "banned")
		c.ExpectClosed(4001)
		c.Close()
		c.ExpectClosed(1001) // fails
	}},
	{"something comes", "want nothing, but there have come:\n\t\"room\": 1", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", 1)
		c.ExpectNothing("elsewhere")
		c.ExpectNothing("room") // fails
	}},
	{"a client that does not read", "reads slowly, or not at all", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.StopReading()
		c.ExpectNothing() // fails
	}},
	{"a gap for a message", `"kept": a gap, want 1`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Subscribe("kept", livetest.Since("abcdefgh.7"))
		c.Expect("kept", 1) // fails
	}},
	{"a message for a gap", `came "room": 1, want a gap`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", 1)
		c.ExpectGap("room") // fails
	}},
	{"another key", `came "room": key "bob": 1, want the key "ann"`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", 1, live.Key("bob"))
		c.ExpectKey("room", "ann", 1) // fails
	}},
	{"another value of the key", `got 1, want 2`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", 1, live.Key("ann"))
		c.ExpectKey("room", "ann", 2) // fails
	}},
	{"no removal", `want the removal of key "ann"`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", 1, live.Key("ann"))
		c.ExpectRemoved("room", "ann") // fails
	}},
	{"no next message", "want a message", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Next("room") // fails
	}},
	{"none is ok", `want a message of which ok is true; the newest: "room": 1`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", 1)
		livetest.Await(c, "room", func(n int) bool { return n == 2 }) // fails
	}},
	{"none is ok, for ever", `no message of "room" of which ok is true has come within 10s`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		ended := make(chan struct{})
		t.Cleanup(func() { close(ended) })
		go func() { // ends with the test
			for {
				select {
				case <-ended:
					return
				case <-time.After(time.Second):
					srv.Live.Publish("room", []byte("1"))
				}
			}
		}()
		livetest.Await(c, "room", func(n int) bool { return n == 2 }) // fails
	}},
	{"another type", "cannot unmarshal", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("room", "text")
		livetest.Await(c, "room", func(n int) bool { return true }) // fails
	}},
	{"no state", `"room" has no state, want 1`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.ExpectState("room", 1) // fails
	}},
	{"another state", `.rows[1]: got 2, want 3`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Subscribe("state")
		c.ExpectState("state", map[string][]int{"rows": {1, 3}}) // fails
	}},
	{"other members", `the members of "hall" are ["alice"], want ["bob"]`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Subscribe("hall")
		c.ExpectMembers("hall", "bob") // fails
	}},
	{"another number of members", `"hall" has 1 members, want 2`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Subscribe("hall")
		c.ExpectCount("hall", 2) // fails
	}},
	{"no number of members", `was not told how many members "room" has`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.ExpectCount("room", 0) // fails
	}},
	{"an error", `subscribe "private" was answered by the error "private": members only`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Subscribe("private") // fails
	}},
	{"no error", `without an error, want the error "private"`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.ExpectError("private", func() { c.Subscribe("public") }) // fails
	}},
	{"another error", `by the error "private" (members only), want "forbidden"`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.ExpectError("forbidden", func() { c.Subscribe("private") }) // fails
	}},
	{"an error of another operation", `publish "private" was answered by the error "private"`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.ExpectError("private", func() { c.Subscribe("private") })
		c.Publish("private", 1) // fails
	}},
	{"an answer of another type", `request "echo" was answered by "text"`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		var n int
		c.Request("echo", "text", &n) // fails
	}},
	{"an operation after the end", "cannot send: the client has cut the connection itself", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Cut()
		c.Subscribe("room") // fails
	}},
	{"a message after the end", "cannot send", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Session().Close()
		c.ExpectClosed(live.CloseNormal)
		c.Send("room", 1) // fails
	}},
	{"Sync after the end", "cannot sync", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Cut()
		c.Sync() // fails
	}},
	{"an operation of a plain client", "a plain client cannot subscribe", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Dial(livetest.Plain()).Subscribe("room") // fails
	}},
	{"no JSON", "cannot be marshalled to JSON", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Send("room", livetest.JSON(`{`)) // fails
	}},
	{"nothing is closed", "the connection is open after 10s, want the close code 4001", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.ExpectClosed(live.CloseRevoked) // fails
	}},
	{"another code", `closed the connection with 4321 "enough", want the close code 4001`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Session().Disconnect(4321, "enough")
		c.ExpectClosed(live.CloseRevoked) // fails
	}},
	{"no code", "the client has cut the connection itself, want the close code 4001", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Cut()
		c.ExpectClosed(live.CloseRevoked) // fails
	}},
	{"no end", "OnClose has not returned after 10s", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.ExpectEnd(nil) // fails
	}},
	{"another end", "live: client does not answer", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Close()
		c.ExpectEnd(live.ErrPingTimeout) // fails
	}},
	{"a publication without a topic", "cannot publish", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Publish("", 1) // fails
	}},
	{"no refusal", "the server has accepted the client, want a refusal with 401", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.ExpectRefused(http.StatusUnauthorized) // fails
	}},
	{"another refusal", "refused the client with 403 Forbidden: forbidden origin", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.ExpectRefused(http.StatusUnauthorized, livetest.Header("Origin", "https://evil.example")) // fails
	}},
	{"a refusal", "bob: the server has refused the client with 403", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Dial(livetest.Name("bob"), livetest.Header("Origin", "https://evil.example")) // fails
	}},
	{"a callback that does not return", "the server has not handled within 10s", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Send("wait", nil)
		c.Sync() // fails
	}},
	{"a callback of another client that does not return", "bob: the server has not handled within 10s", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Dial(livetest.Name("bob"), livetest.Plain()).Send("wait", nil)
		c.ExpectNothing() // fails
	}},
	{"an operation that waits", `subscribe "room" was not answered within 10s`, func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		c.Send("wait", nil)
		c.Subscribe("room") // fails
	}},
	{"a shorter patience", "within 3s", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		srv.Patience = 3 * time.Second
		c.Next("room") // fails
	}},
	{"Value without New", "Value needs New", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		livetest.Serve(t, srv.Live.Handler()).Dial(livetest.Value("bob")) // fails
	}},
	{"Session without New", "Session needs New", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		livetest.Serve(t, srv.Live.Handler()).Dial().Session() // fails
	}},
	{"Publish without New", "Publish needs New", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		livetest.Serve(t, srv.Live.Handler()).Publish("room", 1) // fails
	}},
	{"nothing for a plain client without New", "a plain client of Serve", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		livetest.Serve(t, srv.Live.Handler()).Dial(livetest.Plain()).ExpectNothing() // fails
	}},
	{"a handler that is not live", "does not speak live.v1", func(t testing.TB, srv *livetest.Server, c *livetest.Client) {
		livetest.Serve(t, plainOnly(srv.Live.Handler())).Dial() // fails
	}},
}

// plainOnly drops the subprotocols that a client offers.
func plainOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Sec-Websocket-Protocol")
		h.ServeHTTP(w, r)
	})
}

func TestEachExpectationFailsWhereItShould(t *testing.T) {
	for _, c := range failing {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				f := fake(t, func(t testing.TB) {
					opts, server := open()
					publish, release := opts.OnMessage, make(chan struct{})
					opts.OnMessage = func(ctx context.Context, s *live.Session, topic string, data []byte) {
						if topic == "wait" {
							<-release
							return
						}
						publish(ctx, s, topic, data)
					}
					srv := livetest.New(t, opts)
					*server = srv.Live
					t.Cleanup(func() { close(release) })
					alice := srv.Dial(livetest.Value("alice"))
					alice.Subscribe("room")
					c.test(t, srv, alice)
					alice.ExpectNothing("never reached")
				})
				switch {
				case len(f.failures) == 0:
					t.Fatal("the test has passed")
				case !strings.Contains(f.failures[0], c.text):
					t.Errorf("the failure is\n%s\nwant\n%s", f.failures[0], c.text)
				case !strings.HasSuffix(f.lines[0], "// fails"):
					t.Errorf("the failure points to the line\n%s", f.lines[0])
				}
				if took := time.Since(begun); took > 40*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// A callback that never returns is reported at the end of the test.
func TestCleanupReportsACallbackThatDoesNotReturn(t *testing.T) {
	called, stop := make(chan struct{}), make(chan struct{})
	f := fake(t, func(t testing.TB) {
		srv := livetest.New(t, live.Options{OnMessage: func(context.Context, *live.Session, string, []byte) {
			close(called)
			<-stop
		}})
		srv.Dial().Send("room", 1)
		<-called
		srv.Patience = 100 * time.Millisecond
	})
	close(stop)
	if len(f.failures) != 1 || !strings.Contains(f.failures[0], "a callback is still running") {
		t.Error(f.failures)
	}
}

func TestUnreadMessagesAreNoFailure(t *testing.T) {
	srv := start(t)
	c := srv.Dial()
	c.Subscribe("room")
	srv.Publish("room", 1)
	srv.Publish("room", 2)
	c.Expect("room", 1)
	c.Sync()
	if all := c.Unread(); len(all) != 1 || all[0].String() != `"room": 2` {
		t.Error(all)
	}
}

func TestOnAuthDecidesWithoutAValue(t *testing.T) {
	srv := livetest.New(t, live.Options{OnAuth: func(context.Context, *http.Request) (any, error) {
		return nil, errors.New("nobody")
	}})
	srv.ExpectRefused(http.StatusUnauthorized)
	srv.Dial(livetest.Value(7))
}
