package live

import (
	"fmt"
	"reflect"
	"testing"
)

func TestOnlyTheNewestEndsAreRemembered(t *testing.T) {
	var r endRing
	added := 0
	for _, n := range []int{0, 1, 2, maxEnds - 1, maxEnds, maxEnds + 1, maxEnds + 500, 2*maxEnds + 7} {
		for ; added < n; added++ {
			r.add(SessionEnd{SessionID: fmt.Sprint(added)})
		}
		all := r.newestFirst()
		if want := min(n, maxEnds); len(all) != want {
			t.Fatalf("of %d ends %d are remembered, want %d", n, len(all), want)
		}
		for i := range all {
			if want := fmt.Sprint(n - 1 - i); all[i].SessionID != want {
				t.Fatalf("after %d ends number %d from the newest is %q, want %q", n, i, all[i].SessionID, want)
			}
		}
	}
}

// The names in SessionEnd.Why are those under which Stats counts the ends.
func TestEachReasonHasTheNameOfItsCount(t *testing.T) {
	for why := range closeReasons {
		var c closedCounters
		c[why].Add(1)
		by, _ := c.figures()
		field := reflect.ValueOf(by).FieldByName(whyNames[why])
		if !field.IsValid() || field.Uint() != 1 {
			t.Errorf("reason %d has the name %q, but counts in %+v", why, whyNames[why], by)
		}
	}
}
