package inspector_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// listen makes a server have topics without clients.
func listen(t *testing.T, server *live.Server, topics ...string) {
	for _, topic := range topics {
		s, err := server.Listen(topic, func(live.Message) {})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Unsubscribe() })
	}
}

func publish(t *testing.T, server *live.Server, topic string, n int) {
	for range n {
		if err := server.Publish(topic, []byte(`"hello"`)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBusiestTopicIsTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet})
		listen(t, server, "quiet", "busy", "old")
		publish(t, server, "old", 1000)
		p := open(t, server, everything)
		look := func() []row { return get[table](p, "topics", "sort", "rate", "desc", "1").Rows }
		if first := look()[0]; first.Rate != -1 || first.Topic != "old" {
			t.Errorf("at the first look no rate is known, and the topic with the most publications comes first: %+v", first)
		}
		publish(t, server, "busy", 60)
		publish(t, server, "quiet", 3)
		time.Sleep(2 * time.Second)
		for _, want := range []row{{Topic: "busy", Rate: 30, Published: 60}, {Topic: "quiet", Rate: 1.5, Published: 3}, {Topic: "old", Rate: 0, Published: 1000}} {
			found := get[table](p, "topics", "search", want.Topic).Rows[0]
			if found.Rate != want.Rate || found.Published != want.Published {
				t.Errorf("%s: %v a second of %d, want %v of %d", want.Topic, found.Rate, found.Published, want.Rate, want.Published)
			}
		}
		// Another person looks between two samples. The rate is the same.
		time.Sleep(500 * time.Millisecond)
		publish(t, server, "quiet", 1000)
		if rows := look(); rows[0].Topic != "busy" || rows[1].Topic != "quiet" || rows[2].Topic != "old" || rows[0].Rate != 30 {
			t.Errorf("half a second later: %+v", rows)
		}
	})
}

// A topic with few publications and many subscribers costs more than one with many and few.
func TestTopicWithTheMostDeliveriesIsFound(t *testing.T) {
	t.Parallel()
	opts, sessions := named(live.Options{})
	h := livetest.Hosting{}.Start(t, opts)
	for i := range 3 {
		livetest.Dial(t, h.Endpoint)
		s := livetest.Receive(t, sessions)
		h.Subscribe(s, "all")
		if i == 0 {
			h.Subscribe(s, "own")
		}
	}
	p := open(t, h.Server, everything)
	look := func() []row { return get[table](p, "topics", "sort", "deliveries", "desc", "1").Rows }
	if first := look()[0]; first.Deliveries != -1 || first.Topic != "all" {
		t.Errorf("at the first look no rate is known, and the topic with the most subscribers comes first: %+v", first)
	}
	publish(t, h.Server, "all", 10)
	publish(t, h.Server, "own", 20)
	var rows []row
	livetest.Eventually(t, "the rates", func() bool { rows = look(); return rows[0].Rate > 0 })
	if all, own := rows[0], rows[1]; all.Topic != "all" || all.Deliveries != 3*all.Rate || own.Deliveries != own.Rate || own.Rate <= all.Rate {
		t.Errorf("the topics are %+v", rows)
	}
}

func TestTopicsCanBeSortedByEachColumn(t *testing.T) {
	t.Parallel()
	opts, sessions := named(live.Options{Topics: livetest.Keeping("b", live.TopicOptions{History: 10, Presence: live.PresenceVisible})})
	h := livetest.Hosting{}.Start(t, opts)
	livetest.Dial(t, h.With("user=ann"))
	s := livetest.Receive(t, sessions)
	listen(t, h.Server, "a", "b", "c")
	for _, topic := range []string{"b", "c"} {
		h.Subscribe(s, topic)
	}
	publish(t, h.Server, "b", 3)
	publish(t, h.Server, "c", 5)
	p := open(t, h.Server, everything)
	for column, want := range map[string]string{
		"topic": "c b a", "published": "c b a", "subscribers": "b c a", "presence": "b a c", "catchingUp": "a b c", "unknown": "c b a",
	} {
		got := ""
		for _, row := range get[table](p, "topics", "sort", column, "desc", "1").Rows {
			got += " " + row.Topic
		}
		if got[1:] != want {
			t.Errorf("by %s the topics are%s, want %s", column, got, want)
		}
	}
	b := get[table](p, "topics", "search", "b").Rows[0]
	if b.Held != 3 || b.Present != 1 || b.Listeners != 1 || b.Position == "" || b.Span < 0 {
		t.Errorf("b: %+v", b)
	}
}

// Nothing of a look stays when nobody looks any more. A goroutine that stays fails the test: the bubble
// waits for it.
func TestLooksLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := livetest.NewServer(t, live.Options{})
		const topics = 4000
		for i := range topics {
			listen(t, server, fmt.Sprint("topic ", i))
		}
		p := open(t, server, everything)
		look := func() {
			for _, part := range []string{"figures", "sessions", "topics", "ends"} {
				get[object](p, part)
			}
			get[object](p, "tail", "topic", "topic 7")
		}
		heap := func() int {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC() // for what a sync.Pool held
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc)
		}
		look()
		time.Sleep(time.Minute)
		before := heap()
		for range 10 {
			look()
			publish(t, server, "topic 7", 20)
			time.Sleep(2 * time.Second)
		}
		if st, _ := server.TopicStats("topic 7"); st.Listeners != 2 {
			t.Errorf("while somebody follows the topic it has %d listeners, want 2", st.Listeners)
		}
		during := heap()
		time.Sleep(time.Minute)
		synctest.Wait()
		if st, _ := server.TopicStats("topic 7"); st.Listeners != 1 {
			t.Errorf("when nobody follows the topic it has %d listeners, want 1", st.Listeners)
		}
		const least = 30 * topics // bytes that the samples of the rates take at least
		if during-before < least {
			t.Errorf("during the looks the heap grew by %d bytes: this test sees nothing", during-before)
		}
		if grown := heap() - before; grown > least/2 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
	})
}
