package inspector_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

func TestPageTellsWhyAUserWasThrownOut(t *testing.T) {
	t.Parallel()
	opts, sessions := named(live.Options{})
	h := livetest.Hosting{}.Start(t, opts)
	p := open(t, h.Server, everything)
	if none := get[table](p, "ends"); none.Rows == nil || none.Total != 0 {
		t.Errorf("before any end: %+v", none)
	}
	for i, user := range []string{"ann", "bob", "cid", "dan"} {
		c := livetest.Connect(t, h.With("user="+user), livetest.Dialing{})
		s := livetest.Receive(t, sessions)
		switch user {
		case "ann":
			h.DisconnectUser("ann", "banned")
		case "bob":
			s.Disconnect(3456, "moved")
		default:
			c.Close(1001, "")
		}
		livetest.Eventually(t, "the end of "+user, func() bool { return len(h.RecentEnds()) == i+1 })
	}
	all := get[table](p, "ends")
	if all.Total != 4 || all.Rows[0].User != "dan" || all.Rows[3].User != "ann" {
		t.Errorf("the newest comes first: %+v", all)
	}
	if want := map[string]int{"Thrown out or signed out": 1, "Closed by the application": 1, "Client left": 2}; !reflect.DeepEqual(all.Kinds, want) {
		t.Errorf("the kinds are %v, want %v", all.Kinds, want)
	}
	for search, want := range map[string]string{"Ann": "ann", "3456": "bob", "MOVED": "bob", "signed out": "ann"} {
		found := get[table](p, "ends", "search", search)
		if found.Matched != 1 || found.Rows[0].User != want {
			t.Errorf("%q finds %+v, want %s", search, found.Rows, want)
		}
	}
	ann := get[table](p, "ends", "search", "ann").Rows[0]
	if ann.Kind != "Thrown out or signed out" || ann.Code != live.CloseRevoked || ann.Reason != "banned" || ann.Meaning == "" || ann.Session == "" {
		t.Errorf("ann: %+v", ann)
	}
	if left := get[table](p, "ends", "kind", "Client left", "sort", "user"); left.Matched != 2 || left.Rows[0].User != "cid" || left.Kinds["Thrown out or signed out"] != 1 {
		t.Errorf("those who left: %+v", left)
	}
	if oldest := get[table](p, "ends", "sort", "time"); oldest.Rows[0].User != "ann" {
		t.Errorf("the oldest is %+v", oldest.Rows[0])
	}
}

// Each reason that a session can have for its end is explained, in words of its own.
func TestEachReasonIsExplained(t *testing.T) {
	seen := make(map[string]string)
	for field := range reflect.TypeFor[live.Closings]().Fields() {
		kind, meaning := inspector.KindOf(&live.SessionEnd{Why: field.Name})
		if meaning == "" || seen[kind] != "" {
			t.Errorf("%s is explained as %q: %q, and %q is %s already", field.Name, kind, meaning, kind, seen[kind])
		}
		seen[kind] = field.Name
	}
	if kind, _ := inspector.KindOf(&live.SessionEnd{Why: "New"}); kind != "New" {
		t.Errorf("a reason that is not known yet is called %q", kind)
	}
	if len(seen) < 10 {
		t.Error(fmt.Sprint("only ", seen))
	}
}
