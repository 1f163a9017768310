package liveclient

import "testing"

// Gaps that nothing lies between are one, so that they do not pile up for a stuck callback.
func TestGapsInARowAreOne(t *testing.T) {
	c, _ := unconnected(t, Options{})
	s, err := c.Subscribe("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.running = true // nothing takes what waits
	for range 3 {
		s.gap(GapLost)
	}
	if len(s.queue) != 1 {
		t.Errorf("%d gaps wait", len(s.queue))
	}
	s.enqueue(event{kind: eventMessage})
	s.gap(GapLost)
	if len(s.queue) != 3 {
		t.Errorf("%d events wait, want a gap, a message and a gap", len(s.queue))
	}
}
