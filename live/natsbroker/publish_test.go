package natsbroker

import (
	"testing"
	"time"
)

// A leader may die after it has stored a publication and before it has republished it. The
// second attempt is told that it was stored, and must still reach the subscribers.
func TestStoredButNotSentOnArrives(t *testing.T) {
	t.Parallel()
	in := runInstance(t, 0, open(t, Options{Streams: []StreamConfig{chat}}), nil)
	v := view(t, room, in)
	p := &press{topic: room, name: "p"}
	p.publish(in)
	in.awaitSettled(t)

	js := streamsOf(t, in.broker.server)
	s, err := js.Stream(t.Context(), "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	whole := s.CachedInfo().Config
	mute := whole
	mute.NoAck, mute.RePublish = true, nil
	if _, err := js.UpdateStream(t.Context(), mute); err != nil {
		t.Fatal(err)
	}
	acknowledged := make(chan error, 1)
	go func() { acknowledged <- p.publish(in) }() // ends with PublishTimeout
	stored := func() int { return len(contents(t, in.broker.server, "CHAT", roomStored)) }
	waitFor(t, "the publication to be stored", func() bool { return stored() == 2 })
	if _, err := js.UpdateStream(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	if err := <-acknowledged; err != nil {
		t.Fatal(err)
	}
	all := contents(t, in.broker.server, "CHAT", roomStored)
	began := time.Now()
	v.awaitLast(t, all)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it came after %v", d)
	}
	v.verifyWhole(t, all)
	verifyStored(t, all, p)
}
