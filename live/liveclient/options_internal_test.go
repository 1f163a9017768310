package liveclient

import (
	"fmt"
	"testing"
)

// Negative numbers are as zero, except those that mean something.
func TestNegativeOptionsAreDefaults(t *testing.T) {
	want := Options{CallTimeout: -1, MaxWaiting: -1}.withDefaults()
	got := Options{
		MinBackoff: -1, MaxBackoff: -1, StableAfter: -1, ConnectTimeout: -1, CallTimeout: -1, CloseTimeout: -1,
		MaxWaiting: -1, MaxUnsent: -1, QueueSize: -1, QueueBytes: -1, ReadLimit: -1,
	}.withDefaults()
	if a, b := numbersOf(got), numbersOf(want); a != b {
		t.Errorf("got  %s\nwant %s", a, b)
	}
}

func numbersOf(o Options) string {
	return fmt.Sprint(o.MinBackoff, o.MaxBackoff, o.StableAfter, o.ConnectTimeout, o.CallTimeout, o.CloseTimeout,
		o.MaxWaiting, o.MaxUnsent, o.QueueSize, o.QueueBytes, o.ReadLimit)
}
