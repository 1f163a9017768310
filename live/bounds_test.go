package live_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// How much memory and CPU a client may take. docs/security.md has the figures.

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

// A handshake that waits for OnAuth takes little, most of it net/http's.
func TestHandshakeThatWaitsTakesLittle(t *testing.T) {
	const clients, most = 500, 30 << 10
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	h := livetest.Hosting{}.Start(t, live.Options{MaxAuthsAtOnce: 1, OnAuth: func(context.Context, *http.Request) (any, error) {
		<-hold
		return "user", nil
	}})
	t.Cleanup(release)
	memory := func() int {
		heap := liveHeap()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return heap + int(m.StackInuse)
	}
	before := memory()
	request := livetest.Dialing{V1: true}.Request(h.Endpoint)
	for range clients + 1 {
		io.WriteString(livetest.DialTransport(t, h.Endpoint), request)
	}
	livetest.Eventually(t, "the queue", func() bool { return h.Stats().AuthsWaiting == clients })
	if each := (memory() - before) / clients; each > most {
		t.Errorf("a handshake that waits takes %d bytes, want %d at most", each, most)
	} else {
		t.Logf("%d bytes each, the client's end with it", each)
	}
	release()
	livetest.Eventually(t, "all sessions", func() bool { return h.Stats().Accepted == clients+1 })
}

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

// Bytes that a client may have waiting in the tests of this file, and a little for the rest.
const (
	queueBytes = 1 << 20
	besides    = 200 << 10
)
