package live_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// What one client can take of the server's memory and time. The figures are the process's,
// so these tests run alone; the client's own part is small.

// allocated returns how many bytes f allocates, garbage or not.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// deflated returns a client's compressed frame.
func deflated(payload string) []byte {
	return livetest.Masked(livetest.TextFrame|0x40, deflate(payload))
}

func deflate(payload string) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	w.Write([]byte(payload))
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}

// Blocks of deflate that hold nothing (RFC 1951, section 3.2). Two have Huffman tables of their
// own, small ones and deep ones; a stored block fills their last byte.
var (
	emptyBlock  = "\x00\x00\x00\xff\xff"
	smallTables = "\x04\xe0I\xb2eY\x96%I\xce\x7f\xd6\x88" + emptyBlock
	deepTables  = "\xec\xe0I\xb2eY\x96%I\x0eC\xea" + strings.Repeat("\xba\xae\xeb", 10) + "ZD\xcd#\x13\t\xbf\x04" + emptyBlock[1:]
)

// inflating returns a compressed message that is much smaller when it is inflated: 60 KB of
// blocks that hold nothing come before its payload.
func inflating(block, payload string) []byte {
	return livetest.Masked(livetest.TextFrame|0x40, strings.Repeat(block, 60_000/len(block))+string(deflate(payload)))
}

// repeated returns JSON of about so many bytes: a part as often as fits between a head and a tail.
func repeated(size int, head, part, tail string) string {
	return head + strings.TrimSuffix(strings.Repeat(part, (size-len(head)-len(tail))/len(part)), ",") + tail
}

// To take a message apart costs no more than a few times its size, whatever is in it.
func TestMessageTakesItsSizeAndLittleMore(t *testing.T) {
	const size, depth = 1 << 20, 1 << 18
	deep := strings.Repeat("[", depth) + strings.Repeat("]", depth)
	var members strings.Builder
	for i := 0; members.Len() < size; i++ {
		fmt.Fprintf(&members, `,"%x":0`, i)
	}
	tests := map[string]string{
		"array of objects":        repeated(size, "[", "{},", "]"),
		"array of numbers":        repeated(size, "[", "1,", "]"),
		"array of arrays":         repeated(size, "[", "[],", "]"),
		"object of members":       `{"op":"pong"` + members.String() + `}`,
		"plain object of members": `{"topic":"t"` + members.String() + `}`,
		"deep arrays":             `{"op":"pong","data":` + deep + `}`,
		"deep plain arrays":       `{"topic":"t","data":` + deep + `}`,
		"deep objects":            repeated(size, `{"op":"pong","data":`, `{"a":`, ""),
		"escapes":                 repeated(size, `{"topic":"t","data":"`, `\u0000`, `"}`),
		"escapes in a topic":      repeated(size, `{"topic":"`, `\u0000`, `"}`),
		"escapes in a name":       repeated(size, `{"op":"pong","`, `\u0000`, `":1}`),
		"digits":                  repeated(size, `{"op":"subscribe","topic":"t","id":`, `1`, `}`),
	}
	for name, text := range tests {
		for _, v1 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/v1=%v", name, v1), func(t *testing.T) {
				takesLittleMore(t, v1, livetest.Masked(livetest.TextFrame, text), len(text))
			})
		}
	}
	t.Run("compressed", func(t *testing.T) {
		text := tests["array of objects"]
		takesLittleMore(t, true, deflated(text), len(text))
	})
}

func takesLittleMore(t *testing.T, v1 bool, frame []byte, size int) {
	ends := make(chan error, 1)
	h := livetest.Hosting{}.Start(t, live.Options{
		Compression: true, InboundRate: -1,
		OnMessage: func(context.Context, *live.Session, string, []byte) {},
		OnClose:   func(_ *live.Session, err error) { ends <- err },
	})
	p := h.Connect(t, livetest.Dialing{V1: v1, Deflate: true})
	took := allocated(func() {
		p.Write(frame)
		p.Write(livetest.Masked(livetest.CloseFrame, "\x03\xe8"))
		livetest.Receive(t, ends)
	})
	if took > 6*size {
		t.Errorf("%d bytes were allocated for a message of %d", took, size)
	}
}

// cpu returns how much of one CPU the process takes during d.
func cpu(d time.Duration) float64 {
	before, begun := processTime(), time.Now()
	time.Sleep(d)
	return float64(processTime()-before) / float64(time.Since(begun))
}

// flood sends the same bytes for as long as the line takes them.
func flood(p *livetest.Client, b []byte) {
	var all []byte
	for len(all) < 64<<10 {
		all = append(all, b...)
	}
	go func() { // ends with the connection
		for p.Write(all) == nil {
		}
	}()
}

// flooding is what a client sends without end.
type flooding struct {
	name         string
	v1           bool
	begin, again []byte
}

// At the rate that a client is allowed it takes a small part of a CPU, whatever it sends.
func TestFloodTakesLittleOfACPU(t *testing.T) {
	array := livetest.InOneFrame(slices.Repeat([]string{`{"op":"pong"}`}, 1000)...)
	for name, all := range map[string][]flooding{
		"small": {
			{"empty continuation frames", false, []byte{0x01, 0x80, 0, 0, 0, 0}, []byte{0x00, 0x80, 0, 0, 0, 0}},
			{"continuation frames of a byte", false, []byte{0x01, 0x80, 0, 0, 0, 0}, []byte{0x00, 0x81, 0, 0, 0, 0, 'x'}},
			{"empty messages", false, nil, livetest.Masked(livetest.TextFrame, "")},
			{"pings", false, nil, livetest.Masked(livetest.PingFrame, "")},
			{"pongs", true, nil, livetest.Masked(livetest.PongFrame, strings.Repeat("x", 125))},
			{"operations", true, nil, livetest.Masked(livetest.TextFrame, array)},
		},
		"large": {
			{"messages", false, nil, livetest.Masked(livetest.TextFrame, repeated(4<<20-100, `{"data":"`, "x", `"}`))},
			{"compressed messages", false, nil, deflated(repeated(4<<20-100, `{"data":"`, "x", `"}`))},
			{"empty blocks", false, nil, inflating(emptyBlock, `{"data":0}`)},
			{"small tables", false, nil, inflating(smallTables, `{"data":0}`)},
			{"deep tables", false, nil, inflating(deepTables, `{"data":0}`)},
			{"operations", true, nil, livetest.Masked(livetest.TextFrame, repeated(4<<20-100, `{"op":"pong","data":[`, "1,", `]}`))},
			{"names with escapes", true, nil, livetest.Masked(livetest.TextFrame, repeated(4<<20-100, `{"op":"pong",`, `"\\":0,`, `}`))},
		},
	} {
		t.Run(name, func(t *testing.T) { takesLittleOfACPU(t, all) })
	}
}

func takesLittleOfACPU(t *testing.T, all []flooding) {
	most := 0.15 // of a core, for all of these together
	if withRace {
		most = 0.75
	}
	h := livetest.Hosting{}.Start(t, live.Options{
		Compression: true,
		OnMessage:   func(context.Context, *live.Session, string, []byte) {},
	})
	for _, f := range all {
		p := h.Connect(t, livetest.Dialing{V1: f.v1, Deflate: true})
		p.Write(f.begin)
		flood(p, f.again)
	}
	time.Sleep(time.Second) // their bursts
	if share := cpu(2 * time.Second); share > most {
		t.Errorf("%.0f %% of a core", 100*share)
	}
	if st := h.Stats(); st.Sessions != len(all) {
		t.Errorf("%+v", st)
	}
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

// Bytes that a client may have waiting in this section's tests, and a little for the rest.
const (
	queueBytes = 1 << 20
	besides    = 200 << 10
)

// What clients ask for and do not read is not made.
func TestHistoryThatNobodyReadsIsNotMade(t *testing.T) {
	const clients, questions, history = 4, 20, 10
	h := livetest.Hosting{Buffer: 16 << 10}.Start(t, livetest.Open(live.Options{
		QueueBytes: queueBytes,
		Topics:     func(string) live.TopicOptions { return live.TopicOptions{History: history} },
	}))
	for range history {
		h.Publish("t", []byte(livetest.Padded(1, 1<<20)))
	}
	var ask []string
	for i := range questions {
		ask = append(ask, livetest.Operation("history", i+1, "t", "limit", history))
	}
	before := liveHeap()
	for range clients {
		p := h.Connect(t, livetest.Dialing{V1: true, Buffer: 16 << 10})
		p.Say(ask...)
	}
	time.Sleep(time.Second) // it may make as much as it likes
	// One publication, of whatever size, is always taken; here it is larger than the rest.
	if took, limit := liveHeap()-before, clients*(queueBytes+1<<20+besides); took > limit {
		t.Errorf("%d clients take %d bytes, want %d at most", clients, took, limit)
	}
}

// A client has what waits for it once, however often the application subscribes it anew.
func TestSubscribingInTurnTakesNoMemory(t *testing.T) {
	const n, size, turns = 100, 10_000, 150
	var h *livetest.Host
	opts := live.Options{QueueBytes: queueBytes, InboundRate: -1}
	opts.Topics = func(string) live.TopicOptions { return live.TopicOptions{History: n} }
	opts.OnMessage = func(_ context.Context, s *live.Session, topic string, _ []byte) {
		if topic == "join" {
			h.Subscribe(s, "t", live.Last(n))
		} else {
			h.Unsubscribe(s, "t")
		}
	}
	h = livetest.Hosting{Buffer: 16 << 10}.Start(t, opts)
	h.PublishNumbers(t, "t", 1, n, size)
	before := liveHeap()
	p := h.Connect(t, livetest.Dialing{Buffer: 16 << 10})
	p.Line.Stall()
	go func() { // ends with the connection
		for range turns {
			p.Say(`{"topic":"join"}`)
			time.Sleep(2 * time.Millisecond)
			p.Say(`{"topic":"leave"}`)
		}
	}()
	for begun := time.Now(); h.Stats().Received < 2*turns && time.Since(begun) < 3*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	if took, limit := liveHeap()-before, queueBytes+besides; took > limit {
		t.Errorf("a client takes %d bytes, want %d at most", took, limit)
	}
}

// What a repair brings is not queued for who does not read.
func TestRepairQueuesNoMoreThanTheQueueHolds(t *testing.T) {
	const n, size = 10_000, 500
	for _, v1 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v1=%v", v1), func(t *testing.T) {
			br := newRemote()
			var lose atomic.Bool
			br.deliver = func(s broker.Sink, p *broker.Publication) {
				if !lose.Load() {
					s.Deliver(p)
				}
			}
			opts, sessions := livetest.Connected(live.Options{QueueBytes: queueBytes, Broker: br})
			opts.Topics = func(string) live.TopicOptions { return live.TopicOptions{History: n} }
			h := livetest.Hosting{Buffer: 16 << 10}.Start(t, opts)
			p := h.Connect(t, livetest.Dialing{V1: v1, Buffer: 16 << 10})
			p.Line.Stall()
			h.Subscribe(livetest.Receive(t, sessions), "t")
			lose.Store(true)
			h.PublishNumbers(t, "t", 1, n-1, size)
			lose.Store(false)
			before := liveHeap()
			h.PublishNumbers(t, "t", n, n, size)
			livetest.Eventually(t, "the repair", func() bool { return h.Stats().CatchingUp == 1 })
			time.Sleep(300 * time.Millisecond)
			if took, limit := liveHeap()-before, queueBytes+maxRingBytes+besides; took > limit {
				t.Errorf("a client takes %d bytes, want %d at most", took, limit)
			}
			p.Line.Resume()
			p.Attend()
			if v1 {
				p.Next() // hello
			}
			p.ExpectNumbers("t", 1, n)
		})
	}
}

// maxRingBytes is what a topic holds itself of its history.
const maxRingBytes = 1 << 20

// A client that sends and does not read holds what the options say, and no more.
func TestConnectionHoldsWhatTheOptionsSay(t *testing.T) {
	const clients, readLimit, inboxBytes, size = 10, 1 << 20, 128 << 10, 1000
	for _, v1 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v1=%v", v1), func(t *testing.T) {
			release := make(chan struct{})
			defer close(release)
			opts, sessions := livetest.Connected(live.Options{
				QueueBytes: queueBytes / 2, InboxBytes: inboxBytes, ReadLimit: readLimit, InboundRate: -1,
				QueueSize: 1 << 20,
				OnMessage: func(context.Context, *live.Session, string, []byte) { <-release },
			})
			h := livetest.Hosting{Buffer: 16 << 10}.Start(t, opts)
			before := liveHeap()
			for i := range clients {
				p := h.Connect(t, livetest.Dialing{V1: v1, Buffer: 16 << 10})
				s := livetest.Receive(t, sessions)
				for range (queueBytes / 2) / size {
					s.Send(live.Message{Data: []byte(livetest.Padded(i, size-100))})
				}
				flood(p, livetest.Masked(livetest.TextFrame, `{"topic":"t","data":`+livetest.Padded(i, 30_000)+`}`))
				if i%2 == 0 { // and the beginning of one that is as large as may be
					q := h.Connect(t, livetest.Dialing{V1: v1, Buffer: 16 << 10})
					livetest.Receive(t, sessions)
					go q.Write(livetest.Masked(livetest.TextFrame, strings.Repeat("x", readLimit))[:readLimit-10])
				}
			}
			time.Sleep(500 * time.Millisecond)
			const sends = queueBytes/2*6/5 + inboxBytes + besides
			const begins = readLimit + besides
			if took, limit := liveHeap()-before, clients*sends+clients/2*begins; took > limit {
				t.Errorf("%d clients take %d bytes, want %d at most", clients, took, limit)
			}
		})
	}
}

// A topic of a client's own invention costs what the options say: some 350 bytes and its
// name, 700 with history.
func TestTopicTakesWhatTheOptionsSay(t *testing.T) {
	const topics = 4000
	for _, tt := range []struct {
		name    string
		topic   func(i int) string
		history int
		each    int
	}{
		{"short", func(i int) string { return fmt.Sprint(i) }, 0, 450},
		{"long", func(i int) string { return fmt.Sprintf("%0255d", i) }, 0, 450 + 256},
		{"escaped", func(i int) string { return strings.Repeat("\x01", 249) + fmt.Sprintf("%06d", i) }, 0, 450 + 256},
		{"history", func(i int) string { return fmt.Sprint(i) }, 10, 850},
		{"long, with history", func(i int) string { return fmt.Sprintf("%0255d", i) }, 10, 850 + 256},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
				InboundRate: -1,
				Topics:      func(string) live.TopicOptions { return live.TopicOptions{History: tt.history} },
			}))
			p := h.Connect(t, livetest.Dialing{V1: true})
			before := liveHeap()
			for from := 0; from < topics; from += 1000 {
				var all []string
				for i := range 1000 {
					name, _ := json.Marshal(tt.topic(from + i))
					all = append(all, fmt.Sprintf(`{"op":"subscribe","topic":%s}`, name))
				}
				p.Say(livetest.InOneFrame(all...))
			}
			livetest.Eventually(t, "all subscriptions", func() bool { return h.Stats().Subscriptions == topics })
			if each := (liveHeap() - before) / topics; each > tt.each {
				t.Errorf("%d bytes a topic, want %d at most", each, tt.each)
			}
		})
	}
}

// A history that is asked for and read comes at a bounded rate.
func TestHistoryComesAtABoundedRate(t *testing.T) {
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

// What clients do wrong does not fill the log.
func TestFailuresDoNotFillTheLog(t *testing.T) {
	const failures = 1000
	var counted counting
	boom := errors.New("boom")
	h := livetest.Hosting{}.Start(t, live.Options{
		InboundRate: -1, Logger: slog.New(&counted),
		Broker:    unwilling{live.NewMemoryBroker(live.MemoryOptions{})},
		OnRequest: func(context.Context, *live.Session, string, []byte) (any, error) { return nil, boom },
		OnPublish: func(context.Context, *live.Session, string, []byte) error { return nil },
	})
	p := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	begun := time.Now()
	for i := range failures {
		p.Say(livetest.Operation("request", i+1, "t"), livetest.Operation("publish", i+1, "t"), livetest.Operation("request", i+1, strings.Repeat("t", i)))
		if f, _ := p.Reply(i + 1); f.Op != "error" {
			t.Fatalf("got %s", &f)
		}
	}
	kinds, each := 2, 10+int(time.Since(begun).Seconds())+1
	if n := int(counted.lines.Load()); n > kinds*each {
		t.Errorf("%d lines for %d failures", n, failures)
	}
}

// unwilling is a broker that publishes nothing.
type unwilling struct{ *live.MemoryBroker }

func (unwilling) InProcess() bool { return false }

func (unwilling) Publish(context.Context, string, []byte, broker.PublishOptions) (live.Position, error) {
	return live.Position{}, errors.New("no")
}

// counting is a logger's handler that counts lines above debug level.
type counting struct {
	slog.Handler
	lines atomic.Int64
}

func (c *counting) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (c *counting) Handle(context.Context, slog.Record) error { c.lines.Add(1); return nil }

func (c *counting) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c *counting) WithGroup(string) slog.Handler      { return c }

// Very many listeners end in about the time that they took to begin.
func TestManyListenersEndAsFastAsTheyBegan(t *testing.T) {
	const listeners = 100_000
	closed := make(chan struct{})
	opts, sessions := livetest.Connected(live.Options{OnClose: func(*live.Session, error) { close(closed) }})
	h := livetest.Hosting{}.Start(t, opts)
	p := h.Connect(t, livetest.Dialing{})
	s := livetest.Receive(t, sessions)
	begun := time.Now()
	var one live.Subscription
	for range listeners {
		var err error
		if one, err = s.Listen("t", func(live.Message) {}); err != nil {
			t.Fatal(err)
		}
	}
	toBegin := time.Since(begun)
	begun = time.Now()
	one.Unsubscribe()
	p.Reset()
	livetest.Receive(t, closed)
	if took := time.Since(begun); took > 3*toBegin+time.Second {
		t.Errorf("%d listeners ended in %v, and began in %v", listeners, took, toBegin)
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

// While many clients come back and are sent what they have missed, publishing goes on.
func TestPublishDoesNotWaitForThoseWhoResume(t *testing.T) {
	const clients, missed, size = 200, 1000, 100
	h := livetest.Hosting{}.Start(t, livetest.Open(live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: missed} },
	}))
	h.PublishNumbers(t, "t", 1, missed, size)
	ask := func(p *livetest.Client) { p.Say(livetest.Operation("subscribe", 1, "t", "last", missed)) }
	first := h.Connect(t, livetest.Dialing{V1: true}).Attend()
	ask(first)
	first.Reply(1) // the topic holds as much itself now
	var peers []*livetest.Client
	for range clients {
		p := h.Connect(t, livetest.Dialing{V1: true})
		go io.Copy(io.Discard, p.Conn) // ends with the connection
		peers = append(peers, p)
	}
	for _, p := range peers {
		go ask(p)
	}
	sent := func() (bytes int64) {
		for _, p := range peers {
			bytes += p.Line.BytesRead()
		}
		return bytes
	}
	var took []time.Duration
	for begun := time.Now(); sent() < clients*missed*size && time.Since(begun) < livetest.Patience/2; {
		begun := time.Now()
		h.PublishNumbers(t, "t", 1, 1, 10)
		took = append(took, time.Since(begun))
		time.Sleep(time.Millisecond)
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 20*time.Millisecond {
		t.Errorf("half of %d publications took more than %v", len(took), median)
	}
}
