package websession

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A deletion by another program is noticed within 30 s. Servers that start together do not all ask
// the store at the same time.
func TestRevalidationIsInTimeAndSpread(t *testing.T) {
	m := New(nil, Options{})
	least, most := time.Hour, time.Duration(0)
	for range 10_000 {
		wait := m.untilRevalidation()
		least, most = min(least, wait), max(most, wait)
	}
	if most > 29*time.Second || least > 21*time.Second || least < 15*time.Second {
		t.Errorf("after %v to %v", least, most)
	}
}

// A visitor who never got the new cookie is refused only for a moment. After that the visitor
// counts as a client without a session.
func TestARenewalSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e endings
		e.byFingerprint = make(map[string]ending)
		e.add("a", renewed)
		e.add("b", destroyed)
		time.Sleep(refuseOldTokenFor - time.Second)
		e.add("a", renewed) // the broadcast of the same
		if !e.justRenewed("a") || e.justRenewed("b") || e.justRenewed("c") {
			t.Error("too early")
		}
		time.Sleep(time.Second)
		if e.justRenewed("a") || e.how("a") != renewed {
			t.Error("too late")
		}
		time.Sleep(rememberFor)
		e.add("c", destroyed)
		if len(e.renewals) > 0 {
			t.Errorf("%d are remembered", len(e.renewals))
		}
	})
}

// An ended session is remembered as long as something may still write it, and then forgotten.
func TestEndingsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := endings{byFingerprint: make(map[string]ending)}
		e.add("a", destroyed)
		time.Sleep(rememberFor)
		e.add("b", renewed)
		if e.how("a") != destroyed || e.how("b") != renewed || e.has("c") {
			t.Error("too early")
		}
		time.Sleep(time.Second)
		e.add("c", destroyed)
		if e.has("a") || !e.has("b") || len(e.order) != 2 {
			t.Error("too late")
		}
		for i := range maxRemembered + 10 {
			e.add(fmt.Sprint(i), destroyed)
		}
		if len(e.order) > maxRemembered || len(e.byFingerprint) > maxRemembered {
			t.Errorf("%d are remembered", len(e.order))
		}
	})
}

// A deletion that failed leaves nothing behind that shortens the memory of the next one.
func TestEndingThatFailedAtFirstIsRememberedAsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e endings
		e.byFingerprint = make(map[string]ending)
		e.add("a", destroyed)
		e.forget("a")
		time.Sleep(rememberFor - time.Second)
		e.add("a", destroyed)
		time.Sleep(2 * time.Second)
		e.add("b", destroyed) // drops what is old
		if e.how("a") != destroyed {
			t.Error("the deletion is forgotten too early")
		}
	})
}
