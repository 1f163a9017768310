package live_test

import (
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
)

func TestSessionWithAsManyTopicsAsItMayHave(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.MaxTopics = 2
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	c.Must(livetest.SubscribeTo(1, "a"))
	c.Must(livetest.SubscribeTo(2, "b"))
	livetest.Refused(t, "a third topic", c.Do(livetest.SubscribeTo(3, "c")), 3, "too_many_topics")
	c.Must(livetest.SubscribeTo(4, "b")) // has it already
	c.Must(livetest.UnsubscribeFrom(5, "a"))
	c.Must(livetest.SubscribeTo(6, "c"))
}
