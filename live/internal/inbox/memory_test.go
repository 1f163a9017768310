package inbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A header may tell any length. Memory grows only with the bytes that come.
func TestMemoryGrowsWithWhatComes(t *testing.T) {
	const promised = 1 << 40
	for _, limit := range []int{promised, 8 << 20} {
		for _, size := range []int{1, 100, 4095, 4096, 50_000, 1 << 20} {
			for _, fragmented := range []bool{false, true} {
				in := append([]byte{text, 0xff}, binary.BigEndian.AppendUint64(nil, uint64(limit))...)
				in = appendMasked(in, strings.Repeat("x", min(4<<20, 20_000*size)))
				if fragmented {
					in = join(frameOf(begin, "x"), slices.Concat(slicesOf(frameOf(more, strings.Repeat("x", size)), min(20_000, 4<<20/size))...))
				}
				var r Reader
				conn := &asked{script: script{pieces: slices.Collect(slices.Chunk(in, size))}}
				conn.before = func() {
					if r.msg != nil && cap(r.msg.Data) > max(firstGrowth, maxPooled, 2*conn.given) {
						t.Fatalf("%d bytes of memory for %d that came", cap(r.msg.Data), conn.given)
					}
				}
				r.Init(conn, nil, nil, new(counter), Options{ReadLimit: limit})
				before := allocated()
				if m, err := r.Next(); m != nil || endOf(err) != "lost" {
					t.Errorf("%v, %v", m, err)
				}
				// Buffers that became too small are garbage. append grows by a quarter.
				if took := allocated() - before; !withRace && took > uint64(8*len(in)+100_000) {
					t.Errorf("limit %d, in pieces of %d, fragments %v: %d bytes were allocated for %d", limit, size, fragmented, took, len(in))
				}
			}
		}
	}
}

// allocated returns how many bytes this process has allocated so far.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A reader that waits for the next frame holds no buffer. With a handle it holds none while it
// waits for payload either. Bytes that came with the handshake are not held after they were read.
func TestIdleReaderHoldsNoBuffer(t *testing.T) {
	long := frameOf(text, strings.Repeat("x", 100_000))
	steps := []struct {
		piece  []byte
		waits  string // for what, after the piece
		buffer bool   // it may hold one then
	}{
		{frameOf(text, "abc"), "a frame", false},
		{frameOf(ping, "abc"), "a frame", false},
		{frameOf(text, "abcdef")[:5], "a header", true},
		{frameOf(text, "abcdef")[5:], "a frame", false},
		{frameOf(text, "abcdef")[:8], "payload", false},
		{frameOf(text, "abcdef")[8:], "a frame", false},
		{frameOf(ping, "abcdef")[:8], "a control frame", true},
		{frameOf(ping, "abcdef")[8:], "a frame", false},
		{frameOf(begin, "abcdef"), "a fragment", false},
		{frameOf(last, "abcdef"), "a frame", false},
		{long[:14], "a long payload", false},
		{long[14:50_000], "a long payload", false},
		{long[50_000:], "a frame", false},
		{join(frameOf(text, "abc"), frameOf(text, "def"), frameOf(ping, "")), "a frame", false},
		{closeFrame(1000, ""), "nothing", false},
	}
	var r Reader
	check := func(step int) { // after so many steps
		if step == 0 {
			if r.buf != nil {
				t.Error("it holds a buffer at first")
			}
			return
		}
		if s := steps[step-1]; r.buf != nil && !s.buffer || r.early != nil {
			t.Errorf("after step %d it waits for %s, with a buffer: %v; what came before: %v", step, s.waits, r.buf != nil, r.early != nil)
		}
	}
	ends := func(l *listener) {
		t.Helper()
		if h := l.readAll(&r); h.end != "close 1000 " || len(h.messages) != 7 {
			t.Errorf("%d messages, then %q", len(h.messages), h.end)
		}
	}
	for with := range 3 { // steps that came with the handshake
		var early []byte
		var pieces [][]byte
		for i, s := range steps {
			if i < with {
				early = append(early, s.piece...)
			} else {
				pieces = append(pieces, s.piece)
			}
		}
		t.Run(fmt.Sprintf("no handle, %d early", with), func(t *testing.T) {
			conn := &asked{script: script{pieces: slices.Clone(pieces)}}
			left := -1
			conn.before = func() {
				if now := len(conn.pieces); now != left && !r.frame.open { // it begins a piece
					left = now
					check(len(steps) - now)
				}
			}
			var l listener
			r = Reader{}
			r.Init(conn, nil, early, &l, Options{ReadLimit: plenty})
			ends(&l)
		})
		t.Run(fmt.Sprintf("TCP, %d early", with), func(t *testing.T) {
			line := tcpLine(t)
			at := with
			line.waits = func() {
				if check(at); at < len(steps) { // a long step takes several reads
					line.far.Write(steps[at].piece)
					at++
				}
			}
			var l listener
			r = Reader{}
			line.init(&r, early, &l, Options{ReadLimit: plenty})
			ends(&l)
		})
	}
}

// A session that has ended stores no bytes that its client still sends, and makes no calls for
// them. It still reads the close frame.
func TestAfterEndOnlyTheCloseFrameCounts(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	rest := join(
		frameOf(text, "abc"), frameOf(ping, "p"), frameOf(begin, long), frameOf(pong, ""), frameOf(more, long), frameOf(last, ""),
		frameOf(text, long), bytes.Repeat(frameOf(binar, "small"), 50), closeFrame(4000, "bye"),
	)
	for _, before := range []struct {
		name string
		in   []byte
		rest []byte // of the frame that was cut
	}{
		{"nothing", nil, nil},
		{"half a header", frameOf(text, "abc")[:4], frameOf(text, "abc")[4:]},
		{"half a message", frameOf(text, "abc")[:8], frameOf(text, "abc")[8:]},
		{"half a long message", frameOf(text, long)[:50_000], frameOf(text, long)[50_000:]},
		{"a fragment", frameOf(begin, long), frameOf(last, "x")},
		{"half a ping", frameOf(ping, "abc")[:8], frameOf(ping, "abc")[8:]},
	} {
		for name, dial := range lines {
			t.Run(before.name+", "+name, func(t *testing.T) {
				line := dial(t)
				var l listener
				var r Reader
				stored := 0
				line.waits = func() {
					if r.ended.Load() && r.msg != nil {
						stored = max(stored, cap(r.msg.Data))
					}
				}
				line.init(&r, nil, &l, Options{ReadLimit: plenty})
				r.Age(time.Hour)
				read := make(chan heard, 1)
				go func() { read <- l.readAll(&r) }()
				if before.in != nil {
					line.far.Write(before.in)
					for deadline := time.Now().Add(patience); r.Idle() > time.Minute; time.Sleep(time.Millisecond) {
						if time.Now().After(deadline) {
							t.Fatal("nothing was read")
						}
					}
				}
				r.End()
				line.far.Write(join(before.rest, rest))
				h := <-read
				if len(h.messages) > 0 || h.end != "close 4000 bye" {
					t.Errorf("%d messages, then %q", len(h.messages), h.end)
				}
				if len(h.pings) > 0 {
					t.Errorf("it was told of pings %q", h.pings)
				}
				if r.msg != nil || stored > maxPooled && before.name != "half a long message" && before.name != "a fragment" {
					t.Errorf("%d bytes were stored", stored)
				}
			})
		}
	}
}

// When a session ends within a message, it is no longer asked for space and no longer charged.
func TestAfterEndNobodyIsAsked(t *testing.T) {
	in := join(frameOf(text, strings.Repeat("x", 100_000)), frameOf(ping, "p"), frameOf(text, "abc"), closeFrame(1000, ""))
	var l listener
	var r Reader
	r.Init(&script{pieces: slices.Collect(slices.Chunk(in, 1000))}, nil, nil, &l, Options{ReadLimit: plenty})
	var admits, frames, bytes int
	l.admit = func(int) {
		if admits = len(l.admits); admits == 3 {
			frames, bytes = l.frames, l.bytes
			r.End()
		}
	}
	if h := l.readAll(&r); len(h.messages) > 0 || h.end != "close 1000 " {
		t.Errorf("%d messages, then %q", len(h.messages), h.end)
	}
	if admits != 3 || l.frames != frames || l.bytes != bytes || len(l.pings) > 0 {
		t.Errorf("asked %d times; charged %d frames and %d bytes, %d and %d before; pings %q", admits, l.frames, l.bytes, frames, bytes, l.pings)
	}
}

// End may come at any time, from any goroutine.
func TestEndRacesWithNext(t *testing.T) {
	for range 200 {
		l := pipeLine(t)
		var session listener
		var r Reader
		l.init(&r, nil, &session, Options{ReadLimit: plenty})
		var wg sync.WaitGroup
		wg.Go(func() {
			if h := session.readAll(&r); h.end != "close 1000 " {
				t.Errorf("%q", h.end)
			}
		})
		wg.Go(r.End)
		wg.Go(func() {
			l.far.Write(join(frameOf(text, "a"), frameOf(begin, strings.Repeat("b", 20_000)), frameOf(last, "c"), frameOf(ping, ""), closeFrame(1000, "")))
		})
		wg.Wait()
	}
}

// A protocol error after the end also ends the reading.
func TestFaultAfterEnd(t *testing.T) {
	var l listener
	var r Reader
	r.Init(&script{pieces: [][]byte{join(frameOf(text, "abc"), []byte{text, 0})}}, nil, nil, &l, Options{ReadLimit: plenty})
	r.End()
	if _, err := r.Next(); endOf(err) != "broken 1002" {
		t.Error(err)
	}
}

// A message that waits for the application holds little more memory than its bytes, even if the
// memory of a long message was free.
func TestMessagesThatWaitHoldLittleMoreThanTheirBytes(t *testing.T) {
	long := strings.Repeat("x", 30_000)
	for _, test := range []struct {
		name string
		in   []byte
		size int
	}{
		{"one frame", frameOf(text, "small"), 5},
		{"fragments", join(frameOf(begin, "small"), frameOf(last, "er")), 7},
		{"nothing", frameOf(text, ""), 0},
		{"5 KB", frameOf(text, long[:5000]), 5000},
		{"10 KB in fragments", join(frameOf(begin, long[:5000]), frameOf(last, long[:5000])), 10_000},
		{"30 KB", frameOf(text, long), 30_000},
		{"200 KB", frameOf(text, strings.Repeat("x", 200_000)), 200_000},
	} {
		var waiting []*Message
		for range 100 {
			var r Reader
			r.Init(&script{pieces: [][]byte{frameOf(begin, long), frameOf(last, long), test.in}}, nil, nil, new(counter), Options{ReadLimit: plenty})
			m, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			m.Release()
			if m, err = r.Next(); err != nil || len(m.Data) != test.size {
				t.Fatal(m, err)
			}
			waiting = append(waiting, m)
		}
		for _, m := range waiting {
			if most := max(maxShort, maxWaste*test.size); cap(m.Data) > most {
				t.Errorf("%s: a message of %d bytes holds %d", test.name, len(m.Data), cap(m.Data))
				break
			}
		}
	}
}

// A small message allocates no memory if an earlier message was released. A ping allocates none.
func TestSmallMessagesAllocateNothing(t *testing.T) {
	for name, early := range map[string]bool{"read": false, "with the handshake": true} {
		t.Run(name, func(t *testing.T) {
			const n = 100
			in := bytes.Repeat(join(frameOf(text, `{"topic":"t","data":1}`), frameOf(ping, "p"), frameOf(begin, "ab"), frameOf(last, "cd")), n)
			var l counter
			var r Reader
			conn := new(script)
			pieces := make([][]byte, 0, n)
			allocs := testing.AllocsPerRun(20, func() {
				in := bytes.Clone(in) // pings are unmasked in place
				r = Reader{}
				if early {
					conn.pieces = nil
					r.Init(conn, nil, in, &l, Options{ReadLimit: plenty})
				} else {
					conn.pieces = append(pieces, in)
					r.Init(conn, nil, nil, &l, Options{ReadLimit: plenty})
				}
				for {
					m, err := r.Next()
					if err != nil {
						return
					}
					m.Release()
				}
			})
			// There may be a few allocations in the whole run. With the race detector sync.Pool
			// drops one element of four.
			if bound := map[bool]float64{true: 3 * n, false: 10}[withRace]; allocs > bound {
				t.Errorf("%v allocations for %d messages", allocs, 2*n)
			}
		})
	}
}

// counter is a session whose methods allocate no memory.
type counter struct{ pings int }

func (c *counter) Ping([]byte)        { c.pings++ }
func (c *counter) Charge(_, _, _ int) {}
func (c *counter) Admit(int)          {}

// A connection without a handle, such as TLS, takes few reads too: one more for each burst than
// other connections.
func TestBurstIsReadInFewReads(t *testing.T) {
	for _, size := range []int{9, 100, 200, 4000, 20_000} {
		for _, ended := range []bool{false, true} {
			in := join(slices.Concat(slicesOf(frameOf(text, strings.Repeat("x", size)), 10+100_000/size)...), closeFrame(1000, ""))
			reads := 0
			conn := &asked{script: script{pieces: [][]byte{in}}, before: func() { reads++ }}
			var r Reader
			r.Init(conn, nil, nil, new(counter), Options{ReadLimit: plenty})
			if ended {
				r.End()
			}
			for err := error(nil); err == nil; _, err = r.Next() {
			}
			if most := 2*len(in)/len(readBuf{}.bytes) + 10; reads > most {
				t.Errorf("messages of %d bytes, ended %v: %d reads of %d bytes, want %d at most", size, ended, reads, len(in), most)
			}
		}
	}
}
