package natsbroker

import (
	"context"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

// leaderSays lets a stream's leader have said that it is so much later.
func leaderSays(st *stream, later time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.state.leaderTime = st.state.leaderTime.Add(later)
}

// A newcomer is sent what is no older than the topic keeps it, by the clock of the stream's
// leader, which has stamped it. What came before is there for those that have missed it.
func TestNewestAreNoOlderThanTheLeaderSays(t *testing.T) {
	b := open(t, Options{})
	s := serve(t, b, func(string) live.TopicOptions { return live.TopicOptions{History: 10, HistoryAge: time.Hour} })
	for range 3 {
		if err := s.Publish("room:1", []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	_, st := b.streamOf("room:1")
	expect := func(n int) {
		t.Helper()
		page, err := b.Tail(t.Context(), "room:1", 10)
		if err != nil || len(page.Publications) != n || page.Upto != 3 {
			t.Errorf("the newest are %d up to %d, %v; want %d", len(page.Publications), page.Upto, err, n)
		}
	}
	for later, n := range map[time.Duration]int{0: 3, -3 * time.Hour: 3, 30 * time.Minute: 3, 2 * time.Hour: 0} {
		if _, err := st.stateSince(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		leaderSays(st, later)
		expect(n)
	}
	page, err := b.Read(context.Background(), "room:1", 1, 3, 10)
	if err != nil || len(page.Publications) != 2 || !page.Complete {
		t.Errorf("who was there is sent %d, complete %v, %v", len(page.Publications), page.Complete, err)
	}
}
