package outbox

import (
	"fmt"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live/internal/frame"
)

// waiting returns what is queued, by the frames' payloads.
func waiting(b *Box) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	if b.queue != nil {
		for _, f := range b.queue.frames[b.queue.head:] {
			all = append(all, string(f.Bytes()[2:]))
		}
	}
	return strings.Join(all, " ")
}

func TestDisplace(t *testing.T) {
	tests := []struct {
		name   string
		limits Limits
		queued string // a letter is a tag, a digit the frame
		all    bool
		gap    bool
		want   string // a2 is added
	}{
		{"the oldest goes", Limits{Frames: 4, Bytes: 1000}, "a0 b0 a1", false, true, "ga b0 a1 a2"},
		{"without a gap frame", Limits{Frames: 4, Bytes: 1000}, "a0 b0 a1", false, false, "b0 a1 a2"},
		{"one gap serves for the next too", Limits{Frames: 4, Bytes: 1000}, "ga a0 b0 a1", false, true, "ga b0 a1 a2"},
		{"all go", Limits{Frames: 4, Bytes: 1000}, "a0 b0 a1", true, true, "ga b0 a2"},
		{"as many as the bytes need", Limits{Frames: 100, Bytes: 8}, "a0 b0", false, true, "ga b0 a2"},
		{"beyond the bound if nothing of its own waits", Limits{Frames: 4, Bytes: 1000}, "b0 c0 b1", false, true, "b0 c0 b1 a2"},
		{"beyond the bound if that is not enough", Limits{Frames: 100, Bytes: 9}, "a0 b0", false, true, "ga b0 a2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := newStuck()
			w := NewWriters(Limits{Frames: 1 << 20, Bytes: 1 << 20, WriteTimeout: patience, FlushTimeout: patience, CloseTimeout: patience})
			var b Box
			b.Init(w, conn, func(error) {})
			if err := add(&b, frame.Text(nil)); err != nil { // it is being written while the others wait
				t.Fatal(err)
			}
			<-conn.entered
			tagged := func(name string) *frame.Frame {
				f := frame.Text([]byte(name))
				f.Tag = name[:1]
				if name[0] == 'g' {
					f.Tag, f.Free, f.Gap = name[1:], true, true
				}
				return f
			}
			for name := range strings.SplitSeq(tt.queued, " ") {
				if err := add(&b, tagged(name)); err != nil {
					t.Fatal(err)
				}
			}
			w.limits.Frames, w.limits.Bytes = tt.limits.Frames, tt.limits.Bytes+2 // the one that is being written

			var gap *frame.Frame
			if tt.gap {
				gap = tagged("ga")
			}
			var list List
			err := b.Displace(tagged("a2"), tt.all, gap, &list)
			if got := waiting(&b); err != nil || got != tt.want {
				t.Fatalf("got %q, %v; want %q", got, err, tt.want)
			}
			all := len(strings.Fields(waiting(&b)))
			gaps := strings.Count(waiting(&b), "g")
			if frames, bytes := b.Queued(); frames != all+1 || bytes != 4*all+2 || b.frames != all-gaps+1 {
				t.Errorf("%d frames, %d bytes, %d counted for %q", frames, bytes, b.frames, waiting(&b))
			}
			close(conn.letGo)
			waitIdle(t, &b)
		})
	}
}

// When everything that the bound allows is being written, nothing can be dropped:
// the next frame waits beyond it, and those after that displace it.
func TestDisplaceWhenAllIsBeingWritten(t *testing.T) {
	conn := newStuck()
	var b Box
	limits := generous
	limits.Frames = 1
	b.Init(NewWriters(limits), conn, func(error) {})
	add(&b, frame.Text([]byte("a0")))
	<-conn.entered
	for i := 1; i < 4; i++ {
		f := frame.Text(fmt.Append(nil, "a", i))
		f.Tag = "a"
		var list List
		if err := b.Add(f, &list); err != ErrFull {
			t.Fatal(err)
		}
		if err := b.Displace(f, true, nil, &list); err != nil {
			t.Fatal(err)
		}
		if got := waiting(&b); got != fmt.Sprint("a", i) {
			t.Fatalf("%q waits", got)
		}
	}
	close(conn.letGo)
	waitIdle(t, &b)
}
