package natsbroker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// serve starts a live server over a broker. It is closed at the end of the test.
func serve(t *testing.T, b *Broker, topics func(string) live.TopicOptions) *live.Server {
	t.Helper()
	s := live.New(live.Options{Broker: b, Topics: topics, Logger: quiet()})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Shutdown(ctx)
	})
	return s
}

// A program that has only TopicOptions moves to NATS with one option, and its publications are
// still there after a restart.
func TestTopicsWithHistoryNeedNoStream(t *testing.T) {
	dir := t.TempDir()
	topics := func(topic string) live.TopicOptions {
		if strings.HasPrefix(topic, "room:") {
			return live.TopicOptions{History: 10}
		}
		return live.TopicOptions{}
	}
	for run := range 3 {
		b, err := New(Options{StoreDir: dir, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		s := live.New(live.Options{Broker: b, Topics: topics, Logger: quiet()})
		if err := live.Publish(s, "room:a", run); err != nil {
			t.Fatal(err)
		}
		got, err := live.History[int](t.Context(), s, "room:a", 10)
		if err != nil {
			t.Fatal(err)
		}
		if want := []int{0, 1, 2}[:run+1]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("run %d: the history is %v, want %v", run, got, want)
		}
		if _, err := s.History(t.Context(), "other", 10); err == nil {
			t.Error("a topic without history has one")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := s.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
}

// All publications of a topic may be too old, and the stream full of other topics. A subscriber
// that has seen them all has missed nothing.
func TestTopicThatIsQuietForLongHasNoGap(t *testing.T) {
	t.Parallel()
	b := open(t, Options{Streams: []StreamConfig{{Name: "S", Subjects: []string{"s.>"}, MaxAge: 500 * time.Millisecond}}})
	b.Start(devNull{})
	ctx := t.Context()
	publish := func(topic string) live.Position {
		t.Helper()
		at, err := b.Publish(ctx, topic, []byte("1"), broker.PublishOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if err := b.Subscribe(ctx, "s.quiet"); err != nil {
		t.Fatal(err)
	}
	at := publish("s.quiet")
	check := func() live.Position {
		t.Helper()
		last, err := b.Last(ctx, "s.quiet")
		if err != nil {
			t.Fatal(err)
		}
		page, err := b.Read(ctx, "s.quiet", at.Offset, last.Offset, 10)
		if err != nil {
			t.Fatal(err)
		}
		if !page.Complete || page.Upto < last.Offset || len(page.Publications) > 0 {
			t.Fatalf("from %d to %d: %d publications, complete %v, up to %d", at.Offset, last.Offset, len(page.Publications), page.Complete, page.Upto)
		}
		return last
	}
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		publish("s.busy")
		at = check() // the server does this now and then
		time.Sleep(20 * time.Millisecond)
	}
	page, err := b.Tail(ctx, "s.quiet", 10)
	if err != nil || len(page.Publications) > 0 {
		t.Fatalf("%d publications are there still, %v", len(page.Publications), err)
	}
	// A subscriber that has not looked for longer than publications are kept cannot know.
	for deadline := time.Now().Add(1200 * time.Millisecond); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		publish("s.busy")
	}
	last, err := b.Last(ctx, "s.other") // the newest of the stream
	if err != nil {
		t.Fatal(err)
	}
	if page, err := b.Read(ctx, "s.other", 1, last.Offset, 10); err != nil || page.Complete {
		t.Errorf("what was dropped unseen is taken for complete: %+v, %v", page, err)
	}
}
