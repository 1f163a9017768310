package live_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// An object without op is a plain message, whatever else it has.
func TestObjectWithoutOpGoesToOnMessage(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnMessage = livetest.Echo
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	for _, test := range []struct{ send, want string }{
		{`{"topic":"t","data":1}`, `{"topic":"t","data":1}`},
		{`{"topic":"t"}`, `{"topic":"t"}`},
		{`{"data":[1]}`, `{"data":[1]}`},
		{`{}`, `{}`},
		{`{"topic":"t","data":2,"more":{"x":1}}`, `{"topic":"t","data":2}`},
		{`{"topic":"t","data":3,"id":"mine"}`, `{"topic":"t","data":3}`},
		{`{"topic":"t","data":4,"since":7,"last":"x","limit":[]}`, `{"topic":"t","data":4}`},
		{`{"topic":"t","data":5,"Op":"subscribe","id":5}`, `{"topic":"t","data":5}`},
		{`[{"topic":"t","data":6}]`, `{"topic":"t","data":6}`},
	} {
		livetest.Same(t, test.send, c.Do(test.send).Raw, test.want)
	}
	c.Send(`[{"topic":"a"},{"op":"subscribe","id":1,"topic":"t"},{"topic":"b"}]`)
	for _, want := range []string{`{"topic":"a"}`, `{"op":"reply","id":1}`, `{"topic":"b"}`} {
		livetest.Same(t, "mixed", c.Next().Raw, want)
	}
}

// A plain client beside others hears the publications, and nothing else: no
// hello, no position, no gap, no reply.
func TestPlainClientNoticesNothingOfTheProtocol(t *testing.T) {
	t.Parallel()
	var server *live.Server
	opts := livetest.Permissive()
	opts.OnMessage = livetest.Subscriber(&server).OnMessage
	opts.PingInterval, opts.PingTimeout = 200*time.Millisecond, livetest.Patience
	server = livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	plain := livetest.Dial(t, at)
	plain.Subscribe("chat")
	plain.Send(`{"op":"subscribe","id":1,"topic":"t"}`) // a message on topic t, like any
	livetest.Check(t, "the plain client", plain.Read(), `{"topic":"t"}`)
	plain.Send(`[{"op":"subscribe","id":1,"topic":"t"}]`) // ignored
	plain.Send(`nonsense`)

	other := livetest.DialV1(t, at)
	other.Must(livetest.SubscribeTo(1, "chat"))
	for i := range 3 {
		other.Send(fmt.Sprintf(`{"op":"publish","topic":"chat","data":%d}`, i))
		if f := other.Hears("chat", fmt.Sprint(i))[0]; f.At == "" {
			t.Error("the other hears no position")
		}
		livetest.Check(t, "the plain client", plain.Read(), fmt.Sprintf(`{"topic":"chat","data":%d}`, i))
	}
	other.Mute()
	for pinged := 0; pinged < 3; { // the other is pinged in text, which takes a while
		switch text := other.Read(); text {
		case `{"op":"ping"}`:
			pinged++
		default:
			t.Fatalf("got %s", text)
		}
	}
	if st := server.Stats(); st.Malformed != 2 {
		t.Errorf("%d malformed, want 2", st.Malformed)
	}
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	go server.Shutdown(ctx)
	if got, code := plain.Rest(); len(got) != 0 || code != live.CloseRestart {
		t.Errorf("the plain client got %v and code %d, want none and 1012", got, code)
	}
}
