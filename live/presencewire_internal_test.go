package live

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live/internal/presence"
)

// Whatever the sizes are, each member is in one frame, and no frame is empty.
func TestDifferencesAreCutBetweenMembers(t *testing.T) {
	var d presence.Diff
	for i := range 30 {
		infos := [][]byte{[]byte(`"` + strings.Repeat("x", i*10) + `"`), nil}
		d.Joined = append(d.Joined, presence.Member{ID: fmt.Sprint("joined ", i), Sessions: infos})
		d.Changed = append(d.Changed, presence.Member{ID: fmt.Sprint("changed ", i), Sessions: infos})
		d.Left = append(d.Left, fmt.Sprint("left ", i))
	}
	for _, name := range []string{"t", strings.Repeat("\x01", 255)} {
		for _, size := range []int{1, 300, minPartBytes, 4000, 1 << 20} {
			seen := make(map[string]int)
			frames := differenceFrames(&topic{name: name}, &d, size)
			for _, f := range frames {
				text := f.Bytes()
				var got struct {
					Joined, Changed []struct {
						ID       string
						Sessions []json.RawMessage
					}
					Left []string
				}
				if err := json.Unmarshal(text[strings.IndexByte(string(text), '{'):], &got); err != nil {
					t.Fatal(err)
				}
				for _, m := range append(got.Joined, got.Changed...) {
					seen[m.ID]++
					if len(m.Sessions) != 2 {
						t.Errorf("%s has %d sessions", m.ID, len(m.Sessions))
					}
				}
				for _, id := range got.Left {
					seen[id]++
				}
				if n := len(got.Joined) + len(got.Changed) + len(got.Left); n == 0 || n > 1 && len(text) > size+len(presenceHead(&topic{name: name}))+64 {
					t.Errorf("%d members in %d bytes", n, len(text))
				}
			}
			if len(seen) != 90 || size == 1<<20 && len(frames) != 1 {
				t.Errorf("%d members in %d frames", len(seen), len(frames))
			}
			for id, n := range seen {
				if n != 1 {
					t.Errorf("%s is there %d times", id, n)
				}
			}
		}
	}
}
