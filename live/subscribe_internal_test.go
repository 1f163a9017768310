package live

import "testing"

// Every handshake subscribes, in most applications.
func TestSubscribeWithoutOptionsAllocatesNoOptions(t *testing.T) {
	srv := New(Options{})
	sess := &Session{server: srv}
	subscribe := func() {
		if err := srv.Subscribe(sess, "t"); err != nil {
			t.Fatal(err)
		}
	}
	subscribe() // from here on it is subscribed, so nothing else is allocated
	if allocs := testing.AllocsPerRun(100, subscribe); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
