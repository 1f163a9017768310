package outbox

import (
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
	"github.com/livetopic/livetopic/live/internal/frame"
)

// held returns how much waits in boxes, box by box.
func held(boxes []*testConn) (sum depth) {
	for _, b := range boxes {
		b.mu.Lock()
		d := b.depth()
		if b.dead {
			d = depth{} // what its writer has in hand is given up too
		}
		b.mu.Unlock()
		sum.frames += d.frames
		sum.bytes += d.bytes
	}
	return sum
}

// expectWaiting waits until the figures say what the boxes hold.
func expectWaiting(t *testing.T, w *Writers, boxes []*testConn) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got, want := w.Figures(), held(boxes)
		if got.WaitingFrames == want.frames && got.WaitingBytes == want.bytes {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d frames and %d bytes wait, and the figures say %d and %d", want.frames, want.bytes, got.WaitingFrames, got.WaitingBytes)
		}
	}
}

// Whatever happens to frames, the figures say how much waits: also if frames are dropped, step aside,
// are discarded, or are lost with their connection.
func TestFiguresSayWhatWaits(t *testing.T) {
	limits := Limits{Frames: 6, Bytes: 8 << 10, WriteTimeout: patience, FlushTimeout: patience, CloseTimeout: patience}
	for _, latest := range []bool{false, true} {
		w := NewWriters(limits)
		var boxes []*testConn
		var far []net.Conn
		for i := range 8 {
			near, peer := tcpPair(t)
			if i%2 == 0 {
				near = hidden{near}
			}
			boxes = append(boxes, newConn(w, near, func(error) {}))
			far = append(far, peer)
		}
		tags := []*frame.Tag{nil, {Latest: latest, Gap: frame.Text([]byte("ga"))}, {Latest: latest, Gap: frame.Text([]byte("gb"))}}
		random := rand.New(rand.NewPCG(1, 2))
		for round := range 20 {
			for range 100 {
				i := random.IntN(len(boxes))
				f := text(100 + random.IntN(3000))
				f.Tag = tags[random.IntN(len(tags))]
				switch n := random.IntN(100); {
				case n < 80:
					add(&boxes[i].Box, f)
				case n < 85:
					var list List
					boxes[i].AddOrWait(f, &list)
					w.WriteHere(&list)
				case n < 90:
					boxes[i].Settle(tags[1+random.IntN(2)])
				case n < 95:
					boxes[i].Ping()
				case n < 99 || round < 10:
					far[i].SetReadDeadline(time.Now().Add(time.Millisecond))
					io.CopyN(io.Discard, far[i], int64(random.IntN(64<<10)))
				case n%2 == 0:
					boxes[i].Box.Close(random.IntN(2) == 0, frame.Close(1000, ""))
				default:
					far[i].Close() // what is being written fails
				}
			}
			expectWaiting(t, w, boxes)
		}
		if f := w.Figures(); latest != (f.DroppedLatest > 0) || latest == (f.DroppedOldest > 0) {
			t.Errorf("Latest is %v, and %d and %d frames were dropped", latest, f.DroppedOldest, f.DroppedLatest)
		}
		for i := range boxes {
			boxes[i].Kill()
			far[i].Close()
		}
		expectWaiting(t, w, boxes)
		if f := w.Figures(); f.WaitingFrames != 0 || f.WaitingBytes != 0 {
			t.Errorf("in the end: %+v", f)
		}
	}
}

// tcpPair returns both ends of a connection whose kernel buffers are small.
func tcpPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if far, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	near.(*net.TCPConn).SetWriteBuffer(4 << 10)
	far.(*net.TCPConn).SetReadBuffer(4 << 10)
	return near, far
}

// Frames that leave together are one write of many frames. Each write with a frame that is measured
// counts once.
func TestFiguresSayWhatWasWritten(t *testing.T) {
	b, conn := stuckBox(t, generous)
	w := b.writers
	const frames, size = 20, 100
	for range frames {
		f := text(size)
		f.Queued = clock.Now() - int64(time.Hour)
		if err := add(b, f); err != nil {
			t.Fatal(err)
		}
	}
	if f := w.Figures(); f.Frames != 0 || f.Bytes != 0 || f.WaitingFrames != frames+1 || f.WaitingBytes != frames*size+2 {
		t.Errorf("before the write: %+v", f)
	}
	close(conn.letGo)
	waitIdle(t, b)
	want := [WriteSizes]uint64{0: 1, 5: 1} // one frame, and one write of 17 to 32
	f := w.Figures()
	if f.Frames != frames+1 || f.Bytes != frames*size+2 || f.Writes != want || f.WaitingFrames != 0 || f.WaitingBytes != 0 {
		t.Errorf("after the write: %+v", f)
	}
	if f.DeliveryCounts[len(f.DeliveryCounts)-1] != 1 || f.DeliverySum < time.Hour || f.DeliverySum > 2*time.Hour {
		t.Errorf("the times: %v, %v", f.DeliveryCounts, f.DeliverySum)
	}
}

// The bounds of the sizes are 1, 2, 4 and so on.
func TestWritesAreCountedByTheirSize(t *testing.T) {
	for frames, want := range map[int]int{1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 64: 6, 65: 7, 128: 7, 129: 8, 5000: 8} {
		var w wrote
		w.land(&flight{frames: frames})
		if w.writes[want] != 1 {
			t.Errorf("a write of %d frames: %v", frames, w.writes)
		}
	}
}
