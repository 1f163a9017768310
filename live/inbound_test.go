package live_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// A client may shut its side of the connection right after its close frame:
// nothing comes after that anyway. What was queued for it, and the answer to
// its close frame, still have to arrive.
func TestClientThatHalfClosesBehindItsCloseFrameIsAnswered(t *testing.T) {
	t.Parallel()
	const answers = 50
	livetest.OverEach(t, func(t *testing.T, serve livetest.Serving) {
		var ended livetest.Ends
		answer := strings.Repeat("x", 4<<10)
		server := livetest.NewServer(t, live.Options{
			OnMessage: func(_ context.Context, s *live.Session, topic string, _ []byte) {
				for range answers {
					s.Send(live.Message{Topic: topic, Data: []byte(`"` + answer + `"`)})
				}
			},
			OnClose: ended.OnClose,
		})
		at := serve(t, server.Handler())
		conn := livetest.DialTransport(t, at)
		maskedClose := "\x88\x82\x00\x00\x00\x00" + string(binary.BigEndian.AppendUint16(nil, live.CloseNormal))
		if _, err := io.WriteString(conn, livetest.Dialing{}.Request(at)+string(livetest.Masked(livetest.TextFrame, `{"topic":"t"}`))+maskedClose); err != nil {
			t.Fatal(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("answered %v, %v", resp, err)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			t.Errorf("the connection ended with %v", err)
		}
		want := strings.Repeat(string(livetest.Unmasked(livetest.TextFrame, `{"topic":"t","data":"`+answer+`"}`)), answers) + "\x88\x02\x03\xe8"
		if string(got) != want {
			t.Errorf("got %d bytes, want the %d of %d answers and a close frame", len(got), len(want), answers)
		}
		if err := ended.Only(t); err != nil {
			t.Errorf("OnClose got %v, want nil", err)
		}
	})
}

// A client that sends its bytes one at a time pays for each read, and a client that sends as
// others do pays for its frames and kilobytes alone. Where it need not wait no time passes here.
func TestReadsCount(t *testing.T) {
	const rate, burst = 1000, 1000
	long := livetest.Masked(livetest.TextFrame, strings.Repeat("x", 4<<20-100))
	short := livetest.Masked(livetest.TextFrame, `{"topic":"t","data":"`+strings.Repeat("x", 300)+`"}`)
	for _, tt := range []struct {
		name  string
		in    []byte
		piece int
		units int // that it counts for
	}{
		{"a byte at a time", long[:10_000], 1, 10_000},
		{"a ping a byte at a time", slices.Concat(slices.Repeat([][]byte{livetest.Masked(livetest.PingFrame, strings.Repeat("x", 125))}, 50)...), 1, 50 * 131},
		{"segments", long, 1448, 4 << 10},
		{"small segments", long, 1 << 10, 4 << 10},
		{"records", long, 16 << 10, 4 << 10},
		{"a message at a time", slices.Concat(slices.Repeat([][]byte{short}, 4000)...), len(short), 4000 * (1<<10 + len(short)) >> 10},
		{"messages together", slices.Concat(slices.Repeat([][]byte{short}, 4000)...), 1448, 4000 * (1<<10 + len(short)) >> 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
				serve(live.Options{InboundRate: rate, InboundBurst: burst})
				conn := dial()
				go swallow(conn)
				begun := time.Now()
				for piece := range slices.Chunk(tt.in, tt.piece) {
					if _, err := conn.Write(piece); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				took, want := time.Since(begun), time.Duration(tt.units-burst)*time.Second/rate
				if took < want*19/20-time.Second/10 || took > want*21/20+time.Second/10 {
					t.Errorf("it took %v, want %v", took, want)
				}
			})
		})
	}
}

// What comes after the end is not looked at.
func TestNothingIsReadOfASessionThatHasEnded(t *testing.T) {
	for name, end := range map[string]func(p *livetest.Client, s *live.Session){
		"protocol": func(p *livetest.Client, _ *live.Session) { p.Say("nonsense") },
		"banned":   func(_ *livetest.Client, s *live.Session) { s.Disconnect(4001, "banned") },
	} {
		t.Run(name, func(t *testing.T) {
			opts, sessions := livetest.Connected(live.Options{})
			h := livetest.Hosting{}.Start(t, opts)
			p := h.Connect(t, livetest.Dialing{V1: true})
			s := livetest.Receive(t, sessions)
			end(p, s)
			untilClosed(p)
			received := h.Stats().Received
			flood(p, livetest.Masked(livetest.TextFrame, `{"op":"publish","topic":"t","id":1}`))
			time.Sleep(300 * time.Millisecond)
			if share := cpu(500 * time.Millisecond); share > 0.25 {
				t.Errorf("%.0f %% of a core", 100*share)
			}
			if n := h.Stats().Received - received; n > 0 {
				t.Errorf("%d messages were received after the end", n)
			}
		})
	}
}

// A message that never ends is ended by the server, however often a byte of it comes.
func TestMessageThatNeverEndsIsEnded(t *testing.T) {
	for name, more := range map[string][]byte{"a byte": {'x'}, "a frame": {0x00, 0x81, 0, 0, 0, 0, 'x'}, "an empty frame": {0x00, 0x80, 0, 0, 0, 0}} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, serve func(live.Options) *live.Server, dial func() net.Conn) {
				serve(live.Options{})
				conn := dial()
				first := []byte{0x01, 0x80, 0, 0, 0, 0}
				if len(more) == 1 {
					first = []byte{0x81, 0xfe, 0xff, 0xff, 0, 0, 0, 0}
				}
				code := make(chan int, 1)
				go func() {
					c, _ := closing(conn)
					code <- c
				}()
				conn.Write(first)
				begun := time.Now()
				for time.Since(begun) < 5*time.Minute {
					if _, err := conn.Write(more); err != nil {
						break
					}
					time.Sleep(3 * time.Second)
				}
				synctest.Wait()
				select {
				case c := <-code:
					if c != 1008 {
						t.Errorf("closed with %d", c)
					}
				default:
					t.Error("it goes on")
				}
			})
		})
	}
}

// Whatever a client sends, the session lives on, the next good message is
// heard, and what was no message is counted.
func TestBadInputIsIgnoredAndCounted(t *testing.T) {
	t.Parallel()
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

// A compressed message that would be larger than ReadLimit ends there.
func TestDeflateBombIsBounded(t *testing.T) {
	_, hs := serveWith(t, live.Options{
		Compression: true, ReadLimit: 100_000,
		OnMessage: func(context.Context, *live.Session, string, []byte) { t.Error("it came through") },
	}, false)
	c := livetest.Connect(t, livetest.EndpointOf(hs), livetest.Dialing{Deflate: true})
	if !strings.HasPrefix(c.Response.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		t.Fatal("compression was not agreed")
	}
	c.Write(deflated(`{"topic":"t","data":"` + strings.Repeat("x", 5<<20) + `"}`))
	if code, _, _ := c.Closed(); code != live.CloseTooBig {
		t.Error("closed with", code)
	}
}

// A client that leaves ends the context of a callback that runs for it.
func TestClientThatLeavesEndsTheCallbacksContext(t *testing.T) {
	t.Parallel()
	leave := map[string]func(p *livetest.Client){
		"close frame": func(p *livetest.Client) { p.Write(livetest.Masked(livetest.CloseFrame, "\x03\xe9")) },
		"FIN":         func(p *livetest.Client) { p.Line.Close() },
		"reset":       func(p *livetest.Client) { p.Reset() },
	}
	livetest.AtOnce(t, func(g *livetest.Together) {
		for _, b := range busyCallbacks() {
			for name, leave := range leave {
				g.Run(b.name+"/"+name, func(t *testing.T) {
					began, ended := make(chan struct{}), make(chan bool, 1)
					h := livetest.Hosting{}.Start(t, b.opts(func(ctx context.Context) {
						close(began)
						select {
						case <-ctx.Done():
							ended <- true
						case <-time.After(livetest.Patience / 2):
							ended <- false
						}
					}))
					p := h.Connect(t, livetest.Dialing{V1: true})
					if b.say != "" {
						p.Say(b.say)
					}
					livetest.Receive(t, began)
					leave(p)
					if !livetest.Receive(t, ended) {
						t.Error("the context has not ended")
					}
					livetest.Eventually(t, "the session's end", func() bool { return h.Stats().Sessions == 0 })
				})
			}
		}
	})
}

// What a client has sent before it left is dealt with all the same.
func TestWhatWasSentBeforeLeavingIsHeard(t *testing.T) {
	t.Parallel()
	var heard, ended atomic.Int64
	h := livetest.Hosting{}.Start(t, live.Options{
		OnMessage: func(context.Context, *live.Session, string, []byte) { heard.Add(1) },
		OnClose:   func(*live.Session, error) { ended.Add(1) },
	})
	const clients, each = 20, 30
	for range clients {
		p := h.Connect(t, livetest.Dialing{})
		for range each {
			p.Say(`{"topic":"t"}`)
		}
		p.Write(livetest.Masked(livetest.CloseFrame, "\x03\xe8"))
		p.Line.Close()
	}
	livetest.Eventually(t, "OnClose", func() bool { return ended.Load() == clients })
	if n := heard.Load(); n != clients*each {
		t.Errorf("%d messages were heard, of %d", n, clients*each)
	}
}

// A client that leaves ends the callback's context also if so much of it waits for the
// application that the server reads no more.
func TestClientThatLeavesWithAFullInboxEndsTheCallbacksContext(t *testing.T) {
	t.Parallel()
	livetest.AtOnce(t, func(g *livetest.Together) {
		for what, say := range map[string][]string{
			"many messages":  slices.Repeat([]string{`{}`}, 200),
			"large messages": slices.Repeat([]string{`{"data":` + livetest.Padded(1, 300_000) + `}`}, 3),
		} {
			for way, leave := range map[string]func(p *livetest.Client){
				"FIN":   func(p *livetest.Client) { p.Line.Close() },
				"reset": func(p *livetest.Client) { p.Reset() },
			} {
				if what == "large messages" && way == "FIN" {
					continue // it stays behind what the server's kernel does not take
				}
				g.Run(what+"/"+way, func(t *testing.T) { leavesWithAFullInbox(t, say, leave) })
			}
		}
	})
}

func leavesWithAFullInbox(t *testing.T, say []string, leave func(p *livetest.Client)) {
	began, ended := make(chan struct{}, 1000), make(chan bool, 1000)
	h := livetest.Hosting{}.Start(t, live.Options{OnMessage: func(ctx context.Context, _ *live.Session, _ string, _ []byte) {
		began <- struct{}{}
		select {
		case <-ctx.Done():
			ended <- true
		case <-time.After(livetest.Patience / 2):
			ended <- false
		}
	}})
	p := h.Connect(t, livetest.Dialing{})
	p.Say(`{}`)
	livetest.Receive(t, began)
	p.Say(say...)
	leave(p)
	if !livetest.Receive(t, ended) {
		t.Error("the context has not ended")
	}
}

// A client that leaves while the server does not read is noticed, also if its bytes fill the kernel's buffers,
// so that the end of the connection cannot arrive. At this rate the server would read for more than an hour
// what the client has sent.
func TestClientThatLeavesUnreadIsNoticed(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells that a client has left whose bytes are not read")
	}
	t.Parallel()
	const much = 4 << 20 // bytes that are sent before the client leaves
	small := string(livetest.Masked(livetest.TextFrame, `{"topic":"t"}`))
	large := string(livetest.Masked(livetest.TextFrame, strings.Repeat("x", much)))
	slowly := live.Options{InboundRate: 1, Compression: true, PingInterval: shortPing}
	unasked := live.Options{InboundRate: 1, Compression: true, PingInterval: -1}
	for _, test := range []struct {
		name    string
		sent    string
		dialing livetest.Dialing
		opts    live.Options
	}{
		{"small messages", strings.Repeat(small, 100), livetest.Dialing{}, unasked},
		{"many small messages", strings.Repeat(small, much/len(small)), livetest.Dialing{}, slowly},
		{"a large message", large, livetest.Dialing{}, slowly},
		{"a large message of live.v1", large, livetest.Dialing{V1: true}, slowly},
		{"compressed pings", strings.Repeat(string(deflated(strings.Repeat(" ", 2000)+`{"op":"ping"}`)), 100), livetest.Dialing{V1: true, Deflate: true}, unasked},
		{"a callback that blocks", strings.Repeat(small, much/len(small)), livetest.Dialing{},
			live.Options{InboundRate: -1, PingInterval: shortPing, OnMessage: func(ctx context.Context, _ *live.Session, _ string, _ []byte) { <-ctx.Done() }}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			livetest.OverBoth(t, func(t *testing.T, secure bool) {
				var ended livetest.Ends
				opts := test.opts
				opts.OnClose = ended.OnClose
				h := livetest.Hosting{Secure: secure}.Start(t, opts)
				c := h.Connect(t, test.dialing)
				go c.Write([]byte(test.sent)) // ends with the connection
				livetest.Eventually(t, "bytes", func() bool { return h.Stats().BytesReceived > 0 })
				c.Drop()
				if err := ended.Only(t); err == nil {
					t.Error("the session has ended without an error")
				}
				shut(t, h.Server)
				if st := h.Stats(); st.ClosedFor.Lost+st.ClosedFor.WriteFailed != 1 || st.WaitingBytes != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}
