package live_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestRequestWithoutAnAnswerHasNoData(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return nil, nil }
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	livetest.Same(t, "the answer", c.Do(`{"op":"request","id":6,"topic":"q"}`).Raw, `{"op":"reply","id":6}`)
}

func TestRequestIsGivenWhatTheClientSent(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.OnRequest = func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
		return map[string]any{"session": s.ID(), "topic": topic, "data": string(data), "nil": data == nil}, nil
	}
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	livetest.Same(t, "the answer", c.Do(`{"op":"request","id":6,"topic":"rooms","data":{"a": 1}}`).Raw,
		`{"op":"reply","id":6,"data":{"session":"`+c.Hello.Session+`","topic":"rooms","data":"{\"a\": 1}","nil":false}}`)
	livetest.Same(t, "the answer", c.Do(`{"op":"request","id":7,"topic":"rooms"}`).Raw,
		`{"op":"reply","id":7,"data":{"session":"`+c.Hello.Session+`","topic":"rooms","data":"","nil":true}}`)
}

func TestRequestWhoseAnswerIsNoJSONIsInternal(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]any{
		"channel": make(chan int), "NaN": math.NaN(), "broken": json.RawMessage(`{"a":`),
	} {
		opts := livetest.Permissive()
		opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return answer, nil }
		c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
		livetest.Refused(t, name, c.Do(`{"op":"request","id":6,"topic":"q"}`), 6, "internal")
	}
}

// A client that subscribes anew to all it had does so in one frame, and may have
// a poor line. The answers are its own doing and no reason to close it, be they many
// or large.
func TestResubscribingOverASlowLine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		topics, each int // publications that were missed of each topic
		size         int
	}{
		{"many topics", 1000, 0, 0},
		{"much was missed", 40, 10, 5 << 10}, // 2 MB, twice QueueBytes; of each topic more than a part
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var ended livetest.Ends
			opts := livetest.Permissive()
			opts.OnClose = ended.OnClose
			server := livetest.NewServer(t, opts)
			at := livetest.ServeSmall(t, server.Handler())
			first := livetest.DialV1(t, at)
			since := make([]string, test.topics)
			for i := range since {
				since[i] = first.Must(livetest.SubscribeTo(1, fmt.Sprint("chat", i))).At
				first.Must(livetest.UnsubscribeFrom(2, fmt.Sprint("chat", i)))
			}
			pad := strings.Repeat("x", test.size)
			for i := range test.topics {
				for n := range test.each {
					server.Publish(fmt.Sprint("chat", i), fmt.Appendf(nil, `"%d %s"`, n, pad))
				}
			}

			slow := livetest.Through(t, at)
			c := livetest.DialV1(t, slow.Endpoint)
			slow.Stall()
			c.Send(livetest.Array(test.topics, func(i int) string { return livetest.ResumeFrom(i+1, fmt.Sprint("chat", i), since[i]) }))
			slow.Resume() // the request passes
			left := test.topics * test.each
			had := map[string]int{}
			take := func(topic string, data []byte, at string) {
				if _, offset := livetest.OffsetOf(at); livetest.NumberOf(data) != had[topic] || offset != had[topic]+1 || len(data) < test.size {
					t.Fatalf("topic %s: %.20s at %s came after %d others", topic, data, at, had[topic])
				}
				had[topic]++
				left--
			}
			for answers, frames := 0, 0; answers < test.topics || left > 0; frames++ {
				switch f := c.Next(); {
				case f.IsPublication() && f.WasRecovered():
					take(f.Topic, f.Data, f.At)
				case f.ID != answers+1 || !f.WasRecovered() || f.Messages == nil:
					t.Fatalf("answer %d is %.200s", answers, f.Raw)
				default:
					for _, m := range f.Messages {
						take(fmt.Sprint("chat", answers), m.Data, m.At)
					}
					answers++
				}
				if frames < 20 {
					time.Sleep(5 * time.Millisecond) // reads slowly
				}
			}
			if extra := c.Settled(); len(extra) != 0 {
				t.Errorf("then came %.200s", extra[0].Raw)
			}
			for topic, n := range had {
				if n != test.each {
					t.Errorf("topic %s: %d publications, want %d", topic, n, test.each)
				}
			}
			if n := ended.Count(); n != 0 {
				t.Errorf("%d sessions ended", n)
			}
		})
	}
}

// A client that asks and does not read is not heard further. What waits for it stays
// bounded.
func TestClientThatAsksAndDoesNotRead(t *testing.T) {
	t.Parallel()
	const size, atOnce, most = 16 << 10, 50, 300 // most is 5 MB: several times QueueBytes, and what the sockets hold
	var asked atomic.Int64
	opts := livetest.Permissive()
	opts.InboundRate = -1
	pad := json.RawMessage(`"` + strings.Repeat("x", size) + `"`)
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) {
		asked.Add(1)
		return pad, nil
	}
	server := livetest.NewServer(t, opts)
	c := livetest.Connect(t, livetest.ServeSmall(t, server.Handler()), livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer})
	c.Conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	request := livetest.Array(atOnce, func(i int) string { return fmt.Sprintf(`{"op":"request","id":%d,"topic":"q"}`, i+1) })
	for sent := 0; sent < 100_000 && c.Say(request) == nil; sent += atOnce {
	}
	for n := int64(-1); n != asked.Load() && n <= most; time.Sleep(200 * time.Millisecond) {
		n = asked.Load()
	}
	if n := asked.Load(); n > most {
		t.Errorf("%d requests were answered with %d bytes each, none of which was read", n, size)
	}
	if st := server.Stats(); st.Sessions != 1 {
		t.Errorf("%d sessions, want 1", st.Sessions)
	}
}

// The texts of an answer in pieces are, joined, the JSON that the application returned, at
// whatever character a piece ends.
func TestLargeAnswersOfARequest(t *testing.T) {
	opts := livetest.Permissive()
	var answer string
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return answer, nil }
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	for _, character := range []string{"x", "ü", "世", "🎉", `"`, `\`, "\n", "<", "\u2028", "\x00"} {
		for _, size := range []int{1, 1 << 10, 32<<10 - 2, 32<<10 - 1, 64<<10 - 2, 64<<10 - 1, 200_000} {
			for shift := range len(character) {
				answer = strings.Repeat("a", shift) + strings.Repeat(character, size/len(character))
				want, err := json.Marshal(answer)
				if err != nil {
					t.Fatal(err)
				}
				c.Send(`{"op":"request","id":2,"topic":"q"}`)
				var parts livetest.AnswerParts
				f := c.Next()
				inParts := f.Op == "part"
				for !parts.Add(t, &f) {
					f = c.Next()
				}
				if f.Op != "reply" || f.ID != 2 || string(f.Data) != string(want) {
					t.Errorf("%d bytes of %q: %d bytes came, want %d; the last frame is %.100s", size, character, len(f.Data), len(want), f.Raw)
				}
				if large := len(want) > livetest.MostInOne; large && !inParts || len(want) < livetest.LeastOfPart && inParts {
					t.Errorf("an answer of %d bytes came in parts: %t", len(want), inParts)
				}
			}
		}
	}
}

// What nobody has the answer of costs the broker nothing.
func TestUnansweredQuestionsAreNotAsked(t *testing.T) {
	b := new(renewed)
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{Broker: b, Topics: keepingMuch}))
	h.PublishNumbers(t, "t", 1, 3000, 10)
	p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	p.Say(livetest.Operation("subscribe", 1, "t"))
	p.Reply(1)
	before := func() int { b.mu.Lock(); defer b.mu.Unlock(); return b.reads }()
	for range 20 {
		p.Say(`{"op":"history","topic":"t","limit":1000}`, `{"op":"subscribe","topic":"t","last":1000}`, `{"op":"subscribe","topic":"t","since":"e1.1"}`)
	}
	p.Say(livetest.Operation("unsubscribe", 2, "t"))
	p.Reply(2)
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := b.reads - before; n > 0 {
		t.Errorf("the broker was asked %d times", n)
	}
}

// A history that is asked for and read comes at a bounded rate.
func TestHistoryComesAtABoundedRate(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{25, 1000} { // in one reply, and in many
		t.Run(fmt.Sprint(limit), func(t *testing.T) { comesAtABoundedRate(t, limit) })
	}
}

func comesAtABoundedRate(t *testing.T, limit int) {
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 1000} },
	}))
	h.PublishNumbers(t, "t", 1, 1000, 1000)
	p := h.Connect(t, livetest.Dialing{V1: true})
	go func() { // ends with the connection
		for b := make([]byte, 64<<10); ; {
			if _, err := p.Conn.Read(b); err != nil {
				return
			}
		}
	}()
	flood(p, livetest.Masked(livetest.TextFrame, livetest.Operation("history", 1, "t", "limit", limit)))
	const seconds, perSecond = 2, 4 << 20
	time.Sleep(seconds * time.Second)
	if n := p.Line.BytesRead(); n > (seconds+2)*perSecond {
		t.Errorf("%d bytes in %d s", n, seconds)
	}
}

// Clients that wait for space in their queues do so for nothing.
func TestWaitingForSpaceTakesNoCPU(t *testing.T) {
	const clients = 300
	h := livetest.Hosting{Buffer: 8 << 10}.Start(t, livetest.Open(live.Options{
		QueueSize: 8,
		Topics:    func(string) live.TopicOptions { return live.TopicOptions{History: 10} },
	}))
	for i := range 10 {
		h.Publish("t", []byte(livetest.Padded(i, 10_000)))
	}
	for range clients {
		p := h.Connect(t, livetest.Dialing{V1: true, Buffer: 8 << 10})
		var ask []string
		for i := range 20 {
			ask = append(ask, livetest.Operation("history", i+1, "t", "limit", 10))
		}
		p.Say(ask...)
	}
	time.Sleep(500 * time.Millisecond)
	if share := cpu(time.Second); share > 0.05 {
		t.Errorf("%.0f %% of a core", 100*share)
	}
}
