package outbox

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live/internal/frame"
)

const patience = 20 * time.Second

var generous = Limits{Frames: 1 << 20, Bytes: 1 << 30, WriteTimeout: patience, FlushTimeout: patience, CloseTimeout: patience}

// stuck is a connection whose Write does not return until the test closes letGo.
type stuck struct {
	net.Conn
	entered chan struct{}
	letGo   chan struct{}

	mu    sync.Mutex
	wrote []byte
}

func newStuck() *stuck { return &stuck{entered: make(chan struct{}, 1), letGo: make(chan struct{})} }

func (s *stuck) Write(p []byte) (int, error) {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.letGo
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote = append(s.wrote, p...)
	return len(p), nil
}

// texts returns the payloads that were sent. None is longer than 125 bytes.
func (s *stuck) texts() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for rest := s.wrote; len(rest) > 0; rest = rest[2+rest[1]:] {
		all = append(all, string(rest[2:2+rest[1]]))
	}
	return strings.TrimSpace(strings.Join(all, " "))
}

func (s *stuck) SetWriteDeadline(time.Time) error { return nil }
func (s *stuck) Close() error                     { return nil }

// testOwner is a session that records why writing failed.
type testOwner struct {
	failed func(error)
	heard  atomic.Int64
}

func (o *testOwner) WriteFailed(err error) { o.failed(err) }
func (o *testOwner) Heard() int64          { return o.heard.Load() }

// testConn is a box and its connection.
type testConn struct {
	Box
	net.Conn
	testOwner
}

func newConn(w *Writers, conn net.Conn, failed func(error)) *testConn {
	c := &testConn{Conn: conn}
	c.failed = failed
	c.Box.Init(w, conn, &c.testOwner)
	return c
}

func text(n int) *frame.Frame { return frame.Text([]byte(strings.Repeat("x", n-2))) }

func add(b *Box, f *frame.Frame) error {
	var list List
	err := b.Add(f, &list)
	b.writers.Write(&list)
	return err
}

// The bytes that are being written count too, so the bound holds at every moment.
func TestQueueIsBoundedBeforeTheAdd(t *testing.T) {
	tests := []struct {
		name   string
		limits Limits
		fits   int // frames of 100 bytes
	}{
		{"frames, and the one that is being written", Limits{Frames: 7, Bytes: 1 << 20}, 8},
		{"bytes", Limits{Frames: 100, Bytes: 799}, 7},
		{"exactly", Limits{Frames: 100, Bytes: 800}, 8},
		{"one fits when none waits", Limits{Frames: 100, Bytes: 10}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := newStuck()
			var b Box
			b.Init(NewWriters(tt.limits), conn, &testOwner{failed: func(err error) { t.Error(err) }})
			for i := range tt.fits {
				if err := add(&b, text(100)); err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
				if i == 0 {
					<-conn.entered
				}
			}
			for range 3 {
				if err := add(&b, text(100)); err != ErrFull {
					t.Fatalf("one more: %v", err)
				}
			}
			if frames, bytes := b.Queued(); frames != tt.fits || bytes != 100*tt.fits {
				t.Fatalf("%d frames, %d bytes queued", frames, bytes)
			}
			close(conn.letGo)
			waitIdle(t, &b)
			if err := add(&b, text(100)); err != nil {
				t.Fatalf("when it has drained: %v", err)
			}
			waitIdle(t, &b)
		})
	}
}

// An idle box has no memory besides its struct.
func waitIdle(t *testing.T, b *Box) {
	t.Helper()
	idle := func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return !b.busy && b.queue == nil && b.frames == 0 && b.bytes == 0 && b.droppable == dropped{} && b.rest == nil && b.pongs == nil && b.space == nil && b.timer == nil
	}
	for deadline := time.Now().Add(patience); !idle(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not idle: %+v", b)
		}
	}
}

// hidden hides the type of a connection, so that it is not taken for a plain socket.
type hidden struct{ net.Conn }

func (h hidden) CloseWrite() error { return h.Conn.(*net.TCPConn).CloseWrite() }

// link returns a box and the other end of its connection.
func link(t *testing.T, limits Limits, plain bool, buffer int) (*testConn, net.Conn, <-chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if buffer > 0 {
		near.(*net.TCPConn).SetWriteBuffer(buffer)
		far.(*net.TCPConn).SetReadBuffer(buffer)
	}
	if plain {
		near = hidden{near}
	}
	failed := make(chan error, 10)
	c := newConn(NewWriters(limits), near, func(err error) { failed <- err })
	if (c.raw == nil) != plain {
		t.Fatalf("raw: %v", c.raw)
	}
	t.Cleanup(func() { c.Kill(); far.Close() })
	return c, far, failed
}

func readFrame(r *bufio.Reader) (first byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		var ext [2]byte
		_, err = io.ReadFull(r, ext[:])
		n = uint64(binary.BigEndian.Uint16(ext[:]))
	case 127:
		var ext [8]byte
		_, err = io.ReadFull(r, ext[:])
		n = binary.BigEndian.Uint64(ext[:])
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}

// Frames of all sizes come from several goroutines, with pings and pongs between them. The socket
// takes few bytes at a time.
func TestFramesAreWholeAndInOrder(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for _, buffer := range []int{0, 16 << 10} {
			t.Run(fmt.Sprintf("plain=%v,buffer=%d", plain, buffer), func(t *testing.T) {
				const senders = 3
				each := 1000
				if buffer > 0 {
					each = 100 // such a socket waits for delayed acknowledgements
				}
				c, far, failed := link(t, generous, plain, buffer)
				var wg sync.WaitGroup
				for s := range senders {
					wg.Go(func() {
						for i := range each {
							head := fmt.Sprintf("%d %d ", s, i)
							f := frame.Text([]byte(head), []byte(strings.Repeat("x", (i*37)%3000)))
							if i%100 == 0 {
								f = frame.Text([]byte(head), []byte(strings.Repeat("x", 100_000)))
							}
							if err := add(&c.Box, f); err != nil {
								t.Error(err)
							}
						}
					})
				}
				stop := make(chan struct{})
				wg.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						c.Ping()
						c.Pong([]byte(strings.Repeat("p", 100)))
						runtime.Gosched()
					}
				})

				r := bufio.NewReader(far)
				far.SetReadDeadline(time.Now().Add(patience))
				next := [senders]int{}
				for texts := 0; texts < senders*each; {
					first, payload, err := readFrame(r)
					if err != nil {
						t.Fatal(err)
					}
					switch first {
					case 0x81:
						var s, i int
						if _, err := fmt.Sscanf(string(payload), "%d %d ", &s, &i); err != nil || i != next[s] {
							t.Fatalf("%.20q, want %d: %v", payload, next[s], err)
						}
						next[s]++
						texts++
					case 0x89:
						if len(payload) != 0 {
							t.Fatal("a ping with", payload)
						}
					case 0x8a:
						if string(payload) != strings.Repeat("p", 100) {
							t.Fatalf("a pong with %q", payload)
						}
					default:
						t.Fatalf("first byte %#x", first)
					}
				}
				close(stop)
				go io.Copy(io.Discard, far)
				wg.Wait()
				if len(failed) != 0 {
					t.Fatal(<-failed)
				}
				far.SetReadDeadline(time.Time{})
				waitIdle(t, &c.Box)
			})
		}
	}
}

// Frames that were queued before the close frame arrive. Later frames do not, and then the
// connection ends.
func TestCloseFrameIsTheLast(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("plain=", plain), func(t *testing.T) {
			c, far, _ := link(t, generous, plain, 64<<10)
			const n = 100
			for range n {
				add(&c.Box, text(5000))
			}
			c.Box.Close(false, frame.Close(1000, "bye"))
			if err := add(&c.Box, text(10)); err != ErrClosed {
				t.Fatal(err)
			}
			c.Ping()
			c.Pong(nil)
			c.Box.Close(true, frame.Close(1001, "again"))
			c.Shut()

			r := bufio.NewReader(far)
			for i := range n {
				if first, payload, err := readFrame(r); first != 0x81 || len(payload) != 4998 || err != nil {
					t.Fatalf("frame %d: %#x, %d bytes, %v", i, first, len(payload), err)
				}
			}
			first, payload, err := readFrame(r)
			if first != 0x88 || string(payload) != "\x03\xe8bye" || err != nil {
				t.Fatalf("%#x %q %v", first, payload, err)
			}
			if _, _, err := readFrame(r); err != io.EOF {
				t.Fatalf("after the close frame: %v", err)
			}
		})
	}
}

// If the queue is dropped while a frame is half sent, the rest of the frame is sent too.
func TestDiscardKeepsFramesWhole(t *testing.T) {
	c, far, _ := link(t, generous, false, 64<<10)
	const n = 100
	for range n {
		add(&c.Box, text(100_000))
	}
	c.Box.Close(true, frame.Close(4100, "queue full"))
	r := bufio.NewReader(far)
	for texts := 0; ; texts++ {
		first, payload, err := readFrame(r)
		if err != nil {
			t.Fatal(err)
		}
		if first == 0x88 {
			if texts == 0 || texts == n {
				t.Fatalf("%d frames before the close frame", texts)
			}
			return
		}
		if first != 0x81 || len(payload) != 99_998 {
			t.Fatalf("%#x, %d bytes", first, len(payload))
		}
	}
}

func TestUnansweredCloseEndsTheConnection(t *testing.T) {
	limits := generous
	limits.CloseTimeout = 10 * time.Millisecond
	c, far, _ := link(t, limits, false, 0)
	c.Box.Close(false, frame.Close(1000, ""))
	far.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, far); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}

func TestFailureIsToldAndClosesTheConnection(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("plain=", plain), func(t *testing.T) {
			c, far, failed := link(t, generous, plain, 0)
			far.(*net.TCPConn).SetLinger(0)
			far.Close()
			for deadline := time.Now().Add(patience); ; {
				err := add(&c.Box, text(1000))
				if err == ErrClosed {
					break
				}
				if err != nil || time.Now().After(deadline) {
					t.Fatal("still taken:", err)
				}
				time.Sleep(time.Millisecond)
			}
			select {
			case err := <-failed:
				if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Fatal("nobody was told")
			}
		})
	}
}

// Every ping is answered, up to the bound of pongs that wait. If a client sends many pings and
// reads no pongs, the server holds no more than that.
func TestPongsDoNotPileUp(t *testing.T) {
	conn := newStuck()
	c := newConn(NewWriters(generous), conn, func(error) {})
	add(&c.Box, text(100))
	<-conn.entered
	pongs := func() (string, int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return string(c.pongs), c.frames
	}
	want := ""
	for i := range 20 {
		c.Pong([]byte{byte(i)})
		want += string([]byte{0x8a, 1, byte(i)})
	}
	if got, _ := pongs(); got != want {
		t.Fatalf("pongs % x", got)
	}
	for i := range 10_000 {
		c.Pong([]byte{byte(i >> 8), byte(i)})
		c.Ping()
	}
	got, frames := pongs()
	if !strings.HasSuffix(got, "\x8a\x02\x27\x0f") || len(got) > maxPongs || frames != 1 {
		t.Fatalf("%d bytes of pongs, %d frames", len(got), frames)
	}
	close(conn.letGo)
	waitIdle(t, &c.Box)
}

func TestManyBoxesShareFewWriters(t *testing.T) {
	before := runtime.NumGoroutine()
	w := NewWriters(generous)
	var most atomic.Int64
	const n = 200
	boxes, ends := make([]*testConn, n), make([]net.Conn, n)
	for i := range boxes {
		boxes[i], ends[i], _ = link(t, generous, false, 0)
		boxes[i].writers = w
	}
	var wg sync.WaitGroup
	for i, far := range ends {
		wg.Go(func() {
			r := bufio.NewReader(far)
			for want := range 100 {
				_, payload, err := readFrame(r)
				if err != nil || string(payload) != fmt.Sprint(want) {
					t.Errorf("box %d: %q, %v; want %d", i, payload, err, want)
					return
				}
			}
		})
	}
	readers := runtime.NumGoroutine()
	for i := range 100 {
		var list List
		f := frame.Text(fmt.Append(nil, i))
		for _, b := range boxes {
			if err := b.Add(f, &list); err != nil {
				t.Fatal(err)
			}
		}
		w.Write(&list)
		most.Store(max(most.Load(), int64(runtime.NumGoroutine()-readers)))
	}
	wg.Wait()
	if got := most.Load(); got > int64(runtime.GOMAXPROCS(0)) {
		t.Errorf("%d writers", got)
	}
	for _, b := range boxes {
		waitIdle(t, &b.Box)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left", runtime.NumGoroutine()-before)
		}
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	c, far, _ := link(t, generous, false, 0)
	go io.Copy(io.Discard, far)
	f := text(128)
	var list List
	allocs := testing.AllocsPerRun(100, func() {
		for range 64 {
			if err := c.Add(f, &list); err != nil {
				t.Fatal(err)
			}
		}
		c.writers.Write(&list)
		for frames := 1; frames > 0; runtime.Gosched() {
			frames, _ = c.Queued()
		}
	})
	// There are one or two allocations for each burst (the writer's goroutine), and a few under
	// -race, where sync.Pool drops elements at random. 64 would be one for each delivery.
	if allocs > 16 {
		t.Errorf("%v allocations for 64 deliveries", allocs)
	}
}
