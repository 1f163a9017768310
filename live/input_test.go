package live_test

import (
	"context"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// Whatever a client sends, the session lives on, the next good message is
// heard, and what was no message is counted.
func TestBadInputIsIgnoredAndCounted(t *testing.T) {
	topics := make(chan string, 10)
	srv, url := serve(t, live.Options{
		OnMessage: func(_ context.Context, _ *live.Session, topic string, _ []byte) { topics <- topic },
	})
	c := dial(t, url)
	bad := []string{
		"", "nonsense", "null", "[]", `"x"`, "{", `{"topic":1}`, "\x00",
		`{"topic":"` + strings.Repeat("x", 300) + `"}`,
		`{"data":` + strings.Repeat(`{"a":`, 100_000),
		`{"data":` + strings.Repeat("[", 1_000_000),
	}
	for _, raw := range bad {
		c.Send(raw)
		c.SendBinary(raw)
	}
	for _, raw := range []string{"\x00\xff", "{\"topic\":\"\xff\"}"} { // as text they would end the session
		bad = append(bad, raw)
		c.SendBinary(raw)
		c.SendBinary(raw)
	}
	c.Send(`{"topic":"good","more":1}`)
	c.SendBinary(`{"topic":"good, in a binary frame"}`)
	for _, want := range []string{"good", "good, in a binary frame"} {
		if got := livetest.Receive(t, topics); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	if st := srv.Stats(); st.Malformed != uint64(2*len(bad)) || st.Received != st.Malformed+2 || st.Sessions != 1 {
		t.Fatalf("%+v", st)
	}
}

func TestWithoutOnMessageInputIsDropped(t *testing.T) {
	opts, sessions := livetest.Connected(live.Options{})
	srv, url := serve(t, opts)
	c, s := pair(t, url, sessions)
	c.SendMessage("t", 1)
	livetest.Eventually(t, "the message", func() bool { return srv.Stats().Received == 1 })
	s.Send(live.Message{Topic: "still here"})
	c.Hears("still here", "")
}

func TestReadLimitIsExact(t *testing.T) {
	got := make(chan int, 1)
	_, url := serve(t, live.Options{
		ReadLimit: 1000,
		OnMessage: func(_ context.Context, _ *live.Session, _ string, data []byte) { got <- len(data) },
	})
	c := dial(t, url)
	const around = len(`{"data":""}`)
	c.Send(`{"data":"` + strings.Repeat("x", 1000-around) + `"}`)
	if n := livetest.Receive(t, got); n != 1000-around+2 {
		t.Fatal(n)
	}
	c.Send(`{"data":"` + strings.Repeat("x", 1001-around) + `"}`)
	if code, _, _ := c.Closed(); code != live.CloseTooBig {
		t.Fatal(code)
	}
}
