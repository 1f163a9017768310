package outbox

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// waiting returns the payloads of the queued frames. After a comma come those of the frames that
// have stepped aside. A gap stands before the frame that it is sent with.
func waiting(b *Box) (queued, all string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := func(frames []*frame.Frame) string {
		var all []string
		for _, f := range frames {
			if f.Gap() != nil {
				all = append(all, string(f.Gap().Bytes()[2:]))
			}
			all = append(all, string(f.Bytes()[2:]))
		}
		return strings.Join(all, " ")
	}
	if b.queue != nil {
		queued = names(b.queue.waiting())
	}
	if b.aside == nil {
		return queued, queued
	}
	return queued, queued + ", " + names(b.aside)
}

// stuckBox returns a box that is writing an empty frame. The write ends when the test lets the
// connection go.
func stuckBox(t *testing.T, limits Limits) (*Box, *stuck) {
	conn := newStuck()
	b := new(Box)
	limits.WriteTimeout, limits.FlushTimeout, limits.CloseTimeout = patience, patience, patience
	b.Init(NewWriters(limits), conn, &testOwner{failed: func(error) {}})
	if err := add(b, frame.Text(nil)); err != nil {
		t.Fatal(err)
	}
	<-conn.entered
	return b, conn
}

// tags makes frames with tags: the frame a0 has the tag a. A frame whose name begins with a
// capital letter is never dropped.
type tags struct {
	latest bool
	known  map[string]*frame.Tag
}

func (ts *tags) frame(name string) *frame.Frame {
	f := frame.Text([]byte(name))
	letter := name[:1]
	if letter != strings.ToLower(letter) {
		return f
	}
	if ts.known == nil {
		ts.known = make(map[string]*frame.Tag)
	}
	if ts.known[letter] == nil {
		ts.known[letter] = &frame.Tag{Gap: frame.Text([]byte("g" + letter)), Latest: ts.latest}
	}
	f.Tag = ts.known[letter]
	return f
}

// Besides the frames that wait, an empty frame of two bytes is being written. Each frame that
// waits takes four bytes.
func TestFullQueueDropsWhatMayBeDropped(t *testing.T) {
	tests := []struct {
		name   string
		limits Limits
		queued string
		latest bool
		silent bool
		added  string
		want   string // "full": ErrFull, and the queue as it was
	}{
		{"the oldest goes, and the next of its tag tells", Limits{Frames: 3, Bytes: 1000}, "a0 B0 a1", false, false, "a2", "B0 ga a1 a2"},
		{"the new one tells", Limits{Frames: 2, Bytes: 1000}, "a0 B0", false, false, "a1", "B0 ga a1"},
		{"without a word to a plain client", Limits{Frames: 3, Bytes: 1000}, "a0 B0 a1", false, true, "a2", "B0 a1 a2"},
		{"all of its tag go", Limits{Frames: 3, Bytes: 1000}, "a0 B0 a1", true, false, "a2", "B0 ga a2"},
		{"as many as the bytes need", Limits{Frames: 100, Bytes: 18}, "a0 B0 a1 a2", false, false, "a3", "B0 ga a2 a3"},
		{"others make space for what is never dropped", Limits{Frames: 3, Bytes: 1000}, "a0 b0 a1", false, false, "C0", "b0 ga a1 C0"},
		{"the newest of a tag steps aside", Limits{Frames: 3, Bytes: 1000}, "b0 a0 a1", false, false, "C0", "a0 a1 C0, b0"},
		{"and keeps its gap", Limits{Frames: 2, Bytes: 1000}, "a0 a1 a2", false, false, "C0", "ga a2 C0"},
		{"others make space for a tag that has nothing there", Limits{Frames: 3, Bytes: 1000}, "a0 a1 B0", false, false, "c0", "ga a1 B0 c0"},
		{"one newest of each tag", Limits{Frames: 1, Bytes: 1000}, "a0 a1 b0 b1 c0", false, false, "D0", "D0, ga a1 gb b1 c0"},
		{"also where only the latest counts", Limits{Frames: 1, Bytes: 1000}, "a0 b0", true, false, "C0", "C0, a0 b0"},
		{"and to a plain client", Limits{Frames: 1, Bytes: 1000}, "a0 a1 b0", false, true, "C0", "C0, a1 b0"},
		{"nothing may be dropped", Limits{Frames: 3, Bytes: 1000}, "A0 B0 A1", false, false, "c0", "full"},
		{"nothing may be dropped, for what is never", Limits{Frames: 3, Bytes: 1000}, "A0 B0 A1", false, false, "C0", "full"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, conn := stuckBox(t, Limits{Frames: 1 << 20, Bytes: 1 << 20})
			if tt.silent {
				b.HideGaps()
			}
			ts := tags{latest: tt.latest}
			for name := range strings.SplitSeq(tt.queued, " ") {
				if err := add(b, ts.frame(name)); err != nil {
					t.Fatal(err)
				}
			}
			b.writers.limits.Frames, b.writers.limits.Bytes = tt.limits.Frames, tt.limits.Bytes
			err := add(b, ts.frame(tt.added))
			queued, got := waiting(b)
			if tt.want == "full" {
				if err != ErrFull || got != tt.queued {
					t.Fatalf("%v, and %q waits", err, got)
				}
			} else if err != nil || got != tt.want {
				t.Fatalf("%v, and %q waits; want %q", err, got, tt.want)
			}
			frames, bytes := b.Queued()
			all := len(strings.Fields(queued))
			b.mu.Lock()
			entries := 0
			if b.queue != nil {
				entries = b.queue.len()
			}
			b.mu.Unlock()
			if frames != entries+1 || bytes != 4*all+2 {
				t.Errorf("%d frames and %d bytes counted for %q", frames, bytes, got)
			}
			if frames-1 > tt.limits.Frames || bytes > tt.limits.Bytes {
				t.Errorf("%d frames, %d bytes: beyond the bounds", frames, bytes)
			}
			close(conn.letGo)
			waitIdle(t, b)
		})
	}
}

// When as many frames as the bound allows are being written, one more frame may wait. Later frames
// replace it.
func TestTheNewestWaitsBesideWhatIsBeingWritten(t *testing.T) {
	b, conn := stuckBox(t, Limits{Frames: 1, Bytes: 1 << 20})
	ts := tags{latest: true}
	for i := range 4 {
		if err := add(b, ts.frame(fmt.Sprint("a", i))); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprint("ga a", i)
		if i == 0 {
			want = "a0"
		}
		if _, got := waiting(b); got != want {
			t.Fatalf("%q waits, want %q", got, want)
		}
	}
	close(conn.letGo)
	waitIdle(t, b)
}

// A caller that waits for space is woken when the queue is half empty, and when the box is closed.
func TestSpaceIsTold(t *testing.T) {
	b, conn := stuckBox(t, Limits{Frames: 3, Bytes: 1 << 20})
	ts := tags{}
	for _, name := range []string{"A0", "A1", "A2"} {
		if err := add(b, ts.frame(name)); err != nil {
			t.Fatal(err)
		}
	}
	var list List
	wait, err := b.AddOrWait(ts.frame("A3"), &list)
	if wait == nil || err != nil {
		t.Fatal(wait, err)
	}
	room := b.HalfFree()
	select {
	case <-wait:
		t.Fatal("woken too early")
	case <-room:
		t.Fatal("woken too early")
	default:
	}
	close(conn.letGo)
	<-wait
	<-room
	waitIdle(t, b)
	if wait, err := b.AddOrWait(ts.frame("A3"), &list); wait != nil || err != nil || b.HalfFree() != nil {
		t.Fatal(wait, err)
	}

	b, conn = stuckBox(t, Limits{Frames: 1, Bytes: 1 << 20})
	add(b, ts.frame("A0"))
	wait, _ = b.AddOrWait(ts.frame("A1"), &list)
	b.Kill()
	<-wait
	if _, err := b.AddOrWait(ts.frame("A1"), &list); err != ErrClosed {
		t.Fatal(err)
	}
	close(conn.letGo)
}

// A frame that has stepped aside is sent when there is space, before newer frames of its tag.
func TestWhatSteppedAsideComesBack(t *testing.T) {
	tests := []struct{ name, added, want string }{
		{"when there is space", "a0 b0 C0 D0", "C0 D0 a0 b0"},
		{"with its gap", "a0 a1 B0 C0", "B0 C0 ga a1"},
		{"unless a newer comes", "a0 B0 a1 C0", "B0 C0 ga a1"},
		{"nor when a newer does not fit", "a0 B0 C0 a1", "B0 C0"}, // ErrFull: the caller sees to it
		{"before what answers the client", "a0 B0 C0 !a ?R", "B0 C0 a0 R"},
		{"what waits before an answer leaves its gap there", "a0 !a ?R B0", "ga R"},
		{"or stays, if whoever answers can wait", "a0 a1 !a ?R", "a0 a1 R"},
		{"also one of two", "a0 a1 !a B0", "ga a1 B0"},
		{"before a close frame", "a0 B0 C0 close", "B0 C0 a0 close"},
		{"not when all is discarded", "a0 B0 C0 discard", "close"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, conn := stuckBox(t, Limits{Frames: 2, Bytes: 1 << 20})
			ts := tags{}
			var later []func()
			for name := range strings.SplitSeq(tt.added, " ") {
				switch {
				case name[0] == '!':
					b.Settle(ts.known[name[1:]])
				case name[0] == '?': // waits for space
					var list List
					f := frame.Text([]byte(name[1:]))
					wait, _ := b.AddOrWait(f, &list)
					if wait != nil {
						later = append(later, func() {
							<-wait
							if again, err := b.AddOrWait(f, &list); again != nil || err != nil {
								t.Error(again, err)
							}
							b.writers.Write(&list)
						})
					}
				case name == "close", name == "discard":
					b.Close(name == "discard", frame.Text([]byte("close")))
				default:
					add(b, ts.frame(name))
				}
			}
			close(conn.letGo)
			for _, f := range later {
				f()
			}
			if strings.HasSuffix(tt.want, "close") {
				for deadline := time.Now().Add(patience); !strings.HasSuffix(conn.texts(), "close") && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond)
				}
				b.Kill()
			} else {
				waitIdle(t, b)
			}
			if got := conn.texts(); got != tt.want {
				t.Errorf("sent were %q, want %q", got, tt.want)
			}
		})
	}
}
