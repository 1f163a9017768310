package load

import (
	"strings"
	"testing"

	"github.com/livetopic/livetopic/bench/wire"
)

func TestDeliveriesAreChecked(t *testing.T) {
	mark := func(stream, seq uint32) wire.Mark { return wire.Mark{Stream: stream, Seq: seq} }
	for _, c := range []struct {
		name  string
		marks []wire.Mark
		want  string // in the error; empty: none
	}{
		{"in order", []wire.Mark{mark(3, 0), mark(3, 1), mark(8, 0), mark(3, 2), mark(9, 0)}, ""},
		{"in turn", []wire.Mark{mark(3, 0), mark(8, 0), mark(9, 0), mark(3, 1), mark(8, 1)}, ""},
		{"lost", []wire.Mark{mark(3, 0), mark(3, 2)}, "lost"},
		{"first one lost", []wire.Mark{mark(8, 1)}, "lost"},
		{"twice", []wire.Mark{mark(3, 0), mark(3, 1), mark(3, 1)}, "duplicate"},
		{"of another topic", []wire.Mark{mark(3, 0), mark(4, 0)}, "did not subscribe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := conn{Session: Session{Streams: []uint32{3, 8, 9}}, next: make([]uint32, 3)}
			var err error
			for _, m := range c.marks {
				if err = conn.check(m); err != nil {
					break
				}
			}
			if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
