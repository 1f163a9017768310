package outbox

import (
	"fmt"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// waiting returns what is queued, by the frames' payloads; a gap stands before the frame
// that it is sent with.
func waiting(b *Box) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	if b.queue != nil {
		for _, f := range b.queue.waiting() {
			if f.Gap() != nil {
				all = append(all, string(f.Gap().Bytes()[2:]))
			}
			all = append(all, string(f.Bytes()[2:]))
		}
	}
	return strings.Join(all, " ")
}

// stuckBox is a box that writes an empty frame, without an end.
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

// tags gives frames their tags: a0 has tag a. Those of a big letter are never dropped.
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

// Besides what waits an empty frame of two bytes is being written. Each other takes four.
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
		{"the gap stays where nothing of the tag follows", Limits{Frames: 3, Bytes: 1000}, "b0 a0 a1", false, false, "C0", "gb ga a1 C0"},
		{"others make space for a tag that has nothing there", Limits{Frames: 3, Bytes: 1000}, "a0 a1 B0", false, false, "c0", "ga a1 B0 c0"},
		{"one gap serves for more that are dropped", Limits{Frames: 3, Bytes: 1000}, "ga a0 B0", false, false, "C0", "ga B0 C0"},
		{"a gap that waits alone goes with the next", Limits{Frames: 2, Bytes: 1000}, "ga B0", false, false, "a1", "B0 ga a1"},
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
				f := ts.frame(name)
				if name[0] == 'g' {
					f = ts.frame(name[1:] + "0").Tag.Gap
				}
				if err := add(b, f); err != nil {
					t.Fatal(err)
				}
			}
			b.writers.limits.Frames, b.writers.limits.Bytes = tt.limits.Frames, tt.limits.Bytes
			err := add(b, ts.frame(tt.added))
			got := waiting(b)
			if tt.want == "full" {
				if err != ErrFull || got != tt.queued {
					t.Fatalf("%v, and %q waits", err, got)
				}
			} else if err != nil || got != tt.want {
				t.Fatalf("%v, and %q waits; want %q", err, got, tt.want)
			}
			frames, bytes := b.Queued()
			all := len(strings.Fields(got))
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

// When everything that the bound allows is being written, the next frame waits, and those
// after that displace it.
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
		if got := waiting(b); got != want {
			t.Fatalf("%q waits, want %q", got, want)
		}
	}
	close(conn.letGo)
	waitIdle(t, b)
}

// Whoever waits for space is woken when the queue is half empty, and when it is closed.
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
	room := b.Roomy()
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
	if wait, err := b.AddOrWait(ts.frame("A3"), &list); wait != nil || err != nil || b.Roomy() != nil {
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
