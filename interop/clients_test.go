package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// withEach runs a test with each client library, over plain TCP and over TLS.
func withEach(t *testing.T, test func(t *testing.T, l library, serve livetest.Serving)) {
	for _, l := range libraries {
		t.Run(l.name, func(t *testing.T) {
			livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) { test(t, l, serve) })
		})
	}
}

func TestClientHearsItsEcho(t *testing.T) {
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo})
		c := l.connect(t, serve(t, server.Handler()), nil)
		for _, text := range []string{
			`{"topic":"chat","data":{"text":"hello"}}`,
			`{"topic":"chat","data":[1,2.5e-3,null,true,"x"]}`,
			`{"topic":"chat","data":"grüße, 世界 🎉 \u0000 \" <&>"}`,
			`{"topic":"schön/ж","data":0}`,
			`{"topic":"chat"}`,
			`{"data":7}`,
			`{}`,
		} {
			c.Send(text)
			if got := c.Read(); got != text {
				t.Errorf("sent %s\ngot  %s", text, got)
			}
		}
	})
}

func TestFiftyClientsHearOnePublisherInOrder(t *testing.T) {
	const clients, publications = 50, 100
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		server := livetest.NewSubscriberServer(t)
		at := serve(t, server.Handler())
		all := make([]*client, clients)
		for i := range all {
			all[i] = l.connect(t, at, nil)
			all[i].Subscribe("t")
		}
		want := make([]string, publications)
		for i := range want {
			server.Publish("t", fmt.Appendf(nil, `%d`, i))
			want[i] = fmt.Sprintf(`{"topic":"t","data":%d}`, i)
		}
		for i, c := range all {
			if got := c.ReadN(publications); !slices.Equal(got, want) {
				t.Errorf("client %d got %v", i, got)
			}
		}
	})
}

// The length of a frame's payload is written in one byte up to 125, in three
// up to 65535, in nine above (RFC 6455, section 5.2).
func TestMessagesAtEveryLengthBoundaryPassBothWays(t *testing.T) {
	lengths := []int{124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 1 << 20, 1<<20 + 1}
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		received := make(chan int, 1)
		server := livetest.NewServer(t, live.Options{OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			received <- len(data)
			livetest.Echo(ctx, s, topic, data)
		}})
		c := l.connect(t, serve(t, server.Handler()), nil)
		for _, n := range lengths {
			text := livetest.Fill(n)
			c.Send(text)
			if got, want := <-received, n-len(`{"topic":"t","data":}`); got != want {
				t.Errorf("of a message of %d bytes the server got %d of data, want %d", n, got, want)
			}
			if got := c.Read(); got != text {
				t.Errorf("sent %d bytes, got %d: %.60s…", n, len(got), got)
			}
		}
	})
}

func TestFragmentedMessageIsOneMessage(t *testing.T) {
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		if l.name == "gorilla" {
			l = gorillaInPieces
		}
		server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo})
		c := l.connect(t, serve(t, server.Handler()), nil)
		umlaut := "ü"
		for _, parts := range [][]string{
			{`{"topic":"t",`, `"data":"one, `, `two, three"}`},
			{`{"topic":"t","data":"split inside of `, umlaut[:1], umlaut[1:], `"}`},
			{`{"topic":"t","data":"`, strings.Repeat("long ", 20_000), strings.Repeat("longer ", 20_000), `"}`},
			strings.SplitAfter(`{"topic":"t","data":"each byte alone"}`, ""),
		} {
			if err := c.sendFragments(parts); err != nil {
				t.Fatal(err)
			}
			if got, want := c.Read(), strings.Join(parts, ""); got != want {
				t.Errorf("sent %.60s, got %.60s", want, got)
			}
		}
		if got := server.Stats().Received; got != 4 {
			t.Errorf("the server received %d messages, want 4", got)
		}
	})
}

func TestPingIsAnsweredWhilePublicationsFlow(t *testing.T) {
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		server := livetest.NewSubscriberServer(t)
		c := l.connect(t, serve(t, server.Handler()), nil)
		c.Subscribe("t")

		const publications = 500
		pinged := make(chan struct{})
		go func() { // waits for each pong, so that the queue stays short
			defer close(pinged)
			for i := range publications {
				server.Publish("t", fmt.Appendf(nil, `%d`, i))
				if i%50 == 0 {
					payload := strings.Repeat("p", i*125/publications)
					if err := c.ping(payload); err != nil {
						t.Errorf("ping of %d bytes: %v", len(payload), err)
					}
				}
			}
			if err := c.ping(strings.Repeat("é", 62) + "."); err != nil { // 125 bytes, the most
				t.Errorf("longest ping: %v", err)
			}
		}()
		for i := range publications {
			if got, want := c.Read(), fmt.Sprintf(`{"topic":"t","data":%d}`, i); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
		}
		<-pinged
	})
}

func TestClientThatClosesIsAnswered(t *testing.T) {
	for _, code := range []int{1000, 1001} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
				var ended livetest.Ends
				server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo, OnClose: ended.OnClose})
				c := l.connect(t, serve(t, server.Handler()), nil)
				c.Send(`{"topic":"t"}`)
				c.Read()
				// coder's close checks the answer itself, and gws does not wait for it.
				if err := c.close(code); err != nil {
					t.Errorf("close: %v", err)
				}
				if _, got := c.Rest(); got != code && l.name == "gorilla" {
					t.Errorf("the server answered with %d (%v), want %d", got, c.Err(), code)
				}
				if err := ended.Only(t); err != nil {
					t.Errorf("OnClose got %v, want nil", err)
				}
			})
		})
	}
}

func TestServerThatClosesSendsWhatWasQueuedFirst(t *testing.T) {
	const queued = 200
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		var ended livetest.Ends
		server := livetest.NewServer(t, live.Options{
			OnMessage: func(_ context.Context, s *live.Session, topic string, data []byte) {
				for i := range queued {
					s.Send(live.Message{Topic: "n", Data: fmt.Appendf(nil, `%d`, i)})
				}
				s.Close()
				s.Send(live.Message{Topic: "after Close"})
			},
			OnClose: ended.OnClose,
		})
		c := l.connect(t, serve(t, server.Handler()), nil)
		c.Send(`{"topic":"go"}`)
		got, code := c.Rest()
		if len(got) != queued || got[queued-1].Raw != fmt.Sprintf(`{"topic":"n","data":%d}`, queued-1) {
			t.Errorf("got %d messages, want the %d that were queued before Close", len(got), queued)
		}
		if code != live.CloseNormal {
			t.Errorf("close code %d (%v), want 1000", code, c.Err())
		}
		if err := ended.Only(t); err != nil {
			t.Errorf("OnClose got %v, want nil", err)
		}
	})
}

func TestMessageOverReadLimitClosesWith1009(t *testing.T) {
	const limit = 1000
	for _, size := range []int{limit + 1, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
				var ended livetest.Ends
				server := livetest.NewServer(t, live.Options{ReadLimit: limit, OnMessage: livetest.Echo, OnClose: ended.OnClose})
				c := l.connect(t, serve(t, server.Handler()), nil)
				largest := livetest.Fill(limit)
				c.Send(largest)
				if got := c.Read(); got != largest {
					t.Fatalf("a message of ReadLimit bytes came back as %.60s", got)
				}
				c.Say(livetest.Fill(size)) // may fail in the middle: the server has had enough
				if got, code := c.Rest(); len(got) != 0 || code != live.CloseTooBig {
					t.Errorf("got %d messages and code %d (%v), want none and 1009", len(got), code, c.Err())
				}
				if err := ended.Only(t); err != live.ErrMessageTooBig {
					t.Errorf("OnClose got %v, want ErrMessageTooBig", err)
				}
			})
		})
	}
}

func TestBinaryFrameIsReadLikeText(t *testing.T) {
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo})
		c := l.connect(t, serve(t, server.Handler()), nil)
		for _, text := range []string{`{"topic":"bin","data":[1,2]}`, livetest.Fill(70_000)} {
			if err := c.sendBinary([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if got := c.Read(); got != text { // as a text frame: read says so if it is none
				t.Errorf("sent %.60s, got %.60s", text, got)
			}
		}
	})
}

func TestWhatIsNoMessageIsIgnored(t *testing.T) {
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo})
		c := l.connect(t, serve(t, server.Handler()), nil)
		for _, text := range []string{``, `7`, `[]`, `null`, `"x"`, `{`, `{"topic":7}`, `{"data":}`, `hello`} {
			c.Send(text)
		}
		if err := c.sendBinary([]byte{0xff, 0xfe, 0}); err != nil {
			t.Fatal(err)
		}
		c.Send(`{"topic":"still here"}`)
		if got, want := c.Read(), `{"topic":"still here"}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := server.Stats().Malformed; got != 10 {
			t.Errorf("Malformed is %d, want 10", got)
		}
	})
}

func TestAllSessionsSeeConcurrentPublishersInOneOrder(t *testing.T) {
	const sessions, publishers, each = 10, 4, 60 // publishers × each stays below QueueSize
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		server := livetest.NewSubscriberServer(t)
		at := serve(t, server.Handler())
		all := make([]*client, sessions)
		for i := range all {
			all[i] = l.connect(t, at, nil)
			all[i].Subscribe("t")
		}
		var publishing sync.WaitGroup
		for p := range publishers {
			publishing.Go(func() {
				for n := range each {
					server.Publish("t", fmt.Appendf(nil, `[%d,%d]`, p, n))
				}
			})
		}
		first := all[0].ReadN(publishers * each)
		for i, c := range all[1:] {
			if got := c.ReadN(publishers * each); !slices.Equal(got, first) {
				t.Errorf("client %d saw another order than client 0:\n%v\n%v", i+1, got, first)
			}
		}
		publishing.Wait()

		var next [publishers]int
		for _, text := range first {
			var m struct{ Data [2]int }
			if err := json.Unmarshal([]byte(text), &m); err != nil {
				t.Fatal(err)
			}
			if p, n := m.Data[0], m.Data[1]; n != next[p] {
				t.Fatalf("publisher %d: %d came when %d was due", p, n, next[p])
			}
			next[m.Data[0]]++
		}
	})
}

func TestByteByByteDelivery(t *testing.T) {
	withEach(t, func(t *testing.T, l library, serve livetest.Serving) {
		server := livetest.NewServer(t, live.Options{OnMessage: livetest.Echo})
		slow := livetest.Through(t, serve(t, server.Handler()))
		slow.Trickle() // the handshake too
		c := l.connect(t, slow.Endpoint, nil)
		for _, n := range []int{50, 125, 126, 3000} {
			c.Send(livetest.Fill(n))
			if got := c.Read(); got != livetest.Fill(n) {
				t.Errorf("sent %d bytes, got %d: %.60s…", n, len(got), got)
			}
		}
		if err := c.ping("slowly"); err != nil {
			t.Error(err)
		}
		if err := c.close(1000); err != nil {
			t.Error(err)
		}
		livetest.Eventually(t, "the session's end", func() bool { return server.Stats().Sessions == 0 })
	})
}
